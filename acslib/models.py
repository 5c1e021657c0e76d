"""ResNets and WideResNets for images of any size: normalisation inside, `features`, `head`.

ResNet-18 with the CIFAR stem has 11.17 M parameters, WideResNet-28-10 has 36.5 M, as in the paper.
`adapt` makes such a model of any classifier whose last layer is an nn.Linear.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from acslib.adapted import Adapted, adapt
from acslib.folding import folded
from acslib.passes import last_layer

__all__ = [
    "ARCHITECTURES",
    "CHANNEL_STATISTICS",
    "Adapted",
    "ResNet",
    "adapt",
    "build",
    "folded",
    "initialise",
    "of_torchvision",
]

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHANNEL_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "imagenet12": IMAGENET_STATISTICS,
    "imagenet100": IMAGENET_STATISTICS,
    "digits": ((0.305,), (0.376,)),
}


class ConvNorm(nn.Module):
    """Convolution followed by BatchNorm: one unit, so that `folded` can make it one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.conv(x)))


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 beside a shortcut: the block of ResNet-18 and 34."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.first = ConvNorm(inputs, width, 3, stride)
        self.second = ConvNorm(width, width, 3)
        self.shortcut = (
            ConvNorm(inputs, width, 1, stride) if stride > 1 or inputs != width else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 beside a shortcut: the block of ResNet-50."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = width * self.expansion
        self.first = ConvNorm(inputs, width, 1)
        self.second = ConvNorm(width, width, 3, stride)
        self.third = ConvNorm(width, outputs, 1)
        self.shortcut = (
            ConvNorm(inputs, outputs, 1, stride)
            if stride > 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.second(torch.relu(self.first(x))))
        return torch.relu(self.third(h) + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """The block of Wide Residual Networks (Zagoruyko and Komodakis, 2016): BN-ReLU-conv twice."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.first = ConvNorm(inputs, width, 3, stride)
        self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        project = stride > 1 or inputs != width
        self.shortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if project else None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(x))
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(h)
        change: Tensor = self.second(torch.relu(self.first(h)))
        return change + shortcut


class ResNet(nn.Module):
    """A residual network on images in [0, 1], shape (n, channels, H, W), to logits (n, classes).

    `features(images)` gives the penultimate layer (n, D) in the type of `head`, the last, linear
    layer. `stem` is "cifar" (3x3), "half" (3x3, stride 2: a cheap stand-in on 32 px) or "imagenet"
    (7x7, stride 2, max-pool).
    """

    # what `folded` gives other types of numbers; images are converted before, features after
    parts_in_any_dtype = ("stem", "blocks", "last")

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck | PreActivationBlock],
        depths: Sequence[int],
        width: int,
        *,
        classes: int,
        channels: int,
        stem: str,
        statistics: tuple[Sequence[float], Sequence[float]],
        stem_width: int | None = None,
    ):
        super().__init__()
        mean, std = statistics
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        pre_activation = block is PreActivationBlock
        inputs = stem_width or width
        kernel, stride = {"cifar": (3, 1), "half": (3, 2), "imagenet": (7, 2)}[stem]
        if pre_activation:
            self.stem: nn.Module = nn.Conv2d(
                channels, inputs, kernel, stride, kernel // 2, bias=False
            )
        else:
            self.stem = nn.Sequential(ConvNorm(channels, inputs, kernel, stride), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        blocks = []
        for stage, depth in enumerate(depths):
            for position in range(depth):
                blocks.append(block(inputs, width * 2**stage, 2 if stage and position == 0 else 1))
                inputs = width * 2**stage * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.last = (
            nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU()) if pre_activation else nn.Identity()
        )
        self.head = nn.Linear(inputs, classes)
        initialise(self)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Activations after the stem and each block, shapes (n, channels_l, H_l, W_l)."""
        x = ((images - self.mean) / self.std).to(next(self.stem.parameters()).dtype)
        maps = [self.pool(self.stem(x))]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps

    def features(self, images: Tensor) -> Tensor:
        last: Tensor = self.last(self.feature_maps(images)[-1])
        return last.to(self.head.weight.dtype).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return last_layer(self.head, self.features(images))


def initialise(model: nn.Module) -> None:
    """He initialisation of the convolutions (fan-out), zero bias in the head."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


ARCHITECTURES: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "wideresnet28_10": (PreActivationBlock, (4, 4, 4), 160),
}


def build(
    architecture: str,
    *,
    classes: int = 10,
    channels: int = 3,
    stem: str = "cifar",
    width: int | None = None,
    depths: Sequence[int] | None = None,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> ResNet:
    """One of `ARCHITECTURES`, smaller by `width` (first stage's channels) and `depths` (blocks).

    `statistics` is a pair (mean, std) per channel; without it the images are used as they are.
    Draws the initial weights from torch's global generator. Raises ValueError on an unknown
    architecture or stem.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {architecture!r}: choose one of {', '.join(ARCHITECTURES)}"
        )
    if stem not in ("cifar", "half", "imagenet"):
        raise ValueError(f"unknown stem {stem!r}: choose cifar, half or imagenet")
    block, default_depths, default_width = ARCHITECTURES[architecture]
    return ResNet(
        block,
        depths or default_depths,
        width or default_width,
        classes=classes,
        channels=channels,
        stem=stem,
        statistics=statistics or ((0.0,) * channels, (1.0,) * channels),
        stem_width=16 if block is PreActivationBlock else None,
    )


def of_torchvision(name: str, **options: Any) -> nn.Module:
    """A network of torchvision by its name, as `torchvision.models.get_model` makes it, beside any
    build of torch: `of_torchvision("resnet18", num_classes=10)`. `adapt` makes a model of it.

    Raises ValueError where torchvision knows no such name.
    """
    from acslib._torchvision import torchvision

    return cast(nn.Module, torchvision.models.get_model(name, **options))
