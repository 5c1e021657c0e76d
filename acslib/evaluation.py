"""What a trained network is worth: clean accuracy, and robust accuracy under PGD-50-10 or any other
attack.
"""

import dataclasses

import torch
from torch import Tensor, nn

from acslib.passes import frozen
from acslib.protocols import check_images, check_labels


@torch.no_grad()
def clean_accuracy(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500
) -> tuple[float, Tensor]:
    """The fraction of `images` (n, C, H, W) that `model` in evaluation mode labels rightly, and the
    mask (n,).

    Raises ValueError for images outside [0, 1], labels that the model has no class for and outputs
    that are not finite.
    """
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{len(images)} images and {len(labels)} labels: as many of each are needed, and at least 1"
        )
    check_images(images)
    check_labels(model, labels)
    with frozen(model, "eval"):
        logits = torch.cat([model(part) for part in images.split(batch_size)])
    if not logits.isfinite().all():
        raise ValueError(
            "the network's outputs are not all finite, its training has diverged: lower lr, move the run's"
            " folder away and train again"
        )
    mask = logits.argmax(1) == labels
    return float(mask.float().mean()), mask


def robust_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack,
    batch_size: int = 500,
    attacked: nn.Module | None = None,
) -> tuple[float, Tensor]:
    """The fraction of `images` that stays rightly labelled under `attack`, and the mask (n,).

    A sample counts as robust only if it is right when clean and no iterate of any restart fools the
    network attacked: attacks that know how to stop early (PGD) are told to. With epsilon 0 this is
    the clean accuracy. `attacked` is a faster twin of `model` (see `models.folded`) for the attack
    to work on, and to stop early by; `model` judges what the attack gives, and where what fools the
    twin does not fool it the attack is run again on `model` itself.
    """
    if hasattr(attack, "early_stop"):
        attack = dataclasses.replace(attack, early_stop=True)
    _, mask = clean_accuracy(model, images, labels, batch_size)
    for rows in mask.nonzero().squeeze(1).split(batch_size) if mask.any() else ():
        with frozen(model, "eval"):
            mask[rows], disputed = _standing(
                model, images[rows], labels[rows], attack, attacked or model
            )
            rows = rows[disputed]
            if len(rows):
                mask[rows], _ = _standing(model, images[rows], labels[rows], attack, model)
    return float(mask.float().mean()), mask


@torch.no_grad()
def _standing(model, images, labels, attack, attacked) -> tuple[Tensor, Tensor]:
    """Which samples `model` still labels rightly, and which of those `attacked` believes to be
    fooled.
    """
    adversarial = attack(attacked, images, labels)
    right = model(adversarial).argmax(1) == labels
    disputed = (
        right & (attacked(adversarial).argmax(1) != labels)
        if attacked is not model
        else right & False
    )
    return right, disputed
