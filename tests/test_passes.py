"""After an attack a network is as it was found, whatever it is made of."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm
from torch.nn.utils import parametrizations

from acslib import models
from acslib.attacks import FGSM, PGD
from acslib.objectives import AdversarialTraining, Trades, Vanilla
from acslib.passes import attacker, frozen, last_layer, penultimate, watch
from acslib.schedule import plan
from acslib.selectors import craig
from acslib.training import State, Training, fit

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 4


class Counts(nn.Module):
    """Buffers that change in a pass, in each of the ways in which one can."""

    def __init__(self):
        super().__init__()
        self.register_buffer("added", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("by_data", torch.zeros(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("nothing", None)
        self.register_buffer("one_place", torch.zeros(1).expand(5))

    def forward(self, x):
        with torch.no_grad():
            self.added += x.mean()
            self.replaced = self.replaced + x.mean()
            self.by_data.data.add_(1)
            self.steps += 1
            if "later" not in self._buffers:
                self.register_buffer("later", torch.ones(1))
            self.nothing = torch.ones(1)
        return x


class OwnBatchNorm(nn.BatchNorm2d):
    """One that moves its statistics whatever it is told."""

    def forward(self, x):
        training = self.training
        return batch_norm(x, self.running_mean, self.running_var, training=training)


def network(*first):
    torch.manual_seed(0)
    return nn.Sequential(*first, nn.Flatten(), nn.LazyLinear(4))


def conv():
    return nn.Conv2d(3, 4, 3, padding=1)


def built(*first):
    net = network(*first).eval()
    net(IMAGES)
    return net.train()


def partly_trained():
    net = built(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv_of(4), nn.BatchNorm2d(4))
    net[0].requires_grad_(False)
    net[1].eval()
    return net


def conv_of(width):
    return nn.Conv2d(width, width, 3)


def counting():
    net = built(Counts(), conv(), Counts())
    net[0], net[2] = Counts(), Counts()  # ones that no pass has changed yet
    return net


NETWORKS = {
    "BatchNorm": lambda: built(conv(), nn.BatchNorm2d(4), nn.ReLU()),
    "BatchNorm, cumulative": lambda: built(conv(), nn.BatchNorm2d(4, momentum=None)),
    "BatchNorm, of the batch": lambda: built(conv(), nn.BatchNorm2d(4, track_running_stats=False)),
    "BatchNorm1d": lambda: built(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4)),
    "BatchNorm3d": lambda: built(nn.Unflatten(1, (3, 1)), nn.BatchNorm3d(3)),
    "a BatchNorm of one's own": lambda: built(conv(), OwnBatchNorm(4)),
    "LazyBatchNorm": lambda: built(conv(), nn.LazyBatchNorm2d()),
    "InstanceNorm": lambda: built(conv(), nn.InstanceNorm2d(4, track_running_stats=True)),
    "spectral_norm": lambda: built(parametrizations.spectral_norm(conv()), nn.BatchNorm2d(4)),
    "older spectral_norm": lambda: built(nn.utils.spectral_norm(conv()), nn.BatchNorm2d(4)),
    "weight_norm": lambda: built(parametrizations.weight_norm(conv()), nn.Dropout()),
    "orthogonal": lambda: built(nn.Flatten(), parametrizations.orthogonal(nn.Linear(192, 5))),
    "buffers of one's own": counting,
    "partly trained": partly_trained,
    "ours": lambda: models.build("resnet18", width=4, depths=(1, 1), classes=4),
}


def everything_of(model):
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "identity": {name: id(v) for name, v in model.state_dict(keep_vars=True).items()},
        "buffers": {name: b is None for m in model.modules() for name, b in m._buffers.items()},
        "modes": [part.training for part in model.modules()],
        "tracking": [getattr(part, "track_running_stats", None) for part in model.modules()],
        "asking": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad is None for parameter in model.parameters()],
    }


def assert_as_before(model, before):
    now = everything_of(model)
    torch.testing.assert_close(now.pop("state"), before["state"], rtol=0, atol=0)
    assert now == {name: value for name, value in before.items() if name != "state"}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_attacks_leave_a_network_as_they_found_it(name, training):
    model = NETWORKS[name]()
    if not training:
        model.eval()
    before = everything_of(model)
    for attack in (PGD("linf", 0.1, 0.05, 2, restarts=2), FGSM(0.1, 0.1, early_stop=True)):
        attack(model, IMAGES, LABELS)
        assert_as_before(model, before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_so_does_an_attacker_of_any_mode_also_after_an_error(name, mode, precision):
    model = NETWORKS[name]()
    before = everything_of(model)
    with attacker(model, mode, precision) as attacked:
        assert not any(parameter.requires_grad for parameter in attacked.parameters())
        PGD("linf", 0.1, 0.05, 1)(attacked, IMAGES, LABELS)
    assert_as_before(model, before)

    class Stop(Exception):
        pass

    def stopped():
        with attacker(model, mode, precision) as attacked:
            attacked(IMAGES)
            raise Stop

    with pytest.raises(Stop):
        stopped()
    assert_as_before(model, before)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_attacker_of_evaluation_mode_is_the_network_in_it(name):
    model = NETWORKS[name]()
    wanted = copy_of(model).eval()(IMAGES)
    with torch.no_grad(), attacker(model, "eval", "float32") as attacked:
        torch.testing.assert_close(attacked(IMAGES), wanted, rtol=1e-4, atol=1e-5)


def copy_of(model):
    with torch.no_grad():
        for part in model.modules():  # the older spectral_norm's weight, which torch does not copy
            if isinstance(vars(part).get("weight"), torch.Tensor):
                part.weight = part.weight.detach()
    return copy.deepcopy(model)


def test_a_frozen_network_in_training_mode_uses_the_batch():
    model = NETWORKS["BatchNorm"]()
    wanted = copy.deepcopy(model).train()(IMAGES)
    with frozen(model.eval(), "train"):
        torch.testing.assert_close(model(IMAGES), wanted)
    assert not model.training


def test_synchronised_batch_norm_stands_still():
    """Its forward pass needs GPUs in training mode: what it would be told there is looked at."""
    model = nn.Sequential(nn.SyncBatchNorm(3)).train()
    with frozen(model):
        assert not model[0].track_running_stats
        assert model[0].training
    assert model[0].track_running_stats


def test_frozen_twice():
    model = NETWORKS["buffers of one's own"]()
    before = everything_of(model)
    with frozen(model, "eval"), frozen(model, "train"):
        model(IMAGES)
    assert_as_before(model, before)


def test_an_attack_between_a_pass_and_its_backward_pass():
    """What autograd keeps for the backward pass may be a buffer."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.full((4,), 0.5))

        def forward(self, x):
            return x * self.mask

    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), Masked())
    loss = model(IMAGES).sum()
    PGD("linf", 0.1, 0.05, 1)(model, IMAGES, LABELS)
    loss.backward()
    torch.testing.assert_close(model[1].bias.grad, torch.full((4,), 3.0))


def test_a_lazy_network_is_asked_for_a_batch_first():
    for model in (nn.Sequential(nn.LazyBatchNorm2d()), network(nn.Flatten())):
        with pytest.raises(ValueError, match="no weights yet: pass a batch through it first"):
            PGD("linf", 0.1, 0.05, 1)(model, IMAGES, LABELS)


# Precision. --------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A network of one's own, as the README asks for: features and a linear head."""

    def __init__(self, channels=1, classes=10, bias=True, norm=True):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 6, 3), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU()
        )
        self.head = nn.Linear(6, classes, bias=bias)

    def features(self, images):
        return self.body(images).mean((2, 3))

    def forward(self, images):
        return self.head(self.features(images))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_last_layer_of_ones_own_network_is_computed_in_the_type_of_its_weights(mode, bias):
    torch.manual_seed(0)
    model = Plain(3, 4, bias)
    with torch.no_grad(), attacker(model, mode, "float32") as attacked:
        wanted, exact = penultimate(attacked, IMAGES)
    with torch.no_grad(), attacker(model, mode, "bfloat16") as attacked:
        features, logits = penultimate(attacked, IMAGES)
        assert torch.equal(logits, last_layer(model.head, features))
    assert features.dtype == logits.dtype == torch.float32
    assert 0 < (features - wanted).abs().max() < 0.05
    torch.testing.assert_close(logits, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("objective", [Vanilla, AdversarialTraining, Trades])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_ones_own_network_trains_in_bfloat16(digits, mode, objective):
    torch.manual_seed(0)
    model, generator = Plain(), torch.Generator()
    few = dataclasses.replace(digits, train=digits.train[slice(0, 60)])
    attack = () if objective is Vanilla else (PGD("linf", 0.1, 0.05, 1, generator=generator),)
    how = Training(
        objective(*attack),
        plan(4, 0.5, 0.5, 1),
        generator,
        selector=craig,
        attack_mode=mode,
        precision="bfloat16",
        batch_size=30,
    )
    state = fit(State(model, torch.optim.SGD(model.parameters(), 0.1)), few, how)
    assert [row["phase"] for row in state.history] == ["full", "skip", "coreset", "coreset"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_outputs_watched_are_those_inside():
    model = Plain(3, 4)
    with watch(model.head) as seen:
        logits = model(IMAGES)
    model(IMAGES)
    assert len(seen) == 1
    assert torch.equal(seen[0], logits)
    assert not seen[0].requires_grad
