"""What images and labels must be, said and checked once."""

import torch
from torch import Tensor, nn


def check_images(images: Tensor) -> None:
    """Raise ValueError unless the images are floats in [0, 1]."""
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}, attacks need floats in [0, 1]: divide bytes by 255"
        )
    if images.numel():
        low, high = (float(bound) for bound in torch.aminmax(images))
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"images span [{low:g}, {high:g}], attacks need [0, 1]: divide bytes by 255 and do not"
                " normalise, the model does that inside"
            )


def check_labels(model: nn.Module, labels: Tensor) -> None:
    """Raise ValueError unless class indices are below the width of `model.head`; probabilities are
    not looked at.
    """
    classes = getattr(getattr(model, "head", None), "out_features", None)
    if classes is None or labels.is_floating_point() or not len(labels):
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels span {low}..{high}, the model has {classes} classes:"
            f" they must lie in 0..{classes - 1}"
        )
