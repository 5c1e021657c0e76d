"""The LPIPS distance between images, as Laidlaw et al. (ICLR 2021) measure it.

The distance is between feature maps of a network: AlexNet (externally bounded; with ImageNet's
weights, or a small one trained by `alexnet_trained.train_alexnet`) or the attacked model itself
(self-bounded). It is the *unweighted* LPIPS of perceptual adversarial training, not the calibrated
one of Zhang et al. (2018).
"""

from typing import cast

import torch
from torch import Tensor, nn

from acslib.attacks.alexnet import AlexNet
from acslib.attacks.alexnet_imagenet import imagenet_alexnet
from acslib.attacks.alexnet_trained import Progress, dataset_alexnet, silent


class LPIPS(nn.Module):
    """Unweighted LPIPS: the l2 distance (not squared) between two images' normalised feature maps.

    Each map is divided, at every position, by its norm over the channels (plus 1e-10), then by
    sqrt(H_l * W_l); all maps are concatenated. `net` is any module with `feature_maps(images)`: an
    `AlexNet`, or a `models.ResNet`. Raises ValueError for one without.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        if not hasattr(net, "feature_maps"):
            raise ValueError(
                f"{type(net).__name__} has no feature_maps(images) to measure a perceptual distance"
                " by: give a distance, as lpips.distance_for(dataset)"
            )
        self.net = net

    def embed(self, images: Tensor) -> Tensor:
        """Images (n, c, H, W) in [0, 1] to vectors (n, K) whose l2 distance is LPIPS."""
        parts = []
        for maps in cast(AlexNet, self.net).feature_maps(images):
            maps = maps.to(images.dtype)
            unit = maps / (torch.linalg.vector_norm(maps, dim=1, keepdim=True) + 1e-10)
            parts.append(unit.flatten(1) / (maps.shape[2] * maps.shape[3]) ** 0.5)
        return torch.cat(parts, dim=1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (n,) between the images of two batches."""
        change = self.embed(first) - self.embed(second)
        return cast(Tensor, torch.linalg.vector_norm(change, dim=1))


def distance_for(
    dataset: str, side: int = 224, device: str | torch.device = "cpu", *, train: bool = False
) -> LPIPS:
    """LPIPS as the paper measures it on `dataset`: AlexNet of ImageNet for image folders, else of
    the data set itself.

    Its network must be there: `make lpips-net`, or `prepare`, trains or fetches it once, and so
    does `train`. Raises DataError, which says so, where it is missing. `side` is that of the images
    in pixels.
    """
    return LPIPS(alexnet_for(dataset, side, device=device, train=train))


def alexnet_for(
    dataset: str,
    side: int = 224,
    *,
    device: str | torch.device = "cpu",
    train: bool = False,
    progress: Progress = silent,
) -> AlexNet:
    """The AlexNet that compares images of `dataset`: ImageNet's for image folders, else its own.

    `side` is that of the images in pixels: below 64 ImageNet's AlexNet gets a smaller stride, as
    its last maps would be of one pixel. Raises DataError where the network is not there yet; with
    `train` it is trained, or fetched, first.
    """
    if dataset in ("imagenet12", "imagenet100"):
        net = imagenet_alexnet("imagenet" if side >= 64 else "imagenet_32px", fetch=train)
    else:
        net = dataset_alexnet(dataset, train=train, device=device, progress=progress)
    return net.to(device)


def prepare(
    dataset: str,
    side: int = 224,
    *,
    device: str | torch.device = "cpu",
    progress: Progress = silent,
) -> AlexNet:
    """Train or fetch, once, the AlexNet that compares images of `dataset`: `make lpips-net`."""
    return alexnet_for(dataset, side, device=device, train=True, progress=progress)
