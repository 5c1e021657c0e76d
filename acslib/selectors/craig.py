"""Adv. CRAIG: greedy facility location on last-layer gradients (Algorithm 2)."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit

from acslib.gradients import as_gradients
from acslib.selectors.coreset import (
    Coreset,
    Gradients,
    _check_budget,
    _check_finite,
    _check_not_negative,
    _coreset,
    _to_numpy,
)
from acslib.selectors.gradmatch import DUPLICATE, TIE


def craig(
    gradients: Gradients, budget: int | None = None, *, tolerance: float | None = None
) -> Coreset:
    """Medoids of the gradients, weighted by the size of their clusters (Algorithm 2).

    Greedy on L(S) = sum_i min_{j in S} |g_i - g_j|, which bounds the error of eq. (12), until
    `budget` samples are chosen, or L(S) <= tolerance (Algorithm 2's epsilon, in the units of a
    gradient), or every sample has distance 0 to a chosen one. The phantom s_0 lies as far from each
    sample as any two are apart, so that one sample is always chosen unless the budget is 0. A
    sample as near to two medoids counts for the one of lower index. Raises ValueError where neither
    budget nor tolerance is given, and for a budget outside 0..n or non-finite gradients.
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
    reason = (
        "budget" if len(picks) == budget else "tolerance" if costs[-1] <= tolerance else "optimum"
    )
    return _coreset(picks, weights, reason, costs)


@njit(cache=True)
def to_distances(gram, norms2):
    """Turn a Gram matrix into Euclidean distances, in place; what is within rounding of zero is
    zero.
    """
    n = len(gram)
    for i in range(n):
        for j in range(n):
            scale = norms2[i] + norms2[j]
            squared = scale - 2 * gram[i, j]
            gram[i, j] = np.sqrt(squared) if squared > DUPLICATE * scale else 0.0
        gram[i, i] = 0.0


@njit(cache=True)
def facility_location(distances, budget, tolerance):
    """Exact greedy on L(S) = sum_i min_{j in S} d_ij (Algorithm 2): picks, cluster sizes, and L
    after each pick.

    distances: (n, n), non-negative, zero diagonal. Stops at `budget` picks, at L(S) <= tolerance,
    or when no further sample lowers L. A pick changes the gains only through the rows that it
    serves better, so that all the picks together cost about 5 n^2 operations.
    """
    n = len(distances)
    picks, costs, sizes = np.empty(budget, np.int64), np.empty(budget), np.zeros(n, np.int64)
    gains, farthest = np.zeros(n), np.zeros(n)
    for i in range(n):
        for e in range(n):
            d = distances[i, e]
            gains[e] -= d
            farthest[e] = d if d > farthest[e] else farthest[e]
    phantom = farthest.max() if n else 0.0  # s_0 is as far from everyone as any two are apart
    gains += n * phantom
    served, server = np.full(n, phantom), np.full(n, n)
    slack = TIE * n * phantom
    cost, apart = (
        n * phantom,
        n,
    )  # L(S), and how many samples it is made of: rounding leaves no false remainder
    count = 0
    while count < budget:
        best = gains.max()
        if best <= 0 and count > 0:  # the first is always picked: without it nothing serves anyone
            break
        threshold = best - min(slack, best / 2)
        pick = 0
        while gains[pick] < threshold:
            pick += 1
        for i in range(n):
            new, old = distances[pick, i], served[i]
            if new <= old:
                server[i] = pick if new < old else min(pick, server[i])
            if new < old:
                served[i] = new
                cost -= old - new
                apart -= new == 0.0
                for e in range(n):
                    d = distances[i, e]
                    d = d if d > new else new
                    gains[e] -= old - (d if d < old else old)
        gains[pick] = -np.inf
        picks[count], costs[count] = pick, cost if apart else 0.0
        count += 1
        if costs[count - 1] <= max(tolerance, 0.0):
            break
    for i in range(n):
        if server[i] < n:
            sizes[server[i]] += 1
    return picks[:count], sizes[picks[:count]], costs[:count]
