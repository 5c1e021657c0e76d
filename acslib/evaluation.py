"""What a trained network is worth: clean accuracy, and robust accuracy under PGD-50-10 or any other
attack.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from acslib.attacks.calling import bound_to, call
from acslib.attacks.common import right
from acslib.passes import frozen
from acslib.protocols import check_images, checked_labels, classes_of


@torch.no_grad()
def clean_accuracy(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500
) -> tuple[float, Tensor]:
    """The fraction of `images` (n, C, H, W) that `model` in evaluation mode labels rightly, and the
    mask (n,).

    Raises ValueError for images outside [0, 1], labels that are not one class index of the model's
    for each image, and outputs that are not finite.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(
            f"{len(images)} images in batches of {batch_size}: at least 1 of each is needed"
        )
    check_images(images)
    labels = checked_labels(labels, len(images), classes_of(model))
    with frozen(model, "eval"):
        logits = torch.cat([model(part) for part in torch.split(images, batch_size)])
    checked_labels(labels, len(images), logits.shape[1])
    if not logits.isfinite().all():
        raise ValueError(
            "the network's outputs are not all finite, its training has diverged: lower lr, move"
            " the run's folder away and train again"
        )
    mask = right(logits, labels)
    return float(mask.float().mean()), mask


def robust_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Callable[..., Any],
    batch_size: int = 500,
    attacked: nn.Module | None = None,
) -> tuple[float, Tensor]:
    """The fraction of `images` that stays rightly labelled under `attack`, and the mask (n,).

    A sample counts as robust only if it is right when clean and no iterate of any restart fools the
    network attacked: attacks that know how to stop early (PGD) are told to. Logits that are not
    finite are never right. With epsilon 0 this is the clean accuracy. `attack` is any that
    `attacks.call` can call, another library's too. `attacked` is a faster twin of `model` (see
    `models.folded`) for the attack to work on, and to stop early by; `model` judges what the attack
    gives, and where what fools the twin does not fool it the attack is run again on `model` itself.
    """
    if bound_to(attack) is not None:  # it attacks its own network, whatever the twin
        attacked = _checked_bound(attack, model)
    elif dataclasses.is_dataclass(attack) and hasattr(attack, "early_stop"):
        attack = dataclasses.replace(attack, early_stop=True)  # type: ignore[type-var]
    attacked = model if attacked is None else attacked
    _, mask = clean_accuracy(model, images, labels, batch_size)
    labels = checked_labels(labels, len(images))
    for rows in torch.split(mask.nonzero().squeeze(1), batch_size) if mask.any() else ():
        with frozen(model, "eval"):
            mask[rows], disputed = _standing(model, images[rows], labels[rows], attack, attacked)
            rows = rows[disputed]
            if len(rows):
                mask[rows], _ = _standing(model, images[rows], labels[rows], attack, model)
    return float(mask.float().mean()), mask


def _checked_bound(attack: Callable[..., Any], model: nn.Module) -> nn.Module:
    if bound_to(attack) is not model:
        raise ValueError(
            f"the attack {type(attack).__name__} was built on another network than the one to be"
            " evaluated: build it on that, or, if a transferred attack is meant, wrap it as lambda"
            " model, images, labels: attack(images, labels)"
        )
    return model


@torch.no_grad()
def _standing(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Callable[..., Any],
    attacked: nn.Module,
) -> tuple[Tensor, Tensor]:
    """Which samples `model` still labels rightly, and which of those `attacked` believes to be
    fooled.
    """
    adversarial = call(attack, attacked, images, labels)
    standing = right(model(adversarial), labels)
    if attacked is model:
        return standing, torch.zeros_like(standing)
    return standing, standing & ~right(attacked(adversarial), labels)
