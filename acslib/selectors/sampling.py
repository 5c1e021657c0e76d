"""Stochastic greedy: each step looks at a random sample of what is left, and takes the best of it.

Mirzasoleiman, Badanidiyuru, Karbasi, Vondrak and Krause, "Lazier Than Lazy Greedy" (AAAI 2015). For
a monotone submodular function, such as CRAIG's, samples of n / k * log(1 / epsilon) give in
expectation at least 1 - 1/e - epsilon of the best value that k can have; the greedy that looks at
everything gives 1 - 1/e. All k steps together look at n log(1 / epsilon), whatever k is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from acslib.gradients import LastLayerGradients
from acslib.selectors.chance import seed_of_epoch
from acslib.selectors.coreset import Indices


@dataclass(frozen=True)
class Sampling:
    """How many samples a step looks at, and what draws them."""

    size: int
    generator: np.random.Generator

    @staticmethod
    def checked(
        epsilon: float, seed: int, gradients: LastLayerGradients, budget: int
    ) -> Sampling | None:
        """What `epsilon` asks for: None for 0, which looks at everything.

        Draws are by `seed` and the gradients' epoch. Raises ValueError for an epsilon outside 0..1.
        """
        if not 0 <= epsilon < 1:
            raise ValueError(
                f"epsilon is {epsilon}; give 0 to look at all samples in each step, or a number"
                " below 1, like 0.1, to look at a random part of them"
            )
        if epsilon == 0:
            return None
        size = math.ceil(len(gradients) / max(budget, 1) * math.log(1 / epsilon))
        seed = seed_of_epoch(seed, gradients)
        return Sampling(max(size, 1), np.random.default_rng(seed))

    def draw(self, left: Indices, size: int | None = None) -> Indices:
        """`size` of those left, by default a step's, in ascending order; all where they are few."""
        size = self.size if size is None else size
        if len(left) <= size:
            return left
        return np.sort(self.generator.choice(left, size, replace=False))
