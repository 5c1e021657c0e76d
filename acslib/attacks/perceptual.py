"""Attacks within an LPIPS distance: Fast-LPA, LPA and PPGD (Laidlaw et al., ICLR 2021).

`distance` None measures the distance in the attacked model itself (self-bounded).
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from acslib.attacks.common import (
    Base,
    ascent,
    check_search,
    clipped,
    margin,
    norms,
    per_sample,
    right,
    usable,
)
from acslib.attacks.lpips import LPIPS
from acslib.passes import frozen


class Embedding(Protocol):
    """What a distance is measured in: images (n, c, H, W) to vectors (n, K), as `LPIPS.embed`."""

    def embed(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _PerceptualAttack(Base):
    """`bound` is on LPIPS; `distance` None measures it in the attacked model (self-bounded)."""

    bound: float
    distance: LPIPS | None = field(default=None, compare=False)
    _: KW_ONLY
    iterations: int = 10
    noise: float = 0.01

    def __post_init__(self) -> None:
        check_search(self.bound, self.iterations)

    def _perturb(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        distance = LPIPS(model) if self.distance is None else self.distance
        with frozen(distance):
            return self._attack(model, distance, images, labels)

    @abstractmethod
    def _attack(
        self, model: nn.Module, distance: Embedding, images: Tensor, labels: Tensor
    ) -> Tensor: ...

    def _start(self, images: Tensor) -> Tensor:
        noise = torch.randn(
            images.shape, device=images.device, dtype=images.dtype, generator=self.generator
        )
        return (images + self.noise * noise).clamp(0, 1)


@dataclass(frozen=True)
class FastLPA(_PerceptualAttack):
    """Fast Lagrangian perceptual attack (Algorithm 3): perceptual training's inner maximisation.

    The multiplier of max(0, d - bound) grows from `multiplier` / 10 to `multiplier` while the step
    decays from `bound` to a tenth of it. Nothing is projected: d ends near the bound, well above it
    where the margin is steep (small images, undefended models), and at bound 0 the start's noise
    stays. `only_correct` leaves alone what the model already gets wrong.
    """

    multiplier: float = 10.0
    probe: float = 0.1
    only_correct: bool = False

    def _attack(
        self, model: nn.Module, distance: Embedding, images: Tensor, labels: Tensor
    ) -> Tensor:
        if not self.only_correct:
            return self._climb(model, distance, images, labels)
        correct = right(model(images), labels)
        adversarial = images.clone()
        if correct.any():
            adversarial[correct] = self._climb(model, distance, images[correct], labels[correct])
        return adversarial

    def _climb(
        self, model: nn.Module, distance: Embedding, images: Tensor, labels: Tensor
    ) -> Tensor:
        reference = distance.embed(images)
        x = self._start(images)
        for t in range(self.iterations):
            decay = 0.1 ** (t / self.iterations)
            weight = self.multiplier * 0.1 / decay
            x, _, _ = _lagrangian_step(
                model,
                distance,
                x,
                labels,
                reference,
                self.bound,
                weight,
                length=self.bound * decay,
                probe=self.probe,
            )
        return x


@dataclass(frozen=True)
class LPA(_PerceptualAttack):
    """Lagrangian perceptual attack (Algorithm 2), for evaluation: d <= bound always holds.

    `rounds` rounds of `iterations` steps; after each, the multiplier of the samples with d >= bound
    grows tenfold. A sample stops at its first iterate that fools the model inside the bound; the
    rest are projected at the end. The margin is clipped at `kappa`.
    """

    iterations: int = 40
    rounds: int = 5
    multiplier: float = 0.01
    kappa: float = 1.0
    probe: float = 0.1

    def _attack(
        self, model: nn.Module, distance: Embedding, images: Tensor, labels: Tensor
    ) -> Tensor:
        reference = distance.embed(images)
        x = self._start(images)
        weight = images.new_full((len(images),), self.multiplier)
        active = torch.arange(len(images), device=images.device)
        for _ in range(self.rounds):
            for t in range(self.iterations):
                if len(active) == 0:
                    return x
                moved, margins, d = _lagrangian_step(
                    model,
                    distance,
                    x[active],
                    labels[active],
                    reference[active],
                    self.bound,
                    weight[active],
                    length=self.bound * 0.1 ** (t / self.iterations),
                    probe=self.probe,
                    kappa=self.kappa,
                )
                going = ~((margins > 0) & (d <= self.bound))
                active = active[going]
                x[active] = moved[going]
            d = torch.linalg.vector_norm(distance.embed(x[active]) - reference[active], dim=1)
            outside = d >= self.bound
            weight[active[outside]] *= 10
        return project_by_distance(distance, x, images, self.bound, reference=reference)


@dataclass(frozen=True)
class PPGD(_PerceptualAttack):
    """Perceptual PGD (Algorithm 1), for evaluation: d <= bound holds for every image.

    Each step is the steepest ascent of the margin in the metric J'J of the distance, J being the
    Jacobian of the embedding: (J'J)^-1 g by `solver_steps` conjugate-gradient steps, scaled to the
    length 2 * bound / iterations, then projected. A sample stops at its first iterate that fools
    the model.
    """

    iterations: int = 40
    solver_steps: int = 5
    probe: float = 1e-3

    def _attack(
        self, model: nn.Module, distance: Embedding, images: Tensor, labels: Tensor
    ) -> Tensor:
        reference = distance.embed(images)
        x = project_by_distance(
            distance, self._start(images), images, self.bound, reference=reference
        )
        active = torch.arange(len(images), device=images.device)
        for _ in range(self.iterations):
            margins, gradient = ascent(_margin_from(model, labels[active]), x[active])
            active, gradient = active[margins <= 0], gradient[margins <= 0]
            if len(active) == 0:
                break
            step = self._steepest(distance, x[active], usable(gradient))
            moved = (x[active] + step * (2 * self.bound / self.iterations)).clamp(0, 1)
            x[active] = project_by_distance(
                distance, moved, images[active], self.bound, reference=reference[active]
            )
        return x

    def _steepest(self, distance: Embedding, x: Tensor, gradient: Tensor) -> Tensor:
        """(J'J)^-1 g, scaled so that J maps it to unit length (where J' reaches it at all)."""
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            embedding = distance.embed(leaf)

        def image_of(p: Tensor) -> Tensor:
            size = norms(p).clamp_min(1e-30)
            ahead = distance.embed(x + self.probe * p / size)
            return (ahead - embedding.detach()) * (size.flatten(1) / self.probe)

        solution, residual = torch.zeros_like(x), gradient / norms(gradient).clamp_min(1e-30)
        search, energy = residual, norms(residual) ** 2
        for _ in range(self.solver_steps):
            image = image_of(search)
            length = energy / _squared(image).clamp_min(1e-30)
            solution = solution + length * search
            residual = (
                residual
                - length * torch.autograd.grad(embedding, leaf, image, retain_graph=True)[0]
            )
            previous, energy = energy, norms(residual) ** 2
            search = residual + search * (energy / previous.clamp_min(1e-30))
        reached = _squared(image_of(solution)).sqrt()
        step = solution / reached.clamp_min(1e-4 * norms(solution).clamp_min(1e-30))
        return step.nan_to_num(0, 0, 0)  # where the distance is not a number, none is taken


def project_by_distance(
    distance: Embedding,
    x: Tensor,
    images: Tensor,
    bound: float,
    *,
    reference: Tensor | None = None,
    steps: int = 10,
    overshoot: float = 0.1,
) -> Tensor:
    """Bring `x` to d(x, images) <= bound: Newton's steps down d, then bisection to `images`.

    A Newton step aims `overshoot` beyond the bound. Samples already inside are returned as they
    are; whatever `steps` steps leave outside goes to the last point inside on its segment to the
    clean image.
    """
    x = x.detach().clone()
    reference = distance.embed(images) if reference is None else reference
    outside = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        d = torch.linalg.vector_norm(distance.embed(x[outside]) - reference[outside], dim=1)
        outside = outside[~(d <= bound)]
        if len(outside) == 0 or step == steps:
            break
        d, gradient = ascent(_distance_to(distance, reference[outside]), x[outside])
        excess = per_sample((1 + overshoot) * (d - bound), gradient)
        newton = excess / _squared(gradient).clamp_min(1e-12) * gradient
        x[outside] = (x[outside] - newton.nan_to_num(0, 0, 0)).clamp(0, 1)
    if len(outside):
        x[outside] = _bisect(distance, x[outside], images[outside], bound, reference[outside])
    return x


def _margin_from(model: nn.Module, labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: margin(model(x), labels)


def _distance_to(distance: Embedding, reference: Tensor) -> Callable[[Tensor], Tensor]:
    def distances(x: Tensor) -> Tensor:
        d: Tensor = torch.linalg.vector_norm(distance.embed(x) - reference, dim=1)
        return d

    return distances


def _bisect(
    distance: Embedding,
    x: Tensor,
    images: Tensor,
    bound: float,
    reference: Tensor,
    halvings: int = 20,
) -> Tensor:
    """The last point inside, to within 2**-halvings, on the segments from `images` to `x`."""
    inside, fraction = torch.zeros_like(x[:, :1, :1, :1]), 1.0
    for _ in range(halvings):
        fraction /= 2
        trial = inside + fraction
        d = torch.linalg.vector_norm(
            distance.embed(images + trial * (x - images)) - reference, dim=1
        )
        inside = torch.where((d <= bound).view(-1, 1, 1, 1), trial, inside)
    return images + inside * (x - images)


def _lagrangian_step(
    model: nn.Module,
    distance: Embedding,
    x: Tensor,
    labels: Tensor,
    reference: Tensor,
    bound: float,
    weight: float | Tensor,
    *,
    length: float,
    probe: float,
    kappa: float = torch.inf,
) -> tuple[Tensor, Tensor, Tensor]:
    """A step of `length` in the distance up margin - weight * max(0, d - bound): (next x, margins
    at x, d at x).
    """
    seen: dict[str, Tensor] = {}

    def lagrangian(x: Tensor) -> Tensor:
        seen["embedding"] = embedding = distance.embed(x)
        seen["margin"] = margins = margin(model(x), labels)
        seen["d"] = d = torch.linalg.vector_norm(embedding - reference, dim=1)
        penalty: Tensor = weight * (d - bound).relu()
        return clipped(margins, -torch.inf, kappa) - penalty

    gradient = usable(ascent(lagrangian, x)[1])
    direction = gradient / norms(gradient).clamp_min(1e-12)
    ahead = distance.embed(x + probe * direction) - seen["embedding"].detach()
    slope = _squared(ahead).sqrt() / probe
    step = (direction * length / (slope + 1e-4)).nan_to_num(0, 0, 0)
    return (x + step).clamp(0, 1), seen["margin"].detach(), seen["d"].detach()


def _squared(x: Tensor) -> Tensor:
    """Squared l2 norm of each sample, (n, 1, 1, 1)."""
    return x.flatten(1).square().sum(1).view(-1, 1, 1, 1)
