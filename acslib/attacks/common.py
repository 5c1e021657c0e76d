"""What all attacks share: their checks, norms, margins, gradients that are numbers.

NaN and infinity are nobody's success. A network whose logits are not finite has not labelled the
image rightly (`right`); an attack takes no step that is not finite (`usable`).
"""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from acslib.passes import frozen
from acslib.protocols import check_channels, check_images, checked_labels, classes_of


def check_amounts(**amounts: float) -> None:
    """Raise ValueError unless each is a finite number of at least 0: an infinite step times a
    gradient of 0 is no number.
    """
    for name, amount in amounts.items():
        try:
            fine = 0 <= float(amount) < math.inf and not isinstance(amount, str)
        except (TypeError, ValueError):
            fine = False
        if not fine:
            raise ValueError(f"{name} is {amount!r}: give a finite number of at least 0")


def check_counts(least: int, **counts: int) -> None:
    """Raise ValueError unless each is a whole number of at least `least`."""
    for name, count in counts.items():
        try:
            fine = operator.index(count) >= least
        except TypeError:
            fine = False
        if not fine:
            raise ValueError(f"{name} is {count!r}: give a whole number of at least {least}")


def check_search(bound: float, iterations: int) -> None:
    """Raise ValueError unless an attack may search within `bound`, for at least one iteration."""
    check_amounts(bound=bound)
    check_counts(1, iterations=iterations)


@dataclass(frozen=True)
class Base(ABC):
    """What every attack here does around its own search, `_perturb`.

    It is called as `attack(model, images, labels)`: images (n, C, H, W) in [0, 1], class indices
    (n,), and returns the adversarial images, of the same shape, type and device. It works whatever
    the gradient mode around it, computes no gradient for a weight and leaves the model as it was.
    `mode` None attacks the model in the mode it is in. Raises ValueError for images outside [0, 1]
    or of a type not in `types`, and for labels that do not fit.
    """

    _: KW_ONLY
    mode: Literal["eval", "train"] | None = None
    generator: torch.Generator | None = field(default=None, compare=False)

    types: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            images, labels = self._checked(model, images, labels)
            with frozen(model, self.mode):
                return self._perturb(model, images, labels)

    @abstractmethod
    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor: ...

    def _checked(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        check_images(images)
        check_channels(model, images)
        if images.dtype not in self.types:
            known = " or ".join(str(kind).removeprefix("torch.") for kind in self.types)
            raise ValueError(
                f"{type(self).__name__} needs {known} images and these are {images.dtype}: give"
                " images.float()"
            )
        labels = self._checked_labels(model, labels, len(images))
        return ordinary(images.detach()), ordinary(labels.detach())

    def _checked_labels(self, model: nn.Module, labels: Tensor, n: int) -> Tensor:
        return checked_labels(labels, n, classes_of(model))


def ordinary(values: Tensor) -> Tensor:
    """What inference mode made cannot take part in a gradient; a copy can."""
    return values.clone() if values.is_inference() else values


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Values (n,) shaped (n, 1, 1, 1), or as `like` needs them."""
    return values.view(-1, *[1] * (like.ndim - 1))


def norms(x: Tensor) -> Tensor:
    """The l2 norm of each sample, shaped (n, 1, 1, 1)."""
    return per_sample(x.flatten(1).norm(dim=1), x)


def clipped(x: Tensor, low: float, high: float) -> Tensor:
    """`x.clamp(low, high)`, with gradient 1 also where x is exactly `low` or `high`.

    clamp's own gradient is 1 there up to torch 2.13 and 0 from 2.14 on, by which black and white
    pixels would stand still under an attack.
    """
    inside = (x >= low) & (x <= high)
    return x.where(inside, x.detach().clamp(low, high))


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Which samples are labelled rightly, (n,): no sample is whose logits are not all finite."""
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max over wrong classes of z_k, minus z_y, (n,): positive where the model errs (Carlini and
    Wagner, 2017), infinite where its logits are not all finite.
    """
    truth = logits.gather(1, labels[:, None])
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)
    return (wrong - truth).squeeze(1).where(logits.isfinite().all(1), torch.inf)


def ascent(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n,) of a function of images, and its gradient with respect to them."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        values = function(x)
        total = values.sum()
    return values.detach(), torch.autograd.grad(total, x)[0]


def usable(gradient: Tensor) -> Tensor:
    """The gradient (n, ...) as one that can be followed: finite, and as it is wherever it was.

    NaN entries count as 0. Where entries are infinite they alone give the direction, which is the
    limit of the normalised gradient. A sample with nothing but NaN goes in a direction of no
    meaning: it lies on a point without a gradient (a square root at 0), and whoever stays there
    has not been attacked. On a GPU no value is looked at, since each look waits for the device.
    """
    if gradient.is_cpu and gradient.isfinite().all():
        return gradient
    infinite = gradient.isinf()
    steep = per_sample(infinite.flatten(1).any(1), gradient)
    lost = per_sample(gradient.isnan().flatten(1).all(1), gradient)
    gradient = torch.where(steep, gradient.sign().where(infinite, 0), gradient)
    return torch.where(lost, _meaningless(gradient), gradient.nan_to_num(nan=0))


def _meaningless(like: Tensor) -> Tensor:
    """A direction for samples (n, ...) about which nothing is known, the same for all, (1, ...)."""
    entries = torch.arange(like[:1].numel(), device=like.device, dtype=torch.float32)
    return entries.square().cos().view(like[:1].shape).to(like.dtype)
