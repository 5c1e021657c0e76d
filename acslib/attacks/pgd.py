"""FGSM, N-FGSM and PGD (linf and l2), the inner maximisation of eqs. (3), (17) and (21).

Labels may be class indices (n,) or, for TRADES (eq. 21), the probabilities (n, C) that the clean
images get. Images may be of half precision: the attack computes in float32, shows the model images
of their type and rounds to it at the end, so that they leave the ball by a rounding at most.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from acslib.attacks.common import (
    Base,
    check_amounts,
    check_counts,
    norms,
    per_sample,
    right,
    usable,
)
from acslib.attacks.restarts import Climb, cross_entropies, input_gradient, search
from acslib.protocols import classes_of


def project(x: Tensor, images: Tensor, norm: str, epsilon: float) -> Tensor:
    """The nearest point to `x` within `epsilon` of `images`, then in [0, 1], still in the ball."""
    if norm == "linf":
        return x.clamp(images - epsilon, images + epsilon).clamp_(0, 1)
    change = x - images
    return (images + change * (epsilon / norms(change).clamp_min(1e-12)).clamp_max(1)).clamp(0, 1)


def uniform_in_ball(
    images: Tensor, norm: str, epsilon: float, generator: torch.Generator | None = None
) -> Tensor:
    """Noise uniform in the linf or l2 ball of radius `epsilon`."""
    device, dtype = images.device, images.dtype
    if norm == "linf":
        noise = torch.rand(images.shape, device=device, dtype=dtype, generator=generator)
        return noise.mul_(2).sub_(1).mul_(epsilon)
    direction = torch.randn(images.shape, device=device, dtype=dtype, generator=generator)
    uniform = torch.rand(len(images), device=device, dtype=dtype, generator=generator)
    radius = uniform ** (1 / max(images.shape[1:].numel(), 1))
    return direction * (epsilon * per_sample(radius, images) / norms(direction).clamp_min(1e-12))


@dataclass(frozen=True)
class _GradientAttack(Base):
    """Climbs the cross-entropy of class indices or, as TRADES does, of probabilities."""

    types: ClassVar = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

    def _checked_labels(self, model: nn.Module, labels: Tensor, n: int) -> Tensor:
        if not labels.is_floating_point():
            return super()._checked_labels(model, labels, n)
        classes = classes_of(model)
        if labels.ndim != 2 or len(labels) != n or labels.shape[1] != (classes or labels.shape[1]):
            raise ValueError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}: give class indices"
                f" ({n},), or probabilities ({n}, {classes or 'classes'})"
            )
        return labels


@dataclass(frozen=True)
class PGD(_GradientAttack):
    """Projected gradient ascent on the cross-entropy (Madry et al., 2018): eqs. (3) and (17).

    `epsilon` and `step` are in units of [0, 1] pixels. Without `early_stop` the last iterate of the
    restart with the largest loss is returned; with it (evaluation), each sample stops at its first
    iterate, over all restarts, that fools the model. `start` says where `random_start` begins:
    "uniform" in the ball, or "normal", 0.001 N(0, 1) about the image, as TRADES' own code does. The
    model attacks in the mode it is in. Raises ValueError for images outside [0, 1], class indices
    that the model has not, and probabilities with `early_stop`.
    """

    norm: Literal["linf", "l2"]
    epsilon: float
    step: float
    steps: int
    restarts: int = 1
    random_start: bool = True
    early_stop: bool = False
    _: KW_ONLY
    start: Literal["uniform", "normal"] = "uniform"

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"norm is {self.norm!r}: choose linf or l2")
        if self.start not in ("uniform", "normal"):
            raise ValueError(f"start is {self.start!r}: choose uniform or normal")
        check_amounts(epsilon=self.epsilon, step=self.step)
        check_counts(0, steps=self.steps)
        check_counts(1, restarts=self.restarts)

    def _checked_labels(self, model: nn.Module, labels: Tensor, n: int) -> Tensor:
        if self.early_stop and labels.is_floating_point():
            raise ValueError(
                f"early_stop needs to know the class, labels are {labels.dtype}: give class indices"
            )
        return super()._checked_labels(model, labels, n)

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if self.epsilon == 0:
            return images.clone()
        seen, exact = _in_float32(model, images)
        search = self._stopping_early if self.early_stop else self._best
        return search(seen, exact, labels).to(images.dtype)

    def _best(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        best = self._climb(model, images, labels)
        if self.restarts == 1:
            return best
        best_loss = losses(model, best, labels)
        for _ in range(self.restarts - 1):
            candidate = self._climb(model, images, labels)
            loss = losses(model, candidate, labels)
            better = loss > best_loss
            best[better], best_loss[better] = candidate[better], loss[better]
        return best

    def _climb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The last iterate. Gradients are taken to be finite, and looked at once, at the end: on a
        GPU each look waits for the device. If one was not, the climb is repeated with care.
        """
        start = self._begin(images)
        x, finite = start, torch.ones((), dtype=torch.bool, device=images.device)
        for _ in range(self.steps):
            gradient, _ = input_gradient(model, x, labels)
            finite = finite & gradient.isfinite().all()
            x = self._move(x, gradient.nan_to_num(0), images)
        if finite:
            return x
        x = start
        for _ in range(self.steps):
            gradient, _ = input_gradient(model, x, labels)
            x = self._ascend(x, gradient, images)
        return x

    def _stopping_early(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        result, rows = images.clone(), right(model(images), labels)
        climb = self.climb(self.steps, max(1, len(images)))
        result[rows] = search(climb, self.restarts, model, images[rows], labels[rows]).images
        return result

    def climb(self, steps: int, batch_size: int) -> Climb:
        """One restart, for `restarts.search`."""
        return Climb(self._begin, self._ascend, steps, batch_size)

    def _begin(self, images: Tensor) -> Tensor:
        if not self.random_start:
            return images.clone()
        if self.start == "normal":
            noise = 0.001 * torch.randn(
                images.shape, device=images.device, dtype=images.dtype, generator=self.generator
            )
        else:
            noise = uniform_in_ball(images, self.norm, self.epsilon, self.generator)
        return project(images + noise, images, self.norm, self.epsilon)

    def _ascend(self, x: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        return self._move(x, usable(gradient), images)

    def _move(self, x: Tensor, gradient: Tensor, images: Tensor) -> Tensor:
        if self.norm == "linf":
            direction = gradient.sign()
        else:
            direction = gradient / norms(gradient).clamp_min(1e-12)
        return project(direction.mul_(self.step).add_(x), images, self.norm, self.epsilon)


def FGSM(epsilon: float, step: float, **options: Any) -> PGD:
    """One step of fast gradient sign from a random start (Wong et al., 2020): FAT's attack."""
    return PGD("linf", epsilon, step, steps=1, **options)


@dataclass(frozen=True)
class NFGSM(_GradientAttack):
    """N-FGSM (de Jorge et al., 2022): a signed step from strong noise, not clipped to the ball.

    The noise is uniform in [-noise * epsilon, noise * epsilon], the step is added to it, and only
    [0, 1] bounds both: the image moves by up to noise * epsilon + step. The paper trains with noise
    2 and step = epsilon, its default here, and evaluates with PGD. Raises ValueError as PGD does.
    """

    epsilon: float
    step: float | None = None
    noise: float = 2.0

    def __post_init__(self) -> None:
        check_amounts(epsilon=self.epsilon, noise=self.noise)
        if self.step is not None:
            check_amounts(step=self.step)

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        seen, exact = _in_float32(model, images)
        noise = uniform_in_ball(exact, "linf", self.noise * self.epsilon, self.generator)
        start = (exact + noise).clamp_(0, 1)
        gradient, _ = input_gradient(seen, start, labels)
        step = self.epsilon if self.step is None else self.step
        moved = start + step * usable(gradient).sign()
        return moved.clamp_(0, 1).to(images.dtype)


class _Rounding(nn.Module):
    """A model that is shown its images in another type."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.to(self.dtype))
        return logits


def _in_float32(model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """Model and images as they are, or images of half precision in float32 and a model that gets
    them rounded.
    """
    if images.dtype in Base.types:
        return model, images
    return _Rounding(model, images.dtype), images.float()


@torch.no_grad()
def losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, (n,)."""
    return cross_entropies(model(images), labels)
