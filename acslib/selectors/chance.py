"""Random subsets: what a coreset has to beat."""

from __future__ import annotations

import torch

from acslib.selectors.coreset import Coreset, Gradients, _check_budget


def random(
    samples: int | Gradients | range, budget: int, generator: torch.Generator | None = None
) -> Coreset:
    """`budget` of n samples, uniformly without replacement, each with weight n / budget: eq. (12)
    without bias.

    samples: n, or gradients, of which only the number counts, so that this too is a selector.
    """
    n = samples if isinstance(samples, int) else len(samples)
    budget = _check_budget(budget, n)
    device = "cpu" if generator is None else generator.device
    picks = torch.randperm(n, generator=generator, device=device)[:budget].cpu()
    return Coreset(
        picks.sort().values,
        torch.full((budget,), n / max(budget, 1), dtype=torch.float64),
        picks=picks,
    )


adaptive_random = random  # drawn afresh at every selection; whoever selects decides that
