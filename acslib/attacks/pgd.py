"""FGSM and PGD (linf and l2), the inner maximisation of eqs. (3), (17) and (21).

An attack is called as `attack(model, images, labels)` and returns the adversarial images. Labels
may be class indices (n,) or, for TRADES (eq. 21), the probabilities (n, C) that the clean images
get. No gradient is ever computed for a weight, and the model is left exactly as it was found.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acslib.passes import frozen
from acslib.protocols import check_images, check_labels


def norms(x: Tensor) -> Tensor:
    """The l2 norm of each sample, shaped (n, 1, 1, 1)."""
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def project(x: Tensor, images: Tensor, norm: str, epsilon: float) -> Tensor:
    """The nearest point to `x` within `epsilon` of `images`, then within [0, 1] (which stays inside
    the ball).
    """
    if norm == "linf":
        return x.clamp(images - epsilon, images + epsilon).clamp_(0, 1)
    change = x - images
    return (images + change * (epsilon / norms(change).clamp_min(1e-12)).clamp_max(1)).clamp(0, 1)


def uniform_in_ball(images: Tensor, norm: str, epsilon: float, generator=None) -> Tensor:
    """Noise uniform in the linf or l2 ball of radius `epsilon`."""
    like = {"device": images.device, "dtype": images.dtype, "generator": generator}
    if norm == "linf":
        return torch.rand(images.shape, **like).mul_(2).sub_(1).mul_(epsilon)
    direction = torch.randn(images.shape, **like)
    radius = torch.rand(len(images), **like) ** (1 / max(images.shape[1:].numel(), 1))
    return direction * (epsilon * radius.view(-1, 1, 1, 1) / norms(direction).clamp_min(1e-12))


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the cross-entropy (Madry et al., 2018): eqs. (3) and (17).

    `epsilon` and `step` are in units of [0, 1] pixels. Without `early_stop` the last iterate of the
    restart with the largest loss is returned; with it (evaluation), each sample stops at its first
    iterate, over all restarts, that fools the model. The model attacks in the mode it is in. Raises
    ValueError for images outside [0, 1], class indices that the model has not, and probabilities
    with `early_stop`.
    """

    norm: Literal["linf", "l2"]
    epsilon: float
    step: float
    steps: int
    restarts: int = 1
    random_start: bool = True
    early_stop: bool = False
    generator: torch.Generator | None = field(default=None, compare=False)

    def __post_init__(self):
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"norm is {self.norm!r}: choose linf or l2")
        if not (self.epsilon >= 0 and self.step >= 0 and self.steps >= 0 and self.restarts >= 1):
            raise ValueError(
                f"{self}: epsilon, step and steps must be at least 0 and restarts at least 1"
            )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        images = images.detach()
        check_images(images)
        check_labels(model, labels)
        if self.early_stop and labels.is_floating_point():
            raise ValueError(
                f"early_stop needs to know the class, labels are {labels.dtype}: give class indices"
            )
        if self.epsilon == 0:
            return images.clone()
        with frozen(model):
            return (
                self._stopping_early(model, images, labels)
                if self.early_stop
                else self._best(model, images, labels)
            )

    def _best(self, model, images, labels):
        best = self._climb(model, images, labels)
        if self.restarts == 1:
            return best
        best_loss = loss_without_gradient(model, best, labels)
        for _ in range(self.restarts - 1):
            candidate = self._climb(model, images, labels)
            loss = loss_without_gradient(model, candidate, labels)
            better = loss > best_loss
            best[better], best_loss[better] = candidate[better], loss[better]
        return best

    def _climb(self, model, images, labels):
        x = self._start(images)
        for _ in range(self.steps):
            gradient, _ = input_gradient(model, x, labels)
            x = self._ascend(x, gradient, images)
        return x

    def _stopping_early(self, model, images, labels):
        result = images.clone()
        with torch.no_grad():
            active = (model(images).argmax(1) == labels).nonzero().squeeze(1)
        for _ in range(self.restarts):
            if len(active) == 0:
                break
            active = self._climb_until_fooled(model, images, labels, active, result)
        return result

    def _climb_until_fooled(self, model, images, labels, active, result):
        """One restart on `images[active]`: writes the iterates that fool into `result`, returns who
        is left.
        """
        x = self._start(images[active])
        for _ in range(self.steps):
            gradient, logits = input_gradient(model, x, labels[active])
            standing = logits.argmax(1) == labels[active]
            result[active] = x
            active, x, gradient = active[standing], x[standing], gradient[standing]
            if len(active) == 0:
                return active
            x = self._ascend(x, gradient, images[active])
        result[active] = x
        with torch.no_grad():
            return active[model(x).argmax(1) == labels[active]]

    def _start(self, images):
        if not self.random_start:
            return images.clone()
        return project(
            images + uniform_in_ball(images, self.norm, self.epsilon, self.generator),
            images,
            self.norm,
            self.epsilon,
        )

    def _ascend(self, x, gradient, images):
        direction = (
            gradient.sign_()
            if self.norm == "linf"
            else gradient.div_(norms(gradient).clamp_min(1e-12))
        )
        return project(direction.mul_(self.step).add_(x), images, self.norm, self.epsilon)


def FGSM(epsilon: float, step: float, **options) -> PGD:
    """One step of the fast gradient sign method from a random start (Wong et al., 2020): the attack
    of FAT.
    """
    return PGD("linf", epsilon, step, steps=1, **options)


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the summed cross-entropy with respect to the images alone, and the logits."""
    x = images.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(x)
        loss = cross_entropy(logits.float(), labels, reduction="sum")
    return torch.autograd.grad(loss, x)[0], logits.detach()


@torch.no_grad()
def loss_without_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, (n,)."""
    return cross_entropy(model(images).float(), labels, reduction="none")
