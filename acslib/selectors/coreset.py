"""The type that every selector returns, and what selectors share."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from acslib.gradients import LastLayerGradients, as_gradients

Gradients = LastLayerGradients | Tensor
Selector = Callable[[Gradients, int], "Coreset"]


@dataclass(frozen=True, eq=False)
class Coreset:
    """The samples to train on and their weights gamma (eq. 12), with how they were found; on the
    CPU.

    indices: (k,) int64, ascending. weights: (k,) float64, for the sum over samples of eqs. (12),
    (13) and (23); >= 0 unless a selector was told otherwise. reason: why the search ended:
    "budget", "tolerance", or "optimum" where no further sample lowers the error. picks: (k,) the
    same indices in the order in which they were chosen. trace: the error after each step of the
    search: for gradmatch the square root of its objective over |target|, which without a ridge is
    the relative error of eq. (12); for craig L(S) of Algorithm 2; longer than k where samples left
    again, empty where no search was made. Raises ValueError for indices that are not ascending and
    distinct, and for weights that are not finite.
    """

    indices: Tensor
    weights: Tensor
    reason: str = "budget"
    picks: Tensor | None = None
    trace: Tensor | None = None

    def __post_init__(self):
        if (
            self.indices.dtype != torch.int64
            or self.indices.ndim != 1
            or self.indices.shape != self.weights.shape
        ):
            raise ValueError(
                f"indices are {self.indices.dtype} of shape {tuple(self.indices.shape)}, weights of shape "
                f"{tuple(self.weights.shape)}; give (k,) int64 indices and (k,) weights"
            )
        if (self.indices.diff() <= 0).any() or (self.indices < 0).any():
            raise ValueError(
                "indices must be ascending, each given once, and not negative: sort them first"
            )
        if not self.weights.isfinite().all():
            raise ValueError("weights must be finite: check the gradients they were made from")
        found = {"indices": self.indices, "weights": self.weights}
        found["picks"] = self.indices if self.picks is None else self.picks
        found["trace"] = torch.empty(0, dtype=torch.float64) if self.trace is None else self.trace
        for name, values in found.items():
            object.__setattr__(self, name, values.cpu())

    def __len__(self) -> int:
        return len(self.indices)

    def normalised(self) -> Coreset:
        """The same samples with weights of mean 1, as training uses them. Raises ValueError if they
        sum to 0.
        """
        total = self.weights.sum()
        if len(self) and total <= 0:
            raise ValueError(
                f"the weights sum to {float(total):g}; only a positive sum can be scaled to mean 1"
            )
        return Coreset(
            self.indices, self.weights * (len(self) / total), self.reason, self.picks, self.trace
        )


def gradient_error(gradients: Gradients, coreset: Coreset) -> tuple[float, float]:
    """`|sum_i g_i - sum_j gamma_j g_j|` of eq. (12), and the same over `|sum_i g_i|`; computed in
    float64.
    """
    gradients = as_gradients(gradients)
    missing = torch.ones(len(gradients), dtype=torch.float64)
    missing[coreset.indices.cpu()] -= coreset.weights.cpu().double()
    absolute = float(gradients.total(missing, dtype=torch.float64).norm())
    scale = float(gradients.total(dtype=torch.float64).norm())
    return absolute, absolute / scale if scale else math.inf if absolute else 0.0


def _coreset(picks: np.ndarray, weights: np.ndarray, reason: str, trace: np.ndarray) -> Coreset:
    """From picks and weights in the order of choice."""
    order = np.argsort(picks)
    indices, weights = picks[order], weights[order].astype(np.float64)
    return Coreset(
        *map(torch.from_numpy, (indices, weights)), reason, *map(torch.from_numpy, (picks, trace))
    )


def _in_order_of_picks(coreset: Coreset) -> Tensor:
    return coreset.weights[torch.searchsorted(coreset.indices, coreset.picks)]


def _to_numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def _check_finite(gradients: LastLayerGradients) -> np.ndarray:
    """The squared norms, or ValueError naming the first sample whose gradient is not finite."""
    norms2 = _to_numpy(gradients.squared_norms(dtype=torch.float64))
    bad = np.flatnonzero(~np.isfinite(norms2))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(norms2)} gradients are not finite, the first is number {bad[0]}; "
            "all must be: lower the learning rate if the loss has diverged, or leave them out"
        )
    return norms2


def _check_budget(budget: int, n: int) -> int:
    if not isinstance(budget, SupportsIndex) or not 0 <= operator.index(budget) <= n:
        raise ValueError(
            f"the budget is {budget}; give a whole number between 0 and {n}, the number of samples"
        )
    return operator.index(budget)


def _check_not_negative(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; give a finite number >= 0")
    return float(value)
