import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from acslib import models
from acslib._torchvision import torchvision


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.17), ("wideresnet28_10", 36.48)])
def test_parameter_counts_of_the_paper(name, millions):
    assert parameters(models.build(name)) / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_imagenet_stem_computes_what_torchvisions_computes(name):
    """An independent implementation of He et al. (2016): weights carried over in order of use, the
    logits agree.
    """
    torch.manual_seed(0)
    ours, theirs = (
        models.build(name, stem="imagenet", classes=7),
        getattr(torchvision.models, name)(num_classes=7),
    )
    images = torch.rand(2, 3, 64, 64)
    theirs.train()(images)  # so that the running statistics are not the trivial ones
    for mine, yours in zip(layers_in_use(ours, images), layers_in_use(theirs, images), strict=True):
        mine.load_state_dict(yours.state_dict())
    assert parameters(ours) == parameters(theirs)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def layers_in_use(model, images):
    """Layers with weights, in the order in which a pass in evaluation mode uses them."""
    used = []
    handles = [
        module.register_forward_hook(lambda module, *_: used.append(module))
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    model.eval()(images)
    for handle in handles:
        handle.remove()
    return used


@torch.no_grad()
def test_wideresnet_computes_table_1_of_its_paper():
    """Zagoruyko and Komodakis (2016), written out: BN-ReLU-conv twice a block; a projection sees
    what BN-ReLU gives.
    """
    torch.manual_seed(0)
    model, images = models.build("wideresnet28_10", width=16, classes=7), torch.rand(2, 3, 32, 32)
    model.train()(images)
    model.eval()
    state = model.state_dict()

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        return conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm_relu(x, name):
        scale, shift, mean, variance = (
            state[f"{name}.{part}"].view(1, -1, 1, 1)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp_min(0)

    x = conv(images, "stem")
    for number in range(12):
        block, stride = f"blocks.{number}", 2 if number in (4, 8) else 1
        h = norm_relu(x, f"{block}.norm")
        shortcut = (
            conv(h, f"{block}.shortcut", stride) if number in (4, 8) else x
        )  # width 16: as wide as the stem
        h = norm_relu(conv(h, f"{block}.first.conv", stride), f"{block}.first.norm")
        x = conv(h, f"{block}.second") + shortcut
    logits = norm_relu(x, "last.0").mean((2, 3)) @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(model(images), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "resnet18", "width": 8},
        {"architecture": "resnet50", "width": 8, "stem": "imagenet"},
        {"architecture": "wideresnet28_10", "width": 8},
        {"architecture": "resnet34", "width": 8, "stem": "half"},
    ],
)
def test_forward_is_head_of_features_and_folding_changes_nothing(options):
    torch.manual_seed(0)
    model = models.build(**options, statistics=models.CHANNEL_STATISTICS["cifar10"])
    images = torch.rand(4, 3, 32, 32)
    model.train()(images)  # so that the running statistics are not the trivial ones
    model.eval()
    logits = model(images)
    torch.testing.assert_close(model.head(model.features(images)), logits)
    twin = models.folded(model)
    torch.testing.assert_close(twin(images), logits, rtol=1e-3, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    half = models.folded(model, torch.bfloat16)(images)
    assert half.dtype == torch.float32
    assert (half - logits).abs().max() < 0.1 * logits.abs().max()


def test_normalisation_is_inside():
    model = models.build("resnet18", width=4, channels=1, statistics=((0.5,), (0.25,)))
    seen = []
    model.stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model.eval()(torch.full((1, 1, 8, 8), 0.75))
    torch.testing.assert_close(seen[0], torch.ones(1, 1, 8, 8))


def test_unknown_architecture_and_stem_are_named():
    with pytest.raises(ValueError, match=r"resnet81.*resnet18"):
        models.build("resnet81")
    with pytest.raises(ValueError, match=r"stem 'cifr'"):
        models.build("resnet18", stem="cifr")


def test_a_network_of_torchvision_is_made_by_its_name_and_adapted():
    net = models.of_torchvision("resnet18", num_classes=3)
    assert isinstance(net, torchvision.models.ResNet)
    assert models.adapt(net)(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    with pytest.raises(ValueError, match="Unknown model nothing"):
        models.of_torchvision("nothing")
