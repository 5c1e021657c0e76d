"""Less memory for the same numbers: blocks computed anew, images apart from the device."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from acslib import checks, data, memory, models, selectors
from acslib.attacks import PGD
from acslib.data.sets import ImageSet
from acslib.objectives import AdversarialTraining, Trades, Vanilla
from acslib.schedule import plan
from acslib.training import State, Training, fit


@pytest.fixture(scope="module")
def few():
    return data.load("digits", train_limit=90, test_limit=30, validation_fraction=0.1)


def attack(model, images, labels):
    return PGD("linf", 0.1, 0.05, 2)(model, images, labels)


class Odd(nn.Module):
    """Draws in its pass, and buffers that each pass changes, in blocks within blocks."""

    def __init__(self):
        super().__init__()
        dense = nn.Sequential(spectral_norm(nn.Linear(64, 16)), nn.BatchNorm1d(16), nn.Dropout(0.3))
        self.body = nn.Sequential(
            nn.Flatten(), nn.Sequential(dense, nn.ReLU()), nn.Sequential(nn.Linear(16, 12))
        )
        self.head = nn.Linear(12, 10)

    def features(self, images):
        return self.body(images)

    def forward(self, images):
        return self.head(self.features(images))


NETS = {
    "resnet18": lambda: models.build("resnet18", channels=1, width=8, depths=(1, 2)),
    "resnet50": lambda: models.build("resnet50", channels=1, width=4, depths=(1, 1)),
    "wide": lambda: models.build("wideresnet28_10", channels=1, width=4, depths=(1, 1)),
    "odd": Odd,
}
OBJECTIVES = {"trades": Trades(attack), "linf": AdversarialTraining(attack), "clean": Vanilla()}


def trained(few, net, objective, **how):
    torch.manual_seed(0)
    model = NETS[net]().double() if how.pop("double", False) else NETS[net]()
    training = Training(
        OBJECTIVES[objective],
        plan(4, 0.5, 0.5, 2),
        torch.Generator(),
        selector=selectors.gradmatch,
        batch_size=16,
        monitor=8,
        **how,
    )
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    return fit(State(model, optimiser), few, training)


def assert_same(one, other):
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    quiet = ("recomputed", *(key for key in one.history[-1] if key.startswith("seconds")))
    for row, another in zip(one.history, other.history, strict=True):
        assert {k: v for k, v in row.items() if k not in quiet} == {
            k: v for k, v in another.items() if k not in quiet
        }


# ---- blocks


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("net", NETS)
def test_what_is_computed_anew_is_the_same_to_the_bit(few, net, objective):
    """Weights, BatchNorm's statistics, spectral norms and random draws."""
    whole, anew = (trained(few, net, objective, recompute=on) for on in (False, True))
    assert_same(whole, anew)
    assert all(row["recomputed"] for row in anew.history)
    assert not any("recomputed" in row for row in whole.history)
    assert not any("forward" in vars(module) for module in anew.model.modules())


@pytest.mark.parametrize("parts", [None, 5])
def test_gradients_in_double_precision_are_the_same(parts):
    """Of TRADES' two terms, one batch and in parts."""
    torch.manual_seed(0)
    model = NETS["resnet50"]().double()
    images, labels = torch.rand(10, 1, 8, 8, dtype=torch.float64), torch.arange(10)
    found = []
    for on in (False, True):
        model.zero_grad()
        for part in torch.arange(10).split(parts or 10):
            loss = Trades(attack).loss
            if on:
                with memory.recomputed(model):
                    losses = loss(model, images[part], labels[part], images[part].flip(3))
            else:
                losses = loss(model, images[part], labels[part], images[part].flip(3))
            losses.sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_blocks_are_the_outermost_ones():
    assert len(list(memory.blocks(NETS["resnet18"]()))) == 1 + 3  # the stem's pair, and the blocks
    assert len(list(memory.blocks(NETS["odd"]()))) == 2


@pytest.mark.parametrize("objective", ["trades", "linf"])
def test_less_is_kept(objective):
    torch.manual_seed(0)
    model = models.build("resnet50", width=8, depths=(2, 2), stem="imagenet")
    images, labels = torch.rand(4, 3, 64, 64), torch.arange(4)
    whole = memory.of_an_update(OBJECTIVES[objective], model, images, labels)
    with memory.recomputed(model):
        less = memory.of_an_update(OBJECTIVES[objective], model, images, labels)
    assert less < 0.5 * whole
    assert less > images[0].nbytes  # what is kept is seen


# ---- what fits


def test_blocks_are_computed_anew_where_memory_wants_it(few, monkeypatch):
    torch.manual_seed(0)
    model = models.build("resnet50", channels=1, width=8, depths=(3, 3)).eval()
    images, labels = few.train.float_images(slice(0, 4)), few.train.labels[:4]
    how = Training(OBJECTIVES["trades"], plan(4, 0.5, 0.5, 2), torch.Generator(), batch_size=48)
    whole = memory.of_an_update(how.objective, model, images, labels)
    with memory.recomputed(model):
        less = memory.of_an_update(how.objective, model, images, labels)

    def found(room, **changes):
        monkeypatch.setattr(memory, "total", lambda device: room)
        monkeypatch.setattr(memory, "free", lambda device: room)
        return memory.fits_only_recomputed(
            dataclasses.replace(how, **changes), model, images, labels
        )

    assert not found(60 * whole)
    assert found(40 * whole)
    assert not found(40 * whole, micro_batch=24)
    assert not found(40 * whole, precision="bfloat16")
    with pytest.raises(ValueError, match="48 images at once keep .* set micro_batch to"):
        found(40 * less)
    assert checks.must_recompute(model, few, how) is False
    asked = dataclasses.replace(how, recompute=True)
    assert checks.must_recompute(model, few, asked) is True


def test_a_batch_of_an_evaluation_leaves_room_for_the_images():
    images = torch.zeros(100, 1, 8, 8)
    assert memory.evaluation_batch(NETS["resnet18"](), images) == 500
    assert memory.batch_in(3 * images.nbytes + 1000, 10, images) == 100
    assert memory.batch_in(1e9, 10, images) == 500
    with pytest.raises(ValueError, match="too little to attack them: lower test_limit"):
        memory.batch_in(3 * images.nbytes + 5, 10, images)


# ---- images that stay in the host's memory


@pytest.fixture
def apart(monkeypatch):
    monkeypatch.setattr(ImageSet, "apart", property(lambda self: True))


@pytest.mark.parametrize("half_half", [False, True])
def test_training_is_the_same_with_images_apart(few, half_half, request):
    together = trained(few, "resnet18", "linf", half_half=half_half)
    request.getfixturevalue("apart")
    assert_same(together, trained(few, "resnet18", "linf", half_half=half_half))
    assert not few.train._gathered


def test_the_next_images_are_gathered_while_the_first_are_at_work(few, apart, monkeypatch):
    gathered = []
    gather = ImageSet._gather
    monkeypatch.setattr(
        ImageSet, "_gather", lambda self, rows: gathered.append(rows) or gather(self, rows)
    )
    batches = list(torch.arange(40).split(16))
    for index in few.train.ahead(batches):
        assert torch.equal(few.train.pixels(index), few.train.images[index])
        other = torch.tensor([3, 1])
        assert torch.equal(few.train.pixels(other), few.train.images[other])
    assert [rows.tolist() for rows in gathered] == [rows.tolist() for rows in batches]
    assert list(few.train.ahead([])) == []


def test_images_apart_come_to_the_labels_device():
    """On a device without values, so that a test without a GPU can say where all of it is."""
    images = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8)
    found = ImageSet(images, torch.arange(6), torch.device("meta"))
    assert found.apart
    assert (found.images.device.type, found.labels.device.type) == ("cpu", "meta")
    assert found.pixels(slice(0, 2)).device.type == "meta"
    assert found.float_images().shape == (6, 1, 4, 4)
    assert found[:3].apart
    near = ImageSet(images, torch.arange(6))
    assert not near.apart
    assert near.device == images.device
