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
                f"images span [{_limit(low)}, {_limit(high)}], attacks need [0, 1]: divide bytes by"
                " 255, clip what rounding put outside, and do not normalise, the model does that"
                " inside"
            )


def _limit(value: float) -> str:
    """Short, unless that would hide by how little it lies outside [0, 1]."""
    short = f"{value:g}"
    return short if (float(short) > 1) == (value > 1) else repr(value)


def check_labels(model: nn.Module, labels: Tensor) -> None:
    """Raise ValueError unless class indices are below the width of `model.head`; probabilities are
    not looked at.
    """
    classes = classes_of(model)
    if classes is not None and not labels.is_floating_point():
        _check_span(labels, classes)


def checked_labels(labels: Tensor, n: int, classes: int | None = None) -> Tensor:
    """`labels` as int64 class indices, one for each of `n` images.

    Any whole type is converted. Raises ValueError for another shape than (n,), for other types, and
    for indices below 0 or, where the number of `classes` is known, beyond them.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels are {labels.dtype}: give class indices, one whole number for each image"
        )
    if labels.shape != (n,):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and there are {n} images: give one class"
            f" index for each image, of shape ({n},)"
        )
    labels = labels.long()
    _check_span(labels, classes)
    return labels


def classes_of(model: nn.Module) -> int | None:
    """How many classes the model's `head` tells apart; None where there is none to ask."""
    classes = getattr(getattr(model, "head", None), "out_features", None)
    return None if classes is None else int(classes)


def _check_span(labels: Tensor, classes: int | None) -> None:
    if not len(labels):
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if classes is not None and (low < 0 or high >= classes):
        raise ValueError(
            f"labels span {low}..{high}, the model has {classes} classes:"
            f" they must lie in 0..{classes - 1}"
        )
    if low < 0:
        raise ValueError(f"labels span {low}..{high}: class indices begin at 0")
