"""Random subsets: what a coreset has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from acslib.draws import check_seed, seed_of
from acslib.gradients import Samples
from acslib.selectors.coreset import Coreset, Gradients, check_budget


def random(
    samples: int | Gradients | Samples | range,
    budget: int,
    generator: torch.Generator | None = None,
) -> Coreset:
    """`budget` of n samples, uniformly without replacement, each with weight n / budget.

    With these weights eq. (12) is estimated without bias. samples: n, or what has that length.
    Raises ValueError for a budget outside 0..n.
    """
    n = samples if isinstance(samples, int) else len(samples)
    budget = check_budget(budget, n)
    device = "cpu" if generator is None else generator.device
    picks = torch.randperm(n, generator=generator, device=device)[:budget].cpu()
    weights = torch.full((budget,), n / max(budget, 1), dtype=torch.float64)
    return Coreset(picks.sort().values, weights, picks=picks)


@dataclass(frozen=True)
class Random:
    """A selector that draws the same random subset at every selection."""

    seed: int = 0
    needs_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, samples: Gradients | Samples, budget: int) -> Coreset:
        return random(samples, budget, torch.Generator().manual_seed(self.seed))


@dataclass(frozen=True)
class AdaptiveRandom:
    """A selector that draws anew at every selection, by the epoch, so that a resumed run repeats.

    The epoch is that of the samples, 0 for a bare tensor.
    """

    seed: int = 0
    needs_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, samples: Gradients | Samples, budget: int) -> Coreset:
        generator = torch.Generator().manual_seed(seed_of_epoch(self.seed, samples))
        return random(samples, budget, generator)


def seed_of_epoch(seed: int, samples: Gradients | Samples) -> int:
    """One seed for each epoch of a run; training uses the same numbers."""
    return seed_of(seed, getattr(samples, "epoch", 0))
