"""Coreset selection: which samples to train on, and with what weights (eq. 12, Algorithms 2 and 3).

A selector is any callable `f(gradients, budget) -> Coreset`; `gradients` is a LastLayerGradients or an (n, d) tensor,
and the same call on either gives the same coreset. `per_class` and `batch_wise` apply a selector within classes or
to batches. The solvers run in float64 on the CPU whatever the gradients' type and device; ties, to rounding, go to the
lower index.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from acslib._solvers import MatchingPursuit, facility_location, to_distances
from acslib.gradients import GRAM_ELEMENTS, LastLayerGradients, as_gradients, check_gram, check_integers

KEPT_ROWS = 2  # Gram rows that the pursuit keeps at hand, in budgets

Gradients = LastLayerGradients | Tensor
Selector = Callable[[Gradients, int], "Coreset"]


@dataclass(frozen=True, eq=False)
class Coreset:
    """The samples to train on and their weights gamma (eq. 12), with how they were found; on the CPU.

    indices: (k,) int64, ascending. weights: (k,) float64, for the sum over samples of eqs. (12), (13) and (23); >= 0
    unless a selector was told otherwise. reason: why the search ended: "budget", "tolerance", or "optimum" where no
    further sample lowers the error. picks: (k,) the same indices in the order in which they were chosen. trace: the
    error after each step of the search: for gradmatch the square root of its objective over |target|, which without a
    ridge is the relative error of eq. (12); for craig L(S) of Algorithm 2; longer than k where samples left again,
    empty where no search was made. Raises ValueError for indices that are not ascending and distinct, and for weights
    that are not finite.
    """

    indices: Tensor
    weights: Tensor
    reason: str = "budget"
    picks: Tensor | None = None
    trace: Tensor | None = None

    def __post_init__(self):
        if self.indices.dtype != torch.int64 or self.indices.ndim != 1 or self.indices.shape != self.weights.shape:
            raise ValueError(
                f"indices are {self.indices.dtype} of shape {tuple(self.indices.shape)}, weights of shape "
                f"{tuple(self.weights.shape)}; give (k,) int64 indices and (k,) weights"
            )
        if (self.indices.diff() <= 0).any() or (self.indices < 0).any():
            raise ValueError("indices must be ascending, each given once, and not negative: sort them first")
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
        """The same samples with weights of mean 1, as training uses them. Raises ValueError if they sum to 0."""
        total = self.weights.sum()
        if len(self) and total <= 0:
            raise ValueError(f"the weights sum to {float(total):g}; only a positive sum can be scaled to mean 1")
        return Coreset(self.indices, self.weights * (len(self) / total), self.reason, self.picks, self.trace)


def gradmatch(
    gradients: Gradients,
    budget: int,
    *,
    target: Tensor | None = None,
    ridge: float = 0.0,
    tolerance: float = 1e-6,
    nonnegative: bool = True,
) -> Coreset:
    """Weights on at most `budget` samples whose gradients add up to everyone's (Algorithm 3, eq. 12).

    Orthogonal matching pursuit picks, at each step, the sample best aligned with what is still missing, then refits
    all weights. `nonnegative` keeps them >= 0: samples that would turn negative leave again, and the weights are the
    exact non-negative least squares on the samples chosen. The search ends at the budget, at a relative error
    (`Coreset.trace`) <= tolerance (Algorithm 3's epsilon over |target|), or where no sample lowers the error by more
    than the rounding of inner products.

    target: (d,), by default the sum of all gradients. ridge: lambda >= 0, in the units of a squared gradient; the
    objective is |missing|^2 + lambda |weights|^2. Raises ValueError for a budget outside 0..n, non-finite gradients
    or a target of another length.
    """
    gradients = as_gradients(gradients).to(torch.float64)
    budget = _check_budget(budget, len(gradients))
    ridge, tolerance = _check_not_negative("ridge", ridge), _check_not_negative("tolerance", tolerance)
    diagonal = _check_finite(gradients)
    target = gradients.total() if target is None else target
    correlations = _to_numpy(gradients.correlations(target))
    norm2 = float(target.double().square().sum())
    if not math.isfinite(norm2):
        raise ValueError(f"the target's squared norm is {norm2}; give a finite target")
    options = {"ridge": ridge, "tolerance": tolerance, "nonnegative": nonnegative}
    found = MatchingPursuit(_gram_of(gradients, budget), correlations, diagonal, norm2, budget, **options).run()
    return _coreset(found.atoms, found.weights, found.reason, np.array(found.trace))


def craig(gradients: Gradients, budget: int | None = None, *, tolerance: float | None = None) -> Coreset:
    """Medoids of the gradients, weighted by the size of their clusters (Algorithm 2).

    Greedy on L(S) = sum_i min_{j in S} |g_i - g_j|, which bounds the error of eq. (12), until `budget` samples are
    chosen, or L(S) <= tolerance (Algorithm 2's epsilon, in the units of a gradient), or every sample has distance 0
    to a chosen one. The phantom s_0 lies as far from each sample as any two are apart, so that one sample is always
    chosen unless the budget is 0. A sample as near to two medoids counts for the one of lower index. Raises ValueError
    where neither budget nor tolerance is given, and for a budget outside 0..n or non-finite gradients.
    """
    gradients = as_gradients(gradients)
    if budget is None and tolerance is None:
        raise ValueError("craig has no stopping rule: give a budget, a tolerance or both")
    budget = len(gradients) if budget is None else _check_budget(budget, len(gradients))
    tolerance = -1.0 if tolerance is None else _check_not_negative("tolerance", tolerance)
    norms2 = _check_finite(gradients)
    distances = _to_numpy(gradients.gram(dtype=torch.float64))
    to_distances(distances, norms2)
    picks, weights, costs = facility_location(distances, budget, tolerance)
    reason = "budget" if len(picks) == budget else "tolerance" if costs[-1] <= tolerance else "optimum"
    return _coreset(picks, weights, reason, costs)


def random(samples: int | Gradients | range, budget: int, generator: torch.Generator | None = None) -> Coreset:
    """`budget` of n samples, uniformly without replacement, each with weight n / budget: eq. (12) without bias.

    samples: n, or gradients, of which only the number counts, so that this too is a selector.
    """
    n = samples if isinstance(samples, int) else len(samples)
    budget = _check_budget(budget, n)
    device = "cpu" if generator is None else generator.device
    picks = torch.randperm(n, generator=generator, device=device)[:budget].cpu()
    return Coreset(picks.sort().values, torch.full((budget,), n / max(budget, 1), dtype=torch.float64), picks=picks)


adaptive_random = random  # drawn afresh at every selection; whoever selects decides that


def per_class(selector: Selector, gradients: Gradients, labels: Tensor, budget: int) -> Coreset:
    """Apply `selector` within each class, with budgets proportional to the classes' sizes.

    The budgets sum to `budget` (largest remainder, ties to the lower label). Each class approximates its own total, so
    that the weights of all classes together approximate everyone's. labels: (n,) integers; absent labels are no
    matter. reason: "budget", or the classes that ended otherwise and how. Raises ValueError as the selector does.
    """
    gradients = as_gradients(gradients)
    budget = _check_budget(budget, len(gradients))
    labels = check_integers("labels", labels, len(gradients)).cpu()
    classes, counts = labels.unique(return_counts=True)
    parts, reasons = [], []
    for label, share in zip(classes.tolist(), _proportional(counts.tolist(), budget), strict=True):
        members = (labels == label).nonzero().squeeze(1)
        if share:
            part = selector(gradients[members.to(gradients.device)], share)
            parts.append((members[part.picks], _in_order_of_picks(part)))
            if part.reason != "budget":
                reasons.append(f"class {label}: {part.reason} at {len(part)} of {share}")
    picks = torch.cat([torch.empty(0, dtype=torch.int64), *(picks for picks, _ in parts)])
    weights = torch.cat([torch.empty(0, dtype=torch.float64), *(weights for _, weights in parts)])
    return _coreset(picks.numpy(), weights.numpy(), "; ".join(reasons) or "budget", np.zeros(0))


def batch_wise(selector: Selector, gradients: Gradients, groups: int | Tensor, budget: int) -> Coreset:
    """Apply `selector` to the summed gradients of groups of samples (section 3.4, "Batch-wise Coreset Selection").

    groups: a batch size b, for consecutive batches of which the last may be short, or (n,) integers that assign each
    sample to a group (Algorithm 1's I). ceil(budget / b) groups are chosen, b being the mean size where groups are
    assigned; every sample of a chosen group is in the coreset with the group's weight, so that the coreset may exceed
    the budget by less than a batch. Sums, not means: the weights of eq. (12) for groups are then those of their
    samples, and a short group counts by its size. Raises ValueError as the selector does.
    """
    gradients = as_gradients(gradients)
    n = len(gradients)
    budget = _check_budget(budget, n)
    if isinstance(groups, Tensor):
        assignment = check_integers("groups", groups, n).cpu().unique(return_inverse=True)[1]
        count = int(assignment.max()) + 1 if n else 0
        chosen = -(-budget * count // n) if n else 0
    else:
        if not isinstance(groups, SupportsIndex) or operator.index(groups) < 1:
            raise ValueError(f"the batch size is {groups}; give a whole number of at least 1")
        assignment = torch.arange(n) // operator.index(groups)
        chosen = -(-budget // operator.index(groups))
    if not n:
        return _coreset(np.zeros(0, np.int64), np.zeros(0), "budget", np.zeros(0))
    coreset = selector(gradients.group(assignment, dtype=torch.float64), chosen)
    order = assignment.argsort(stable=True).split(assignment.bincount().tolist())
    picks = torch.cat([torch.empty(0, dtype=torch.int64), *(order[group] for group in coreset.picks.tolist())])
    weights = torch.zeros(len(order), dtype=torch.float64).index_copy(0, coreset.indices, coreset.weights)
    return _coreset(picks.numpy(), weights[assignment[picks]].numpy(), coreset.reason, coreset.trace.numpy())


def gradient_error(gradients: Gradients, coreset: Coreset) -> tuple[float, float]:
    """`|sum_i g_i - sum_j gamma_j g_j|` of eq. (12), and the same over `|sum_i g_i|`; computed in float64."""
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
    return Coreset(*map(torch.from_numpy, (indices, weights)), reason, *map(torch.from_numpy, (picks, trace)))


def _in_order_of_picks(coreset: Coreset) -> Tensor:
    return coreset.weights[torch.searchsorted(coreset.indices, coreset.picks)]


def gram_rows_held(n: int, budget: int) -> int:
    """How many of n Gram rows `gradmatch` keeps at hand: all of them where that is cheaper and they fit.

    Its solver holds two more for each sample chosen.
    """
    return n if 8 * budget >= n and n * n <= GRAM_ELEMENTS else min(n, KEPT_ROWS * budget)


def _gram_of(gradients: LastLayerGradients, budget: int) -> np.ndarray | _GramOnDemand:
    """The whole matrix, unless so few rows are wanted that fetching them is cheaper."""
    held = gram_rows_held(len(gradients), budget)
    check_gram(held, len(gradients))
    return _to_numpy(gradients.gram()) if held == len(gradients) else _GramOnDemand(gradients, held)


class _GramOnDemand:
    """A Gram matrix that computes what is indexed: rows (b,), or a block by `np.ix_` of the same rows and columns.

    Picks foreseen wrongly are often foreseen again, so rows are kept, until they are more than `held`.
    """

    def __init__(self, gradients: LastLayerGradients, held: int):
        self.gradients, self.held, self.fetched = gradients, held, {}

    def __getitem__(self, wanted) -> np.ndarray:
        if isinstance(wanted, tuple):
            return _to_numpy(self.gradients[torch.from_numpy(wanted[1][0]).to(self.gradients.device)].gram())
        if len(self.fetched) > self.held:
            self.fetched.clear()
        missing = [sample for sample in wanted.tolist() if sample not in self.fetched]
        if missing:
            found = self.gradients.gram_rows(torch.tensor(missing, device=self.gradients.device))
            self.fetched.update(zip(missing, _to_numpy(found), strict=True))
        return np.stack([self.fetched[sample] for sample in wanted.tolist()])


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
        raise ValueError(f"the budget is {budget}; give a whole number between 0 and {n}, the number of samples")
    return operator.index(budget)


def _check_not_negative(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; give a finite number >= 0")
    return float(value)


def _proportional(counts: list[int], budget: int) -> list[int]:
    """Split `budget` in proportion to `counts`, exactly: largest remainders first, ties to the lower position."""
    total = max(sum(counts), 1)
    shares = [count * budget // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: (-(counts[i] * budget % total), i))
    for i in by_remainder[: budget - sum(shares)]:
        shares[i] += 1
    return shares
