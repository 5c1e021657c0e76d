"""AlexNet, whose feature maps the LPIPS distance compares."""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from acslib.models import IMAGENET_STATISTICS


class Stem(NamedTuple):
    """How AlexNet takes in images of some size."""

    kernel: int  # of the first convolution
    stride: int
    padding: int
    second_kernel: int
    window: int  # of the max-pooling, stride 2
    border: int  # its padding
    smallest: int  # side of the images in pixels
    width: float = 1.0  # channels, relative to AlexNet's


STEMS = {
    # torchvision's AlexNet
    "imagenet": Stem(11, 4, 2, 5, 3, 0, 31),
    # the same weights; maps of 16, 8 and 4 px from 32 px images
    "imagenet_32px": Stem(11, 2, 5, 5, 3, 1, 16),
    # the usual AlexNet for CIFAR: maps of 16, 8 and 4 px from 32 px images
    "cifar": Stem(3, 2, 1, 3, 2, 0, 8),
    # maps of 8, 4 and 2 px from 8 px images; narrow, as they are simple
    "digits": Stem(3, 1, 1, 3, 2, 0, 4, 0.25),
}
CONVOLUTIONS = (0, 3, 6, 8, 10)
RELUS = (1, 4, 7, 9, 11)


class AlexNet(nn.Module):
    """AlexNet's five convolutions on images in [0, 1], with ImageNet's mean and std inside.

    Parameter names are torchvision's. Images are (n, 3, H, W), or (n, 1, H, W) and then repeated to
    three channels. `classes` adds a linear head on the averaged last map, for training. Raises
    ValueError on an unknown stem and on images too small for it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stem: str = "imagenet", classes: int | None = None):
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"unknown stem {stem!r}: choose one of {', '.join(STEMS)}")
        self.stem, how = stem, STEMS[stem]
        self.register_buffer(
            "mean", torch.tensor(IMAGENET_STATISTICS[0]).view(1, 3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(IMAGENET_STATISTICS[1]).view(1, 3, 1, 1), persistent=False
        )
        a, b, c, d, e = (int(how.width * channels) for channels in (64, 192, 384, 256, 256))
        self.features = nn.Sequential(
            nn.Conv2d(3, a, how.kernel, how.stride, how.padding),
            nn.ReLU(),
            nn.MaxPool2d(how.window, 2, how.border),
            nn.Conv2d(a, b, how.second_kernel, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(how.window, 2, how.border),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(d, e, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(e, classes) if classes else None

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Activations after the five ReLUs, (n, channels_l, H_l, W_l)."""
        smallest = STEMS[self.stem].smallest
        if min(images.shape[2:]) < smallest:
            raise ValueError(
                f"images of {tuple(images.shape[2:])} px are below {smallest} px, the least for the"
                f" stem {self.stem!r}: choose a stem with a smaller stride"
            )
        x = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
        maps = []
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position in RELUS:
                maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes). Raises ValueError for a network made without `classes`."""
        if self.head is None:
            raise ValueError("this AlexNet has feature maps only: make it with `classes`")
        logits: Tensor = self.head(self.feature_maps(images)[-1].mean((2, 3)))
        return logits


def weights_sha256(state: dict[str, Tensor], names: list[str]) -> str:
    """SHA-256 of these tensors as little-endian float32, whatever file they came in."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(state[name].contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()
