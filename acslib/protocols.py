"""What a user may hand over, said once: models, attacks, objectives, selectors.

What does not fit together `training.fit` says in one sentence before anything is trained, see
`checks.check_training`. Here are the checks that evaluation and attacks make, too.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from acslib.selectors.coreset import Coreset


@runtime_checkable
class Model(Protocol):
    """A classifier in two parts. `models.build` and `models.adapt` make them.

    images: (n, channels, height, width), floats in [0, 1]; normalisation happens inside.
    features: (n, D), what the last layer sees. head: nn.Linear, with or without a bias, from D to
    the number of classes. The model's output is head(features(images)), the logits (n, C).
    """

    head: nn.Linear

    def features(self, images: Tensor) -> Tensor: ...

    def __call__(self, images: Tensor) -> Tensor: ...


class Attack(Protocol):
    """Adversarial images of the same shape and type as `images`, in [0, 1].

    labels: (n,) int64, or probabilities (n, C) for TRADES (eq. 21). The model is left as it was
    found, whatever mode it is in.
    """

    def __call__(self, model: Any, images: Tensor, labels: Tensor) -> Tensor: ...


@runtime_checkable
class ObjectiveLike(Protocol):
    """What is trained: Phi of eqs. (2)-(4).

    perturb: adversarial images for a batch; raises ValueError for images outside [0, 1] and for
    labels that the model has no class for. loss: (n,), one number a sample; `adversarial` is what
    `perturb` gave before, and is computed where it is None. An objective may also have
    `gradients(model, images, labels, adversarial=None) -> LastLayerGradients`; autograd finds them
    where it does not.
    """

    def perturb(self, model: Any, images: Tensor, labels: Tensor) -> Tensor: ...

    def loss(
        self, model: Any, images: Tensor, labels: Tensor, adversarial: Tensor | None = None
    ) -> Tensor: ...


class Selector(Protocol):
    """Which samples to train on, at most `budget` of them, and with what weights.

    gradients: LastLayerGradients of every training sample, or an (n, d) tensor. A selector whose
    attribute `needs_gradients` is False gets `gradients.Samples` instead, and costs nothing.
    """

    def __call__(self, gradients: Any, budget: int, /) -> Coreset: ...


def head_of(model: nn.Module) -> nn.Linear:
    """The model's last layer."""
    head = model.head
    assert isinstance(head, nn.Linear)
    return head


# ---- images, labels, losses


class _Known(NamedTuple):
    """A batch whose values have been looked at: what they were then, and the number of classes."""

    images: Tensor
    labels: Tensor
    versions: tuple[int, int]
    classes: int


_known: ContextVar[_Known | None] = ContextVar("known", default=None)


@contextlib.contextmanager
def looked_at(images: Tensor, labels: Tensor, classes: int) -> Iterator[None]:
    """Within it, nobody looks again at the values of these very tensors, unless they have changed.

    The caller vouches that images lie in [0, 1] and labels below `classes`. On a GPU each look
    waits for the device. Other tensors, views and copies too, are checked as ever.
    """
    known = None
    if not (images.is_inference() or labels.is_inference()):
        known = _Known(images, labels, (images._version, labels._version), classes)
    token = _known.set(known)
    try:
        yield
    finally:
        _known.reset(token)


def _is_known(values: Tensor, classes: int | None = None) -> bool:
    known = _known.get()
    if known is None or (classes is not None and classes < known.classes):
        return False
    pairs = zip((known.images, known.labels), known.versions, strict=True)
    return any(values is tensor and tensor._version == version for tensor, version in pairs)


def check_images(images: Tensor) -> None:
    """Raise ValueError unless the images are floats in [0, 1]."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images are {type(images).__name__}: give a tensor of floats in [0, 1]")
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}, attacks need floats in [0, 1]: divide bytes by 255"
        )
    if images.numel() and not _is_known(images):
        low, high = (float(bound) for bound in torch.aminmax(images))
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"images span [{_limit(low)}, {_limit(high)}], attacks need [0, 1]: divide bytes by"
                " 255, clip what rounding put outside, and do not normalise, the model does that"
                " inside"
            )


def check_channels(model: nn.Module, images: Tensor) -> None:
    """Raise ValueError where a model's normalisation would stretch images of one channel to the
    model's, or those of several cannot pass it.
    """
    mean = getattr(model, "mean", None)
    if isinstance(mean, Tensor) and images.ndim == 4 and mean.numel() not in (1, images.shape[1]):
        raise ValueError(
            f"images have {images.shape[1]} channel{'s' * (images.shape[1] != 1)}, and the model"
            f" normalises {mean.numel()}: give it images of {mean.numel()}, as"
            f" images.expand(-1, {mean.numel()}, -1, -1) makes of grey ones, or another model"
        )


def _limit(value: float) -> str:
    """Short, unless that would hide by how little it lies outside [0, 1]."""
    short = f"{value:g}"
    return short if (float(short) > 1) == (value > 1) else repr(value)


def checked_labels(labels: Tensor, n: int, classes: int | None = None) -> Tensor:
    """`labels` as (n,) int64, or ValueError; `classes` is the number of the model's outputs."""
    labels = whole_labels(labels, n)
    _check_span(labels, classes)
    return labels


def whole_labels(labels: Tensor, n: int) -> Tensor:
    """The same, whatever numbers they are: an integer for each of `n` images."""
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels are {type(labels).__name__}: give a tensor of {n} integers")
    if labels.ndim != 1:
        way_out = ""
        if labels.ndim == 2:
            column = labels.shape[1] == 1
            way_out = f", like labels.{'squeeze(1)' if column else 'argmax(1) of one-hot rows'}"
        raise ValueError(f"labels have shape {tuple(labels.shape)}: give ({n},){way_out}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels are {labels.dtype}: give integers, like labels.long()")
    if len(labels) != n:
        raise ValueError(f"{n} images and {len(labels)} labels: as many of each are needed")
    return labels.long()


def check_labels(model: nn.Module, labels: Tensor) -> None:
    """Raise ValueError unless class indices are below the width of `model.head`.

    Probabilities are not looked at.
    """
    classes = classes_of(model)
    if classes is not None and not labels.is_floating_point():
        _check_span(labels, classes)


def classes_of(model: nn.Module) -> int | None:
    """How many classes the model's `head` tells apart; None where there is none to ask."""
    classes = getattr(getattr(model, "head", None), "out_features", None)
    return None if classes is None else int(classes)


def _check_span(labels: Tensor, classes: int | None) -> None:
    if not len(labels) or _is_known(labels, classes):
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if classes is not None and (low < 0 or high >= classes):
        raise ValueError(
            f"labels span {low}..{high}, the model has {classes} classes:"
            f" they must lie in 0..{classes - 1}"
        )
    if low < 0:
        raise ValueError(f"labels span {low}..{high}: class indices begin at 0")


def check_logits(logits: Any, n: int) -> None:
    """Raise ValueError unless what a model gave for n images are its logits, (n, C)."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the model's output is {kind}: return its logits, a floating-point tensor"
            f" ({n}, classes)"
        )
    if logits.ndim != 2 or len(logits) != n:
        raise ValueError(
            f"the model's output has shape {tuple(logits.shape)}: return logits of shape"
            f" ({n}, classes), one row an image"
        )


def check_loss(losses: Any, n: int) -> None:
    """Raise ValueError unless a loss is one floating-point number for each of n samples."""
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        kind = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(f"the objective's loss is {kind}: return a floating-point tensor ({n},)")
    if losses.shape != (n,):
        raise ValueError(
            f"the objective's loss has shape {tuple(losses.shape)}: return one number for each of"
            f' the {n} samples, like cross_entropy(..., reduction="none")'
        )


# ---- functions


def why_not_called(function: Callable[..., Any], *names: str) -> str | None:
    """Why a function cannot be called with so many arguments; None where it can, or where only the
    call can tell.
    """
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # compiled
        return None
    try:
        signature.bind(*names)
    except TypeError as error:
        return str(error)
    return None
