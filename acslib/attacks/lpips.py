"""The LPIPS distance between images, as perceptual adversarial training measures it (Laidlaw et
al., ICLR 2021).

The distance is between feature maps of a network: AlexNet (externally bounded; with ImageNet's
weights, or a small one trained by `alexnet.train_alexnet`) or the attacked model itself
(self-bounded). It is the *unweighted* LPIPS of perceptual adversarial training, not the calibrated
one of Zhang et al. (2018).
"""

import torch
from torch import Tensor, nn

from acslib.attacks.alexnet import dataset_alexnet, imagenet_alexnet


class LPIPS(nn.Module):
    """Unweighted LPIPS: the l2 distance (not squared) between two images' normalised feature maps.

    Each map is divided, at every position, by its norm over the channels (plus 1e-10), then by
    sqrt(H_l * W_l); all maps are concatenated. `net` is any module with `feature_maps(images)`: an
    `AlexNet`, or a `models.ResNet`.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def embed(self, images: Tensor) -> Tensor:
        """Images (n, c, H, W) in [0, 1] to vectors (n, K) whose l2 distance is the perceptual one."""
        parts = []
        for maps in self.net.feature_maps(images):
            maps = maps.to(images.dtype)
            unit = maps / (torch.linalg.vector_norm(maps, dim=1, keepdim=True) + 1e-10)
            parts.append(unit.flatten(1) / (maps.shape[2] * maps.shape[3]) ** 0.5)
        return torch.cat(parts, dim=1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances (n,) between the images of two batches."""
        return torch.linalg.vector_norm(self.embed(first) - self.embed(second), dim=1)


def distance_for(dataset: str, side: int = 224, device="cpu") -> LPIPS:
    """LPIPS as the paper measures it on `dataset`: AlexNet of ImageNet for image folders, else of
    the data set itself.

    The latter is trained on first use and cached (see `dataset_alexnet`). `side` is that of the
    images: below 64 px ImageNet's AlexNet gets a smaller stride, as its last maps would be of one
    pixel.
    """
    if dataset in ("imagenet12", "imagenet100"):
        return LPIPS(imagenet_alexnet("imagenet" if side >= 64 else "imagenet_32px")).to(device)
    return LPIPS(dataset_alexnet(dataset, device=device)).to(device)
