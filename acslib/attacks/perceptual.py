"""Attacks within an LPIPS distance: Fast-LPA, LPA and PPGD (Laidlaw et al., ICLR 2021).

`distance` None measures the distance in the attacked model itself (self-bounded).
"""

from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from acslib.attacks.lpips import LPIPS
from acslib.attacks.pgd import norms
from acslib.passes import frozen
from acslib.protocols import check_images, check_labels


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max over wrong classes of z_k, minus z_y, (n,): positive where the model errs (Carlini and
    Wagner, 2017).
    """
    right = logits.gather(1, labels[:, None])
    return (logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True) - right).squeeze(1)


@dataclass(frozen=True)
class _PerceptualAttack:
    """`bound` is on the LPIPS distance; `distance` None measures it in the attacked model
    (self-bounded).
    """

    bound: float
    distance: LPIPS | None = field(default=None, compare=False)
    _: KW_ONLY
    iterations: int = 10
    noise: float = 0.01
    mode: Literal["eval", "train"] | None = None
    generator: torch.Generator | None = field(default=None, compare=False)

    def __post_init__(self):
        if not (self.bound >= 0 and self.iterations >= 1):
            raise ValueError(
                f"bound {self.bound} must be at least 0 and iterations {self.iterations} at least 1"
            )

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        check_images(images)
        check_labels(model, labels)
        distance = LPIPS(model) if self.distance is None else self.distance
        with frozen(model, self.mode), frozen(distance), torch.no_grad():
            return self._attack(model, distance, images.detach(), labels)

    def _start(self, images):
        noise = torch.randn(
            images.shape, device=images.device, dtype=images.dtype, generator=self.generator
        )
        return (images + self.noise * noise).clamp(0, 1)


@dataclass(frozen=True)
class FastLPA(_PerceptualAttack):
    """Fast Lagrangian perceptual attack, the inner maximisation of perceptual adversarial training
    (Algorithm 3).

    The multiplier of max(0, d - bound) grows from `multiplier` / 10 to `multiplier` while the step
    decays from `bound` to a tenth of it. Nothing is projected: d ends near the bound, well above it
    where the margin is steep (small images, undefended models), and at bound 0 the start's noise
    stays. `only_correct` leaves alone what the model already gets wrong.
    """

    multiplier: float = 10.0
    probe: float = 0.1
    only_correct: bool = False

    def _attack(self, model, distance, images, labels):
        if not self.only_correct:
            return self._climb(model, distance, images, labels)
        correct = model(images).argmax(1) == labels
        adversarial = images.clone()
        if correct.any():
            adversarial[correct] = self._climb(model, distance, images[correct], labels[correct])
        return adversarial

    def _climb(self, model, distance, images, labels):
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
    """Lagrangian perceptual attack, for evaluation (Algorithm 2): d <= bound holds for every image
    it returns.

    `rounds` rounds of `iterations` steps; after each, the multiplier of the samples with d >= bound
    grows tenfold. A sample stops at its first iterate that fools the model inside the bound; the
    rest are projected at the end. The margin is clipped at `kappa`.
    """

    iterations: int = 40
    rounds: int = 5
    multiplier: float = 0.01
    kappa: float = 1.0
    probe: float = 0.1

    def _attack(self, model, distance, images, labels):
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
            outside = (
                torch.linalg.vector_norm(distance.embed(x[active]) - reference[active], dim=1)
                >= self.bound
            )
            weight[active[outside]] *= 10
        return project(distance, x, images, self.bound, reference=reference)


@dataclass(frozen=True)
class PPGD(_PerceptualAttack):
    """Perceptual projected gradient descent, for evaluation (Algorithm 1): d <= bound holds for
    every image.

    Each step is the steepest ascent of the margin in the metric J'J of the distance, J being the
    Jacobian of the embedding: (J'J)^-1 g by `solver_steps` conjugate-gradient steps, scaled to the
    length 2 * bound / iterations, then projected. A sample stops at its first iterate that fools
    the model.
    """

    iterations: int = 40
    solver_steps: int = 5
    probe: float = 1e-3

    def _attack(self, model, distance, images, labels):
        reference = distance.embed(images)
        x = project(distance, self._start(images), images, self.bound, reference=reference)
        active = torch.arange(len(images), device=images.device)
        for _ in range(self.iterations):
            margins, gradient = _ascent(lambda x: margin(model(x), labels[active]), x[active])
            active, gradient = active[margins <= 0], gradient[margins <= 0]
            if len(active) == 0:
                break
            step = self._steepest(distance, x[active], gradient)
            moved = (x[active] + step * (2 * self.bound / self.iterations)).clamp(0, 1)
            x[active] = project(
                distance, moved, images[active], self.bound, reference=reference[active]
            )
        return x

    def _steepest(self, distance, x, gradient):
        """(J'J)^-1 g, scaled so that J maps it to unit length (where J' reaches it at all)."""
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            embedding = distance.embed(leaf)

        def image_of(p):
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
        return solution / _squared(image_of(solution)).sqrt().clamp_min(
            1e-4 * norms(solution).clamp_min(1e-30)
        )


def project(distance, x, images, bound, *, reference=None, steps=10, overshoot=0.1) -> Tensor:
    """Bring `x` to d(x, images) <= bound: Newton's steps down the gradient of d, then bisection
    towards `images`.

    A Newton step aims `overshoot` beyond the bound. Samples already inside are returned as they
    are; whatever `steps` steps leave outside goes to the last point inside on its segment to the
    clean image.
    """
    x = x.detach().clone()
    reference = distance.embed(images) if reference is None else reference
    outside = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        d = torch.linalg.vector_norm(distance.embed(x[outside]) - reference[outside], dim=1)
        outside = outside[d > bound]
        if len(outside) == 0 or step == steps:
            break
        target = reference[outside]
        d, gradient = _ascent(
            lambda x, target=target: torch.linalg.vector_norm(distance.embed(x) - target, dim=1),
            x[outside],
        )
        length = (
            (1 + overshoot) * (d - bound).view(-1, 1, 1, 1) / _squared(gradient).clamp_min(1e-12)
        )
        x[outside] = (x[outside] - length * gradient).clamp(0, 1)
    if len(outside):
        x[outside] = _bisect(distance, x[outside], images[outside], bound, reference[outside])
    return x


def _bisect(distance, x, images, bound, reference, halvings=20):
    inside, fraction = torch.zeros_like(x[:, :1, :1, :1]), 1.0
    for _ in range(halvings):
        fraction /= 2
        trial = inside + fraction
        d = torch.linalg.vector_norm(
            distance.embed(images + trial * (x - images)) - reference, dim=1
        )
        inside = torch.where((d <= bound).view(-1, 1, 1, 1), trial, inside)
    return images + inside * (x - images)


def _ascent(function, x):
    """Values (n,) of a function of images, and its gradient."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        values = function(x)
        total = values.sum()
    return values.detach(), torch.autograd.grad(total, x)[0]


def _lagrangian_step(
    model, distance, x, labels, reference, bound, weight, *, length, probe, kappa=torch.inf
):
    """A step of `length` in the distance up margin - weight * max(0, d - bound): (next x, margins
    at x, d at x).
    """
    seen = {}

    def lagrangian(x):
        seen["embedding"] = embedding = distance.embed(x)
        seen["margin"] = margins = margin(model(x), labels)
        seen["d"] = d = torch.linalg.vector_norm(embedding - reference, dim=1)
        return margins.clamp_max(kappa) - weight * (d - bound).relu()

    _, gradient = _ascent(lagrangian, x)
    direction = gradient / norms(gradient).clamp_min(1e-12)
    slope = (
        _squared(distance.embed(x + probe * direction) - seen["embedding"].detach()).sqrt() / probe
    )
    moved = (x + direction * length / (slope + 1e-4)).clamp(0, 1)
    return moved, seen["margin"].detach(), seen["d"].detach()


def _squared(x):
    """Squared l2 norm of each sample, (n, 1, 1, 1)."""
    return (x.flatten(1) ** 2).sum(1).view(-1, 1, 1, 1)
