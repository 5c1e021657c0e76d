"""Theorem 1 with all constants known: logistic regression, whose inner maximum is closed-form.

A linear classifier theta meets x~ = x + delta with |delta| <= epsilon; the loss phi_i(theta) of a
sample is max log(1 + exp(-y theta.x~)) + mu/2 |theta|^2 = log(1 + exp(-(y theta.x - epsilon
|theta|_dual))) + mu/2 |theta|^2, convex, and mu-strongly convex. theta stays within a ball about
its start, 0, because a strongly convex function is Lipschitz on bounded sets only, and because the
theorem asks for a Delta. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from acslib import selectors
from acslib.paper import items, params
from acslib.selectors.coreset import Coreset

Select = Callable[[Tensor], Coreset]
Norm = Literal["linf", "l2"]


@dataclass(frozen=True, eq=False)
class AdversarialLogistic:
    """n samples, the threat to them, and the ball in which theta is kept.

    images: (n, d). labels: (n,), each -1 or 1. norm: of the threat. epsilon: its size, in the units
    of the images. mu: the strong convexity of each phi_i, 0 for Theorem 1 (1). radius: of the ball
    |theta| <= radius. Raises ValueError for other norms, labels, and negative or zero sizes.
    """

    images: Tensor
    labels: Tensor
    norm: Norm
    epsilon: float
    mu: float = 0.0
    radius: float = 10.0

    def __post_init__(self):
        if self.norm not in ("linf", "l2"):
            raise ValueError(f"the norm is {self.norm!r}: give 'linf' or 'l2'")
        if not ((self.labels == 1) | (self.labels == -1)).all():
            raise ValueError(f"labels hold {self.labels.unique().tolist()}: give -1 and 1")
        if self.epsilon < 0 or self.mu < 0 or self.radius <= 0:
            raise ValueError(
                f"epsilon {self.epsilon}, mu {self.mu} must be >= 0, radius {self.radius} positive"
            )

    def __len__(self) -> int:
        return len(self.images)

    def worst_images(self, theta: Tensor) -> Tensor:
        """The inner maximiser x* for each sample, (n, d), eq. (17); at theta = 0, where any would
        do, x itself.
        """
        if self.norm == "linf":
            direction = theta.sign()
        else:
            direction = theta / theta.norm().clamp_min(torch.finfo(theta.dtype).tiny)
        return self.images - self.epsilon * self.labels[:, None] * direction

    def losses(self, theta: Tensor, images: Tensor | None = None) -> Tensor:
        """phi_i(theta), (n,); the plain loss of `images` where they are given."""
        images = self.worst_images(theta) if images is None else images
        return softplus(-self.labels * (images @ theta)) + self.mu / 2 * theta.square().sum()

    def gradients(self, theta: Tensor) -> Tensor:
        """The gradients of phi_i, (n, d), by Danskin's theorem, eq. (16): x* is found, then fixed.

        Where x* is not unique (a zero in theta under linf, theta = 0 under l2) they are
        subgradients, which is all that the proof's eq. (B19) needs.
        """
        signed = self.labels[:, None] * self.worst_images(theta)
        return -torch.sigmoid(-signed @ theta)[:, None] * signed + self.mu * theta

    def lipschitz(self) -> Tensor:
        """Lipschitz constants of phi_i on the ball, (n,): max |x~_i| + mu radius; sigma is the
        largest (Lemma 1).
        """
        if self.norm == "linf":
            largest = (self.images.abs() + self.epsilon).norm(dim=1)
        else:
            largest = self.images.norm(dim=1) + self.epsilon
        return largest + self.mu * self.radius

    @property
    def sigma(self) -> float:
        return float(self.lipschitz().max())

    def project(self, theta: Tensor) -> Tensor:
        """The nearest point of the ball; never farther from theta*, so that the proof's (B15) holds
        as <=.
        """
        return theta * min(1.0, self.radius / max(float(theta.norm()), self.radius))

    @cached_property
    def optimum(self) -> Tensor:
        """theta*, (d,), the minimiser of L. Raises ValueError where the ball does not hold it.

        Under linf theta is split into its positive and negative parts, p - q, so that |theta|_1 =
        sum(p + q) is smooth.
        """
        split = self.norm == "linf"
        start = np.full((2 if split else 1) * self.images.shape[1], 1e-2)
        options = {"maxiter": 20_000, "maxfun": 40_000, "maxcor": 50, "ftol": 0.0, "gtol": 1e-13}
        bounds = [(0, None)] * len(start) if split else None
        found = minimize(
            self._mean_loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        theta = self._join(torch.from_numpy(found.x))
        if theta.norm() > self.radius:
            raise ValueError(
                f"theta* has norm {theta.norm():.3g}, the ball only {self.radius}:"
                " give a larger radius"
            )
        return theta

    def _join(self, parts: Tensor) -> Tensor:
        return torch.sub(*parts.chunk(2)) if self.norm == "linf" else parts

    def _mean_loss(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        parts = torch.from_numpy(point).requires_grad_()
        theta = self._join(parts)
        dual = parts.sum() if self.norm == "linf" else theta.norm()
        margins = self.labels * (self.images @ theta) - self.epsilon * dual
        loss = softplus(-margins).mean() + self.mu / 2 * theta.square().sum()
        return loss.item(), torch.autograd.grad(loss, parts)[0].numpy()

    def residual(self, theta: Tensor) -> float:
        """Norm of the smallest subgradient of L / n at theta; times Delta it bounds what theta
        loses to the optimum.
        """
        slope = self.gradients(theta).mean(0)
        if self.norm == "linf":  # where theta is 0, sign(theta) may be any value of [-1, 1]
            slack = (
                self.epsilon
                * torch.sigmoid(-self.labels * (self.worst_images(theta) @ theta)).mean()
            )
            slope = torch.where(
                theta == 0, slope.sign() * (slope.abs() - slack).clamp_min(0), slope
            )
        return float(slope.norm())

    @property
    def delta(self) -> float:
        """|theta - theta*| <= radius + |theta*| for every theta of the ball."""
        return self.radius + float(self.optimum.norm())


def digits(norm: Norm, **constants) -> AdversarialLogistic:
    """Scikit-learn's 357 threes and eights, centred, scaled to norms of at most 1; d = 54, pixels
    that change.

    constants: epsilon, in units of the largest norm, mu and radius of AdversarialLogistic.
    """
    images, labels = load_digits(return_X_y=True)
    kept = (labels == 3) | (labels == 8)
    images = torch.from_numpy(images[kept])
    images = images[:, images.std(0) > 0]
    images = images - images.mean(0)
    labels = torch.from_numpy(np.where(labels[kept] == 3, 1.0, -1.0))
    return AdversarialLogistic(images / images.norm(dim=1).max(), labels, norm, **constants)


@dataclass(frozen=True)
class Reading:
    """What the theorem's L, gamma and mu stand for.

    mean: L is the sum of eq. (6) over n, and the weights of eq. (12) are divided by n with it.
    unit_weights: they are then scaled to sum to 1, as the proof assumes at (B23). printed_rate: the
    rate and bound of (2) have n mu, as printed, where mu is the modulus of a mean of mu-strongly
    convex losses.
    """

    mean: bool
    unit_weights: bool
    printed_rate: bool

    def scale(self, problem: AdversarialLogistic) -> float:
        return 1 / len(problem) if self.mean else 1.0

    def modulus(self, problem: AdversarialLogistic) -> float:
        return problem.mu * (len(problem) if self.printed_rate else 1)

    def weights(self, problem: AdversarialLogistic, coreset: Coreset) -> Tensor:
        return coreset.weights / (
            coreset.weights.sum() if self.unit_weights else 1 / self.scale(problem)
        )


READINGS = {
    "mean, rate with μ": Reading(mean=True, unit_weights=True, printed_rate=False),
    "mean, rate with nμ": Reading(mean=True, unit_weights=True, printed_rate=True),
    "sum, weights sum to 1": Reading(mean=False, unit_weights=True, printed_rate=True),
    "sum, weights of eq. (12)": Reading(mean=False, unit_weights=False, printed_rate=True),
    "mean, weights of eq. (12)": Reading(mean=True, unit_weights=False, printed_rate=False),
}
CONSISTENT = "mean, rate with μ"


@dataclass(frozen=True, eq=False)
class Descent:
    """What coreset gradient descent did at t = 0 .. T-1, by a reading; fields (T,), float64.

    gaps: L(theta_t) - L(theta*). errors: Gamma, the gradient error. norms: |grad L_gamma(theta_t)|,
    which the proof needs to be at most sigma. totals: the sum of the weights in use.
    """

    gaps: Tensor
    errors: Tensor
    norms: Tensor
    totals: Tensor


def rates(problem: AdversarialLogistic, iterations: int, reading: Reading) -> Tensor:
    """The learning rates, (T,): Delta / (sigma sqrt T), or 2 / (n mu (1 + t)) where mu > 0."""
    if problem.mu == 0:
        rate = problem.delta / (problem.sigma * iterations**0.5)
        return torch.full((iterations,), rate, dtype=torch.float64)
    return 2 / (reading.modulus(problem) * torch.arange(1, iterations + 1, dtype=torch.float64))


def descend(
    problem: AdversarialLogistic,
    select: Select,
    iterations: int,
    reading: Reading = READINGS[CONSISTENT],
) -> Descent:
    """Eq. (9) from 0: descent with a coreset of the exact gradients (n, d) at each step."""
    scale = reading.scale(problem)
    best = problem.losses(problem.optimum).sum()
    theta = torch.zeros_like(problem.images[0])
    rows = []
    for rate in rates(problem, iterations, reading):
        gradients = problem.gradients(theta)
        coreset = select(gradients)
        weights = reading.weights(problem, coreset)
        step = weights @ gradients[coreset.indices]
        missing = scale * gradients.sum(0) - step
        gap = scale * (problem.losses(theta).sum() - best)
        rows.append(torch.stack([gap, missing.norm(), step.norm(), weights.sum()]))
        theta = problem.project(theta - rate * step)
    return Descent(*torch.stack(rows, 1))


def right_side(
    problem: AdversarialLogistic, errors: Tensor, reading: Reading
) -> tuple[float, float]:
    """The two terms of Theorem 1's bound, (1) or, where mu > 0, (2): the noise, and Delta times the
    mean of Gamma.

    errors: Gamma_t, (T,). The mean is plain in (1), and weighted by 2 t / (T (T - 1)) in (2), which
    needs T >= 2.
    """
    count = len(errors)
    if problem.mu == 0:
        return problem.delta * problem.sigma / count**0.5, problem.delta * float(errors.mean())
    if count < 2:
        raise ValueError(
            f"the bound of (2) divides by T - 1, and T is {count}: give 2 iterations at least"
        )
    late = 2 * torch.arange(count, dtype=torch.float64) / (count * (count - 1))
    noise = 2 * problem.sigma**2 / (reading.modulus(problem) * (count - 1))
    return noise, problem.delta * float(late @ errors)


def sides(
    problem: AdversarialLogistic, path: Descent, reading: Reading = READINGS[CONSISTENT]
) -> dict[str, float]:
    """Both sides of Theorem 1 for all of `path`, in units of L / n, so that readings compare.

    left <= noise + error = bound is the theorem; gradient_error is the mean of Gamma that it has;
    gradient_norm, over sigma, must not exceed 1 for the proof.
    """
    unit = 1 if reading.mean else len(problem)
    noise, error = (term / unit for term in right_side(problem, path.errors, reading))
    return {
        "left": float(path.gaps.min()) / unit,
        "bound": noise + error,
        "noise": noise,
        "error": error,
        "gradient_error": error / problem.delta,
        "gradient_norm": float(path.norms.max()) / problem.sigma,
        "smallest_total": float(path.totals.min()),
        "largest_total": float(path.totals.max()),
    }


def everyone(n: int, budget: int, generator: torch.Generator) -> Select:
    """All n samples with weight 1: the full gradient."""
    coreset = selectors.random(n, n, generator)
    return lambda gradients: coreset


def drawn_once(n: int, budget: int, generator: torch.Generator) -> Select:
    """One random coreset, kept."""
    coreset = selectors.random(n, budget, generator)
    return lambda gradients: coreset


def drawn_anew(n: int, budget: int, generator: torch.Generator) -> Select:
    """Another random coreset at every iteration."""
    return lambda gradients: selectors.random(n, budget, generator)


def by_craig(n: int, budget: int, generator: torch.Generator) -> Select:
    """CRAIG's coreset of the gradients at hand."""
    return lambda gradients: selectors.craig(gradients, budget)


def by_gradmatch(n: int, budget: int, generator: torch.Generator) -> Select:
    """GradMatch's coreset of the gradients at hand."""
    return lambda gradients: selectors.gradmatch(gradients, budget)


SELECTORS = {
    "full": everyone,
    "craig": by_craig,
    "gradmatch": by_gradmatch,
    "random": drawn_once,
    "adaptive_random": drawn_anew,
}


def selector(method: str, n: int, fraction: float, seed: int = 0) -> Select:
    """What `descend` calls at each step: gradients (n, d) to at most ceil(fraction n) samples.

    Raises ValueError for a method that is not one of `SELECTORS`.
    """
    if method not in SELECTORS:
        raise ValueError(f"there is no method {method!r}: choose one of {', '.join(SELECTORS)}")
    generator = torch.Generator().manual_seed(seed)
    return SELECTORS[method](n, math.ceil(fraction * n), generator)


def trades_split(
    model: nn.Module, images: Tensor, adversarial: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The second gradient of eq. (20) and its parts through the adversarial and the clean pass, eq.
    (B4); each (p,).

    p is the number of parameters. The cross-entropy is summed over the samples. The whole is
    autograd's, with nothing frozen.
    """

    def gradient(freeze_adversarial: bool, freeze_clean: bool) -> Tensor:
        moved, clean = model(adversarial), model(images).softmax(1)
        moved, clean = (
            moved.detach() if freeze_adversarial else moved,
            clean.detach() if freeze_clean else clean,
        )
        loss = cross_entropy(moved, clean, reduction="sum")
        return torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))]
        )

    return gradient(False, False), gradient(False, True), gradient(True, False)


class Numbers(params.Theorem1Common, params.Theorem1Profile):
    """The numbers of `params/theorem1.yaml` in one profile."""

    def problem(self, norm: Norm, part: int) -> AdversarialLogistic:
        """The convex problem of Theorem 1 (1), or the strongly convex one of (2)."""
        mu, radius = (
            (0.0, self.radius[norm]) if part == 1 else (self.mu, self.strongly_convex_radius)
        )
        return digits(norm, epsilon=self.epsilon[norm], mu=mu, radius=radius)


def numbers(profile: str) -> Numbers:
    """`params/theorem1.yaml` for a profile, or for the one that it extends. Raises ParamsError."""
    return Numbers(**items.by_itself("theorem1", profile))
