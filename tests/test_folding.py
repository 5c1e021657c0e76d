"""Folded or left out, never wrong: logits are those of the network in evaluation mode."""

import copy
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d
from torch.nn.utils import parametrizations
from torch.nn.utils.fusion import fuse_conv_bn_eval

from acslib import models
from acslib.attacks import PGD
from acslib.folding import Autocast, foldable, folded, twin
from acslib.passes import attacker

IMAGES = torch.rand(3, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def with_statistics(model):
    """In float64, its running statistics and affine parameters far from the trivial ones."""
    model = model.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm):
                for values in (part.running_mean, part.running_var, part.weight, part.bias):
                    if values is not None:
                        values.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    return model.eval()


def check(model, images=IMAGES, expected=None, copies=True):
    """Copy and twin compute what the model does, and have folded as many pairs as expected."""
    with torch.no_grad():
        wanted = model.eval()(images)
        model.train()
        with attacker(model, "eval", "float32") as attacked:
            torch.testing.assert_close(attacked(images), wanted, rtol=1e-9, atol=1e-9)
        if copies:
            torch.testing.assert_close(folded(model)(images), wanted, rtol=1e-9, atol=1e-9)
    assert model.training
    assert len(foldable(model)) == expected
    assert norms(folded(model)) == norms(model) - expected


def norms(model):
    return sum(isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm) for part in model.modules())


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 2, 4]))
    dilation, kernel = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    padding = draw(st.sampled_from([0, 1, 2, (1, 0), "same", "valid"]))
    return nn.Conv2d(
        4,
        groups * draw(st.integers(1, 3)),
        kernel,
        stride=1 if padding == "same" else draw(st.integers(1, 2)),
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(deadline=None, max_examples=60)
@given(
    convolutions(),
    st.floats(1e-6, 1),
    st.sampled_from([None, 0.1]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_every_option_of_the_convolution(conv, eps, momentum, affine, tracks, synchronised):
    kind = nn.SyncBatchNorm if synchronised and tracks else nn.BatchNorm2d
    norm = kind(
        conv.out_channels, eps, momentum=momentum, affine=affine, track_running_stats=tracks
    )
    check(with_statistics(nn.Sequential(conv, norm, nn.ReLU())), expected=int(tracks))


# Networks in which a pair looks like one and is none. --------------------------------------------


class Net(nn.Module):
    """A convolution, a BatchNorm of its width, and a forward pass of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.between = False

    def forward(self, x):
        return self.norm(self.conv(x))


class OutputUsedTwice(Net):
    def forward(self, x):
        h = self.conv(x)
        return self.norm(h) + h


class OutputChanged(Net):
    def forward(self, x):
        h = self.conv(x)
        h += 1
        return self.norm(h)


class ConvolutionUsedTwice(Net):
    def forward(self, x):
        return self.norm(self.conv(self.conv(x)))


class NormUsedTwice(Net):
    def forward(self, x):
        return self.norm(self.conv(self.norm(x)))


class WeightUsedElsewhere(Net):
    def forward(self, x):
        return self.norm(self.conv(x)) + conv2d(x, self.conv.weight, padding=1)


class WeightUsedInAConstant(Net):
    def forward(self, x):
        return self.norm(self.conv(x)) + next(self.conv.parameters()).sum()


class StatisticUsedElsewhere(Net):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm.running_mean.sum()


class ByKind(nn.Sequential):
    """What comes after a layer depends on its kind."""

    def forward(self, x):
        for part in self:
            x = part(x)
            if isinstance(part, nn.BatchNorm2d):
                x = x.relu() + 1
        return x


class WithSomethingBetween(nn.Sequential):
    def forward(self, x):
        for part in self:
            x = part(x).relu() + x
        return x


class OnItsParts(nn.Module):
    """Its block's own forward pass is never used."""

    def __init__(self):
        super().__init__()
        self.block = Net()

    def forward(self, x):
        return self.block.norm(self.block.conv(x).relu())


class ByTheImages(Net):
    def forward(self, x):
        h = self.conv(x)
        return self.norm(h) if x.sum() > 0 else h


class BySetting(Net):
    def forward(self, x):
        h = self.conv(x)
        return self.norm(h.relu() if self.between else h)


class ByWhetherItIsATensor(Net):
    def forward(self, x):
        h = self.conv(x)
        return self.norm(h) + h if isinstance(x, torch.Tensor) else self.norm(h)


class ByTheGradientMode(Net):
    def forward(self, x):
        h = self.conv(x)
        return self.norm(h) + h if torch.is_grad_enabled() else self.norm(h)


class OfAnUnregisteredList(Net):
    def __init__(self):
        super().__init__()
        self.steps = [lambda x: self.conv(x), lambda x: self.norm(x)]

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class FeaturesBeforeTheNorm(Net):
    def features(self, x):
        return self.conv(x).mean((2, 3))


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x).square()


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def swapped(**parts):
    net = Net()
    for name, part in parts.items():
        setattr(net, name, part)
    return net


def hooked_backwards(where):
    net = Net()
    getattr(net, where).register_full_backward_hook(lambda module, into, out: (into[0] * 2,))
    return net


def hooked(where):
    net = Net()
    getattr(net, where).register_forward_hook(lambda module, given, output: output.abs() + 1)
    return net


NOT_FOLDED = {
    **{kind.__name__: kind for kind in (OutputUsedTwice, OutputChanged, ConvolutionUsedTwice)},
    **{kind.__name__: kind for kind in (NormUsedTwice, WeightUsedElsewhere, OnItsParts)},
    **{kind.__name__: kind for kind in (WeightUsedInAConstant, StatisticUsedElsewhere)},
    **{kind.__name__: kind for kind in (ByTheImages, OfAnUnregisteredList, FeaturesBeforeTheNorm)},
    "ByKind": lambda: ByKind(*Net().children()),
    "WithSomethingBetween": lambda: WithSomethingBetween(*Net().children()),
    "OwnConv": lambda: swapped(conv=OwnConv(4, 4, 3)),
    "OwnNorm": lambda: swapped(norm=OwnNorm(4)),
    "transposed": lambda: swapped(conv=nn.ConvTranspose2d(4, 4, 3)),
    "no running statistics": lambda: swapped(norm=nn.BatchNorm2d(4, track_running_stats=False)),
    "InstanceNorm": lambda: swapped(norm=nn.InstanceNorm2d(4, track_running_stats=True)),
    "hook on the convolution": lambda: hooked("conv"),
    "hook on the norm": lambda: hooked("norm"),
    "backward hook on the norm": lambda: hooked_backwards("norm"),
    **{kind.__name__: kind for kind in (ByWhetherItIsATensor, ByTheGradientMode)},
    "spectral_norm": lambda: swapped(conv=parametrizations.spectral_norm(nn.Conv2d(4, 4, 3))),
    "weight_norm": lambda: swapped(conv=parametrizations.weight_norm(nn.Conv2d(4, 4, 3))),
    "older spectral_norm": lambda: swapped(conv=nn.utils.spectral_norm(nn.Conv2d(4, 4, 3))),
}


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_what_is_no_pair_is_left_alone(name):
    net = with_statistics(NOT_FOLDED[name]())
    if hasattr(net, "features"):
        with torch.no_grad():
            torch.testing.assert_close(folded(net).features(IMAGES), net.features(IMAGES))
    # lambdas are not copied: theirs is the original's, in its mode
    check(net, expected=0, copies=name != "OfAnUnregisteredList")


def test_the_part_that_can_be_folded_is_folded():
    check(with_statistics(nn.Sequential(Net(), OutputUsedTwice(), nn.ReLU(), Net())), expected=2)


def test_tied_convolutions_are_folded_each_with_its_own_norm():
    net = nn.Sequential(Net(), nn.ReLU(), Net())
    net[2].conv.weight = net[0].conv.weight
    check(with_statistics(net), expected=2)


def test_a_shared_block_is_not_folded():
    block = Net()
    check(with_statistics(nn.Sequential(block, nn.ReLU(), block)), expected=0)


def test_a_setting_changed_later_is_seen():
    net = with_statistics(BySetting())
    check(net, expected=1)
    net.between = True
    check(net, expected=0)
    net.between = False
    check(net, expected=1)
    net.between = []  # what it holds is a setting, too
    check(net, expected=1)
    net.between.append("relu")
    check(net, expected=0)
    net.between.clear()
    check(net, expected=1)
    net.norm = nn.BatchNorm2d(4).double()
    net.conv.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    check(net, expected=0)


class ByWhatIsHeld(Net):
    """Where `kept` holds its list, `read` says."""

    def forward(self, x):
        h = self.conv(x)
        return self.norm(h.relu() if self.read(self.kept) else h)


@pytest.mark.parametrize(
    ("kept", "read"),
    [
        ({"between": []}, lambda kept: kept["between"]),
        ([[]], lambda kept: kept[0]),
        ((nn.functional.relu, [[]]), lambda kept: kept[1][0]),
        (SimpleNamespace(between=[]), lambda kept: kept.between),
        ({"of": SimpleNamespace(between=[], act=nn.ReLU())}, lambda kept: kept["of"].between),
    ],
)
def test_a_setting_inside_of_others_that_is_changed_later_is_seen(kept, read):
    net = with_statistics(ByWhatIsHeld())
    net.kept, net.read = kept, read
    check(net, expected=1)
    read(kept).append("relu")
    check(net, expected=0)
    read(kept).clear()
    check(net, expected=1)


def test_a_value_that_holds_itself_is_followed_once():
    net = with_statistics(Net())
    net.kept = []
    net.kept.append(net.kept)
    check(net, expected=1)


def test_parameters_that_do_not_ask_for_gradients_and_norms_without_pair():
    net = with_statistics(nn.Sequential(nn.BatchNorm2d(4), Net(), nn.BatchNorm2d(4)))
    net[1].conv.requires_grad_(False)
    check(net, expected=1)
    assert [p.requires_grad for p in net.parameters()] == [True] * 2 + [False] * 2 + [True] * 4


def test_a_copy_of_a_network_with_weights_computed_in_its_last_pass():
    """The older spectral_norm and weight_norm keep a tensor that torch itself refuses to copy."""
    for norm in (nn.utils.spectral_norm, parametrizations.weight_norm):
        net = with_statistics(nn.Sequential(norm(nn.Conv2d(4, 4, 3)), nn.ReLU(), Net()))
        net.train()(IMAGES).sum().backward()
        wanted = net.eval()(IMAGES)
        torch.testing.assert_close(folded(net)(IMAGES), wanted)


# The networks of acslib.models, bit for bit. -----------------------------------------------------

OURS = {
    "resnet18": {"architecture": "resnet18", "width": 8},
    "resnet50": {"architecture": "resnet50", "width": 8, "stem": "imagenet"},
    "wideresnet": {"architecture": "wideresnet28_10", "width": 8},
}


def ours(name, seed=0):
    torch.manual_seed(seed)
    model = models.build(**OURS[name])
    model.train()(torch.rand(4, 3, 32, 32))
    return model


def plainly_folded(model, dtype):
    """Written out: a copy with torch's own fused convolution in the place of each ConvNorm."""
    net = copy.deepcopy(model).eval()
    for parent in list(net.modules()):
        for name, part in parent.named_children():
            if isinstance(part, models.ConvNorm):
                setattr(parent, name, fuse_conv_bn_eval(part.conv, part.norm))
    for part in (net.stem, net.blocks, net.last):
        part.to(dtype)
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", OURS)
def test_ours_are_what_they_are_copied_and_fused(name, layout, dtype):
    model = ours(name).to(memory_format=layout)
    images = torch.rand(4, 3, 32, 32).contiguous(memory_format=layout)
    units = sum(isinstance(part, models.ConvNorm) for part in model.modules())
    assert len(foldable(model)) == units > 0
    with torch.no_grad():
        wanted = plainly_folded(model, dtype)(images)
        assert torch.equal(folded(model, dtype)(images), wanted)
        assert torch.equal(twin(model, dtype)(images), wanted)
        assert torch.equal(twin(model, dtype)(images), wanted)  # in the first one's memory


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_twin_follows_the_training(precision):
    dtype = getattr(torch, precision)
    model, images = ours("resnet18"), torch.rand(4, 3, 32, 32)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    labels, attack = torch.arange(4), PGD("linf", 0.1, 0.05, 2, random_start=False)
    for _ in range(3):
        with attacker(model, "eval", precision) as attacked:
            found = attack(attacked, images, labels)
        assert torch.equal(found, attack(folded(model, dtype), images, labels))
        assert all(parameter.requires_grad for parameter in model.parameters())
        optimiser.zero_grad()
        nn.functional.cross_entropy(model.train()(found), labels).backward()
        optimiser.step()


def test_a_twin_follows_other_weights_and_types():
    model, images = ours("resnet18"), torch.rand(4, 3, 32, 32)
    changes = (
        lambda: model.load_state_dict(ours("resnet18", seed=1).state_dict()),
        lambda: model.to(memory_format=torch.channels_last),
        lambda: model.double(),
        lambda: model.blocks[0].first.norm.weight.data.fill_(2),
        lambda: setattr(model.blocks[0].first, "norm", nn.Identity()),
    )
    with torch.no_grad():
        for change in changes:
            change()
            wanted = folded(model, torch.float32)(images)
            assert torch.equal(twin(model, torch.float32)(images), wanted)


def test_a_copy_does_not_follow():
    model, images = ours("resnet18"), torch.rand(4, 3, 32, 32)
    copied = folded(model)
    before = copied(images)
    with torch.no_grad(), attacker(model, "eval", "float32"):
        for values in model.state_dict().values():
            values.mul_(2)
    with torch.no_grad(), attacker(model, "eval", "float32") as attacked:
        assert not torch.equal(attacked(images), before)
    assert torch.equal(copied(images), before)


def test_nothing_is_kept_of_a_model_that_is_gone():
    model = ours("resnet18")
    with attacker(model, "eval", "float32"):
        pass
    gone = weakref.ref(model), weakref.ref(model.blocks[0].first.conv)
    del model
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_looking_for_pairs_draws_no_random_numbers():
    class Noisy(Net):
        def forward(self, x):
            return super().forward(x) + torch.rand(()) * 0

    net = with_statistics(Noisy())
    before = torch.get_rng_state()
    foldable(net)
    assert torch.equal(torch.get_rng_state(), before)


def test_other_networks_compute_in_bfloat16_by_autocast():
    net = with_statistics(nn.Sequential(Net(), nn.Flatten(), nn.Linear(256, 3))).float()
    images = IMAGES.float()
    wanted = net(images)
    for low in (folded(net, torch.bfloat16), twin(net, torch.bfloat16)):
        assert isinstance(low, Autocast)
        assert not low.training
        got = low(images)
        assert 0 < (got.float() - wanted).abs().max() < 0.05 * wanted.abs().max()
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
