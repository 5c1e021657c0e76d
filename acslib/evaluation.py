"""What a trained network is worth: clean accuracy, and robust accuracy under PGD or any attack."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from acslib.attacks.autoattack import AutoAttack
from acslib.attacks.calling import bound_to, call, check_built_on
from acslib.attacks.common import Base, ordinary, right
from acslib.attacks.pgd import PGD
from acslib.attacks.restarts import Found, finish, search
from acslib.passes import frozen
from acslib.protocols import check_channels, check_images, check_logits, checked_labels, classes_of


@torch.no_grad()
def clean_accuracy(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500
) -> tuple[float, Tensor]:
    """The fraction of `images` (n, C, H, W) that `model` in eval mode labels rightly; mask (n,).

    Raises ValueError for images outside [0, 1], labels that are not one class index of the model's
    for each image, and outputs that are not finite.
    """
    if len(images) == 0 or batch_size < 1:
        raise ValueError(
            f"{len(images)} images in batches of {batch_size}: at least 1 of each is needed"
        )
    check_images(images)
    check_channels(model, images)
    labels = checked_labels(labels, len(images), classes_of(model))
    with frozen(model, "eval"):
        logits = _logits(model, images, batch_size)
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
    network attacked: PGD is searched so (`attacks.restarts`), and other attacks that know how to
    stop early are told to. Logits that are not finite are never right. With epsilon 0 this is the
    clean accuracy. `attack` is any that `attacks.call` can call, another library's too.

    `attacked` is a faster twin of `model` (see `models.folded`) for the attack to work on, and to
    stop early by. `model` judges what the attack gives. Where what fools the twin does not fool it
    the attack is run again on `model` itself. Who withstands it on the twin is attacked on `model`
    too, by a tenth of the steps (5 at least): under PGD from the strongest iterate and from a fresh
    start, under AutoAttack by PGD, under the other attacks of `acslib.attacks` by a short one of
    the same kind. Another library's attack has no short form, and is run on the twin alone.
    """
    if bound_to(attack) is not None:  # it attacks its own network, whatever the twin
        check_built_on(attack, model, images, "evaluated")
        attacked = model
    attacked = model if attacked is None else attacked
    _, mask = clean_accuracy(model, images, labels, batch_size)
    labels = checked_labels(labels, len(images))
    if not mask.any():
        return 0.0, mask
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        frozen(model, "eval"),
        frozen(attacked, "eval"),
    ):
        images, labels, mask = (ordinary(part.detach()) for part in (images, labels, mask))
        rows = mask.nonzero().squeeze(1)
        if isinstance(attack, PGD) and _searchable(attack, images):
            mask[rows] = _robust_to_pgd(
                model, images[rows], labels[rows], attack, batch_size, attacked
            )
        else:
            for part in torch.split(rows, batch_size):
                mask[part] = _robust(model, images[part], labels[part], attack, attacked)
    return float(mask.float().mean()), mask


def _searchable(attack: PGD, images: Tensor) -> bool:
    return attack.epsilon > 0 and attack.mode != "train" and images.dtype in Base.types


def _robust_to_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: PGD,
    batch_size: int,
    attacked: nn.Module,
) -> Tensor:
    """Which images, all right when clean, stand, (n,)."""
    whole = attack.climb(attack.steps, batch_size)
    short = attack.climb(min(attack.steps, max(5, attack.steps // 10)), batch_size)
    found = search(whole, attack.restarts, attacked, images, labels)
    fooled, mask = found.margins > 0, right(_logits(model, found.images, batch_size), labels)
    if attacked is model:
        return mask & ~fooled
    rows = mask & fooled  # the twin alone: again, on the network itself
    if rows.any():
        again = search(whole, attack.restarts, model, images[rows], labels[rows])
        mask[rows] = _standing(model, again, labels[rows], batch_size)
    rows = mask & ~fooled
    if rows.any():
        again = finish(short, model, images[rows], labels[rows], found.images[rows])
        mask[rows] = _standing(model, again, labels[rows], batch_size)
    return mask


def _standing(model: nn.Module, found: Found, labels: Tensor, batch_size: int) -> Tensor:
    """Which images `model` labels rightly at every iterate of a search, (n,)."""
    return (found.margins <= 0) & right(_logits(model, found.images, batch_size), labels)


def _logits(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    found = []
    for part in torch.split(images, batch_size):
        found.append(model(part))
        check_logits(found[-1], len(part))
    return torch.cat(found)


def _robust(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Callable[..., Any],
    attacked: nn.Module,
) -> Tensor:
    """Which images `model` still labels rightly, (n,); `attack` is run again on `model` for those
    that fool its twin only.
    """
    if dataclasses.is_dataclass(attack) and hasattr(attack, "early_stop"):
        attack = dataclasses.replace(attack, early_stop=True)  # type: ignore[type-var]
    adversarial = call(attack, attacked, images, labels)
    mask = right(model(adversarial), labels)
    if attacked is not model:
        rows = mask & ~right(attacked(adversarial), labels)
        if rows.any():
            again = call(attack, model, images[rows], labels[rows])
            mask[rows] = right(model(again), labels[rows])
        rows, short = mask & ~rows, _short(attack, images.device)
        if short is not None and rows.any():
            again = short(model, images[rows], labels[rows])
            mask[rows] = right(model(again), labels[rows])
    return mask


def _short(attack: Callable[..., Any], device: torch.device) -> Callable[..., Any] | None:
    """An attack of a tenth of the steps, 5 at least, or None where it has none that we know.

    It draws from a generator of its own: what the attack draws next stays as it is.
    """
    generator = torch.Generator(device).manual_seed(0)
    if isinstance(attack, AutoAttack):
        return PGD(
            attack.norm,
            attack.epsilon,
            attack.epsilon / 4,
            10,
            early_stop=True,
            generator=generator,
        )
    named = [one.name for one in dataclasses.fields(attack)] if isinstance(attack, Base) else []
    for name in ("steps", "iterations"):
        if name in named:  # no attribute alone: `replace` could not set that
            count = getattr(attack, name)
            fewer = {name: min(count, max(5, count // 10))}
            return dataclasses.replace(attack, generator=generator, **fewer)  # type: ignore[type-var]
    return None
