"""Orthogonal matching pursuit without Gram rows: what `gradmatch` does where they do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from acslib.gradients import LastLayerGradients
from acslib.selectors.coreset import Indices, Matrix, Vector, to_numpy
from acslib.selectors.pursuit import AHEAD, CANCELLED, ROUNDING, MatchingPursuit, pursuit_room
from acslib.selectors.sampling import Sampling


class StreamedPursuit(MatchingPursuit):
    """The same pursuit without Gram rows, for as many samples as there are factors of.

    What is missing is kept as one gradient, and each step makes the inner products with it anew: of
    all samples, or of those that `sampling` draws. Memory: budget^2 + n + d numbers and a block of
    the factors in double precision; a step takes (n + budget) d operations.
    """

    def __init__(
        self,
        gradients: LastLayerGradients,
        goal: Tensor,
        norms2: Vector,
        budget: int,
        sampling: Sampling | None,
        **options: Any,
    ) -> None:
        self.gradients, self.goal, self.sampling = gradients, goal, sampling
        correlations: Vector = to_numpy(gradients.correlations(goal, dtype=torch.float64))
        norm2 = float(goal.square().sum())
        self.room = pursuit_room(gradients.shape[1], budget, options["ridge"])
        super().__init__(np.empty((0, 0)), correlations, norms2, norm2, budget, **options)

    def _hold(self, n: int) -> None:
        self._hold_support(self.room)
        self.missing = self.goal

    def _foresee(self) -> None:
        """Nothing is: each step sees all inner products that it needs."""

    def _stop(self) -> str | None:
        everything = np.arange(len(self.correlations))
        if self.sampling is not None and self.size < self.budget:
            self._look_at(self.sampling.draw(everything[~(self.chosen | self.blocked)]))
            reason = super()._stop()
            if reason not in ("optimum", "rounding"):
                return reason
        self._look_at(everything)
        return super()._stop()

    def _look_at(self, samples: Indices) -> None:
        """The residual of these samples; others, which count as spent, have 0."""
        n = len(self.correlations)
        if len(samples) == n:
            self.residual = self._along(self.missing, slice(None))
        else:
            self.residual = np.zeros(n)
            self.residual[samples] = self._along(self.missing, samples)

    def _along(self, vector: Tensor, samples: slice | Indices) -> Vector:
        """`<g_i, vector>` for each of the samples."""
        rows = samples if isinstance(samples, slice) else torch.from_numpy(samples)
        return to_numpy(self.gradients[rows].correlations(vector, dtype=torch.float64))

    def _sum(self, coefficients: Vector) -> Tensor:
        """`sum_j c_j g_j` over the first atoms of the support."""
        rows = torch.from_numpy(self.support[: len(coefficients)])
        weights = torch.from_numpy(coefficients)
        return self.gradients[rows].total(weights, dtype=torch.float64)

    def _add(self, atom: int) -> None:
        t = self.size
        if t == self.room:  # by rounding one more than the rank seems to be outside the span
            self.blocked[atom] = True
            return
        self.support[t] = atom
        coefficients, pivot = self._pivot(atom)
        gain = self._gain(atom, pivot)
        if gain <= ROUNDING * self.norm2:
            self.blocked[atom] = True
            return
        scale = float(np.sqrt(pivot))
        direction = self.root[t, : t + 1]
        direction[:] = coefficients / scale
        if self._enter(atom, direction, scale) is not None:
            self.error2 = self._error2()
        self._told()

    def _pivot(self, atom: int) -> tuple[Vector, float]:
        """As `_outside_span`, and the squared norm with the ridge in place of the products."""
        t = self.size
        support, root = self.support[:t], self.root[:t, :t]
        own = self.gradients[torch.from_numpy(self.support[: t + 1])]
        column = to_numpy(own.gram_rows(torch.tensor([t]), dtype=torch.float64))[0]
        overlap = root @ column[:t]
        coefficients = np.append(-(overlap @ root), 1.0)
        pivot = float(column[t] - overlap @ overlap) + self.ridge
        if pivot < CANCELLED * self.diagonal[atom]:
            left = self._along(self._sum(coefficients), support) + self.ridge * coefficients[:t]
            coefficients[:t] -= (root @ left) @ root
            outside = self._along(self._sum(coefficients), np.array([atom]))
            pivot = float(outside[0]) + self.ridge
        return coefficients, pivot

    def _missing_on_support(self) -> Vector:
        t = self.size
        self.missing = self.goal - self._sum(self.w[:t])
        return self._along(self.missing, self.support[:t]) - self.ridge * self.w[:t]

    def _settle(self) -> None:
        """What is missing, from the weights; now and then the weights, from what is missing."""
        t, root = self.size, self.root[: self.size, : self.size]
        if self.clock % AHEAD == 0:
            w = self.w[:t]
            w += root.T @ (root @ self._missing_on_support())
            if self.nonnegative:
                np.maximum(w, 0.0, out=w)
        self.missing = self.goal - self._sum(self.w[:t])
        self.settled = True

    def _error2(self) -> float:
        self._settle()
        w = self.w[: self.size]
        return float(self.missing.square().sum()) + self.ridge * float(w @ w)

    def _try(self, step: float) -> None:
        """The residual is made anew before each step."""

    def _forget_row(self, position: int, last: int, back: float) -> None:
        """There are none."""

    def _rows_alike(self) -> Matrix:
        return np.empty((self.size, 0))

    def _replace_row(self, position: int, last: int) -> None:
        """There are none."""
