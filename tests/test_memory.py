"""Less memory for the same numbers: blocks computed anew, images apart from the device."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import Smooth
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from acslib import checks, data, memory, models, parallel, selectors
from acslib.attacks import PGD
from acslib.batching import Batch, batches, parts_of, shuffled_batches
from acslib.data.sets import ImageSet
from acslib.measuring import monitor
from acslib.objectives import AdversarialTraining, Trades, Vanilla
from acslib.paper import build, config, runs
from acslib.passes import attacker
from acslib.schedule import Epoch, Plan, coreset_size, full, plan
from acslib.training import State, Training, adversarial_gradients, everything, fit, sgd_step


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
    few = dataclasses.replace(few, train=few.train[:48])
    images, labels = few.train.float_images(slice(0, 4)), few.train.labels[:4]
    how = Training(OBJECTIVES["trades"], plan(4, 0.5, 0.5, 2), torch.Generator(), batch_size=48)
    whole = memory.of_an_update(how.objective, model, images, labels)
    with memory.recomputed(model):
        less = memory.of_an_update(how.objective, model, images, labels)

    def found(room, **changes):
        monkeypatch.setattr(memory, "free", lambda device: room)
        return memory.fits_only_recomputed(dataclasses.replace(how, **changes), model, few)

    assert not found(60 * whole)
    assert found(40 * whole)
    assert not found(40 * whole, micro_batch=24)
    assert not found(40 * whole, precision="bfloat16")
    for asked in (None, True):
        with pytest.raises(ValueError, match="48 images at once keep .* set micro_batch to"):
            found(40 * less, recompute=asked)
    with pytest.raises(ValueError, match="48 images at once keep .* set micro_batch to"):
        found(40 * whole, recompute=False)
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


def test_an_attack_that_does_not_fit_is_told_of_too(few, monkeypatch):
    """The monitor's may be the largest."""
    torch.manual_seed(0)
    model = NETS["resnet18"]().eval()
    how = Training(OBJECTIVES["linf"], full(1), torch.Generator(), batch_size=2, monitor=9)
    with attacker(model, "eval", "float32") as attacked:
        each = memory.of_an_attack(attacked, few.train.float_images(slice(0, 4)))
    monkeypatch.setattr(memory, "free", lambda device: 8.5 * each)
    with pytest.raises(ValueError, match="9 images at once keep .* set micro_batch to 4 or less"):
        memory.fits_only_recomputed(how, model, few)
    for changes in ({"micro_batch": 8}, {"monitor": 8}):
        memory.fits_only_recomputed(dataclasses.replace(how, **changes), model, few)


def test_the_memory_of_others_on_a_card_is_not_free(monkeypatch):
    """What torch keeps of tensors that are gone is free to this process alone."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4)
    assert memory.free(torch.device("cuda")) == 13


@dataclasses.dataclass
class OnACard:
    """Images that say so."""

    part: ImageSet

    @property
    def device(self):
        return torch.device("cuda")

    def __len__(self):
        return len(self.part)

    def __getattr__(self, name):
        return getattr(self.part, name)


def test_what_could_not_be_evaluated_is_not_trained(few, tmp_path, monkeypatch):
    model = NETS["resnet18"]().eval()
    own = build.experiment
    test = OnACard(few.test)
    size = test.float_images().nbytes
    each = memory.of_an_attack(model, test.float_images(slice(0, 4)))

    def room(bytes):
        monkeypatch.setattr(memory, "free", lambda device: bytes / memory.USED)

    room(4.5 * size + each)
    memory.check_evaluation(model, test)
    room(3.5 * size + each)  # for the copies, not for the images
    with pytest.raises(ValueError, match="too little to attack them: lower test_limit"):
        memory.check_evaluation(model, test)

    def experiment(*given):
        made = own(*given)
        object.__setattr__(made.data, "test", OnACard(made.data.test))
        return made

    monkeypatch.setattr(build, "experiment", experiment)
    heard = []
    run = config.resolve("resnet18-linf-cifar10.full+epochs@1", "demo")
    room(0)
    with pytest.raises(ValueError, match="too little to attack them: lower test_limit"):
        runs.execute(run, results=tmp_path, told=runs.Told(progress=heard.append))
    assert not heard


# ---- how many at once


@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 40),
    micro=st.none() | st.integers(1, 40),
    processes=st.integers(1, 3),
    fraction=st.floats(0.1, 1),
    half_half=st.booleans(),
    phase=st.sampled_from(["full", "coreset"]),
)
def test_so_many_are_differentiated_at_once_as_are_counted(
    n, batch_size, micro, processes, fraction, half_half, phase
):
    """A batch is shared by the processes, and each takes its share in parts."""
    how = Training(
        Vanilla(),
        Plan((Epoch(0, phase),), fraction),
        torch.Generator(),
        batch_size=batch_size,
        micro_batch=micro,
        half_half=half_half,
    )
    coreset = everything(n if phase == "full" else coreset_size(fraction, n))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "processes", lambda: processes)
        ((inside, outside),) = memory.at_once(how, n)
        for rank in range(processes):
            patch.setattr(parallel, "rank", lambda rank=rank: rank)
            for drawn in shuffled_batches(coreset, n, how, phase, torch.device("cpu")):
                rows, weights, others = map(parallel.share, drawn)
                whole = Batch(rows.view(-1, 1, 1, 1), rows, weights, others, (1, 1))
                parts = parts_of(whole, micro)
                assert torch.equal(torch.cat([part.labels for part in parts]), rows)
                assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
                assert torch.equal(torch.cat([part.weights for part in parts]), weights)
                assert torch.equal(torch.cat([part.outside for part in parts]), others)
                seen += [(len(part.labels), len(part.outside)) for part in parts]
    most = tuple(map(max, zip(*seen, strict=True)))
    if micro is None:
        assert most == (inside, outside)
    else:
        assert most[0] <= inside
        assert most[1] <= outside
        assert max(map(sum, seen)) <= micro


def test_of_a_share_as_many_as_a_part_has(monkeypatch):
    how = Training(Vanilla(), full(1), torch.Generator(), batch_size=256, micro_batch=64)
    monkeypatch.setattr(parallel, "processes", lambda: 2)
    assert memory.at_once(how, 50_000) == [(64, 0)]


class Watched:
    """An attack that keeps how many images it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, model, images, labels):
        self.seen.append(len(images))
        return PGD("linf", 0.1, 0.05, 2, random_start=False)(model, images, labels)


@pytest.mark.parametrize("half_half", [False, True])
@pytest.mark.parametrize(("micro", "watched"), [(None, 0), (None, 9), (5, 9)])
@pytest.mark.parametrize("which", [AdversarialTraining, Trades])
def test_nowhere_are_more_at_once_than_asked(few, which, micro, watched, half_half):
    """In training, in the selection and in the monitor; as many as are counted without a limit."""
    attack, passed, model = Watched(), [], Smooth()
    how = Training(
        which(attack),
        plan(4, 0.3, 0.5, 2),
        torch.Generator(),
        selector=selectors.gradmatch,
        batch_size=8,
        half_half=half_half,
        micro_batch=micro,
        monitor=watched,
    )
    model.register_forward_pre_hook(lambda _, inputs: passed.append(len(inputs[0])))
    fit(State(model, torch.optim.SGD(model.parameters(), 0.1)), few, how)
    if micro is None:
        assert memory.attacked_at_once(how, few) == {"eval": max(attack.seen)}
        assert max(attack.seen) == max(8, watched)
        assert max(passed) >= 8
    else:
        assert max(attack.seen) == 5
        assert max(passed) <= 5


@pytest.mark.parametrize("which", [AdversarialTraining, Trades])
def test_a_selection_and_the_monitor_see_the_same_in_parts(few, which):
    torch.manual_seed(0)

    def shifted(model, images, labels):  # from the image itself TRADES' first gradient is zero
        return attack_without_chance(model, (images + 0.05).clamp(0, 1), labels)

    attack_without_chance = PGD("linf", 0.1, 0.05, 2, random_start=False)
    model = Smooth()
    whole = Training(
        which(shifted), full(1), torch.Generator(), selector=selectors.gradmatch, batch_size=32
    )
    parts = dataclasses.replace(whole, micro_batch=5)
    one, other = (adversarial_gradients(model, few, how).dense() for how in (whole, parts))
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    one, other = (monitor(model, few, how) for how in (whole, parts))
    assert one == pytest.approx(other, rel=1e-6)
    assert len(one) == 6


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("half_half", [False, True])
def test_what_an_update_keeps_is_counted_whole(few, objective, half_half):
    """Beside what autograd keeps in a step; clean images of `half_half` are in it, too."""
    torch.manual_seed(0)
    model = NETS["resnet18"]()
    how = Training(
        OBJECTIVES[objective],
        Plan((Epoch(0, "coreset"),), 0.3),
        torch.Generator(),
        batch_size=12,
        half_half=half_half,
        monitor=0,
    )
    state = State(model, torch.optim.SGD(model.parameters(), 0.1), coreset=everything(25))
    needed = memory.of_the_largest_update(how, model.eval(), few)
    assert needed.images == 9 + half_half * 21
    batch = next(iter(batches(state, few, how, "coreset")))
    with memory.saved_bytes(model) as found:
        sgd_step(state, few, batch, batch.images.clone(), how)
    assert needed.bytes == pytest.approx(sum(found), rel=0.05)


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
