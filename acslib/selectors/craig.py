"""Adv. CRAIG: greedy facility location on last-layer gradients (Algorithm 2).

`plain_craig` is the algorithm as the paper prints it. `craig` makes the same picks, fast.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from acslib.gradients import BLOCK_ELEMENTS, GRAM_ELEMENTS, LastLayerGradients, as_gradients
from acslib.selectors.coreset import (
    FAR,
    TIE,
    Coreset,
    Gradients,
    Indices,
    Matrix,
    Vector,
    check_budget,
    check_not_negative,
    compiled,
    coreset_of,
    one_thread,
    to_numpy,
    well_scaled,
)
from acslib.selectors.sampling import Sampling
from acslib.selectors.streamed_locations import DrawnLocations, LazyLocations

# --- Algorithm 2 as it is printed


def plain_craig(
    gradients: Gradients, budget: int | None = None, *, tolerance: float | None = None
) -> Coreset:
    """Algorithm 2 with its symbols, every gain from scratch: O(n^2 k), for a few hundred samples.

    The budget is a second way to end line 3. d is the matrix of all distances |g_i - g_j|; s_0 is a
    phantom as far from each sample as any two are apart.
    """
    g = to_numpy(as_gradients(gradients).dense(dtype=torch.float64))
    n = len(g)
    budget, epsilon = n if budget is None else budget, -math.inf if tolerance is None else tolerance
    d = np.linalg.norm(g[:, None] - g[None], axis=2)
    served = np.full(n, d.max(initial=0.0))  # L(S + s_0) is the sum of these
    slack = TIE * served.sum()  # gains as near as this tie: the lower index wins
    S: list[int] = []  # line 1
    costs: list[float] = []
    while len(S) < budget and (not S or served.sum() > epsilon):  # line 3
        gains = (served[:, None] - np.minimum(served[:, None], d)).sum(0)  # F(S + e) - F(S)
        gains[S] = -np.inf
        best = gains.max()
        if S and best <= 0:
            break
        j = int(np.argmax(gains >= best - min(slack, best / 2)))  # line 4
        S.append(j)  # line 5
        served = np.minimum(served, d[:, j])
        costs.append(float(served.sum()))
    picks = np.array(S, dtype=np.int64)
    medoids = np.sort(picks)  # so that a sample as near to two counts for the lower index
    gamma = np.zeros(n)
    if len(S):  # lines 7-9
        gamma += np.bincount(medoids[d[:, medoids].argmin(1)], minlength=n)
    reason = _reason(len(S), budget, np.array(costs), epsilon)
    return coreset_of(picks, gamma[picks], reason, np.array(costs))


def _reason(count: int, budget: int, costs: Vector, tolerance: float) -> str:
    if count == budget:
        return "budget"
    return "tolerance" if costs[-1] <= tolerance else "optimum"


# --- the same, fast

# Squared distances come from |g_i|^2 + |g_j|^2 - 2 <g_i, g_j>. Below this share of the first two
# terms, too few digits are left, and the distance is computed from the difference itself.
NEAR = 1e-8
# Samples count as duplicates when their squared distance is below this share: for float64 less,
# since there the share is that of its own rounding.
DUPLICATE = 1e-13


def craig(
    gradients: Gradients,
    budget: int | None = None,
    *,
    tolerance: float | None = None,
    epsilon: float = 0.0,
    seed: int = 0,
) -> Coreset:
    """Medoids of the gradients, weighted by the size of their clusters (Algorithm 2).

    Greedy on L(S) = sum_i min_{j in S} |g_i - g_j|, which bounds the error of eq. (12). It ends
    when `budget` samples are chosen, or when L(S) <= tolerance (Algorithm 2's epsilon, in the units
    of a gradient), or when every sample has distance 0 to a chosen one. The phantom s_0 lies as far
    from each sample as any two are apart, so that one sample is always chosen unless the budget is
    0. A sample as near to two medoids counts for the one of lower index.

    gradients: n of them. Distances are right to rounding also where all gradients are nearly equal
    and far from zero; that takes longer, since such distances are computed one by one. Where all
    distances would take more than 4 GB they are computed from the factors as they are needed, each
    some five times: the same picks.
    epsilon: 0 looks at all samples at each step. Between 0 and 1, a step looks at a random
    n / budget * log(1 / epsilon) of them and takes the best. What L(S) falls by is then in
    expectation at least 1 - 1/e - epsilon of the most that it can fall by with the budget, where
    the exact greedy has 1 - 1/e: Mirzasoleiman et al., "Lazier Than Lazy Greedy" (AAAI 2015),
    theorem 1. All steps together compute n^2 log(1 / epsilon) distances, and keep none.
    seed: of those draws, together with the epoch of the gradients.

    Raises ValueError where neither budget nor tolerance is given, for an epsilon without a budget,
    for a budget outside 0..n, and for non-finite gradients.
    """
    gradients = as_gradients(gradients)
    if budget is None and tolerance is None:
        raise ValueError("craig has no stopping rule: give a budget, a tolerance or both")
    if budget is None and epsilon:
        raise ValueError(f"epsilon is {epsilon} without a budget, which says how many to draw")
    n = len(gradients)
    budget = n if budget is None else check_budget(budget, n)
    tolerance = -1.0 if tolerance is None else check_not_negative("tolerance", tolerance)
    sampling = Sampling.checked(epsilon, seed, gradients, budget)
    with one_thread():
        scaled, norms2, scale = well_scaled(gradients)
        if n * n <= GRAM_ELEMENTS and sampling is None:
            distances = distances_between(scaled, norms2)
            picks, weights, costs = facility_location(distances, budget, tolerance / scale)
        else:
            search = LazyLocations if sampling is None else DrawnLocations
            found = search(lambda rows: distance_rows(scaled, norms2, rows), n, sampling)
            picks, weights, costs = found.run(budget, tolerance / scale)
    costs *= scale
    reason = _reason(len(picks), budget, costs, tolerance)
    return coreset_of(picks, weights, reason, costs)


def distances_between(gradients: LastLayerGradients, norms2: Vector) -> Matrix:
    """All Euclidean distances: (n, n), exactly symmetric, zero between duplicates.

    norms2: (n,) squared norms.
    """
    distances: Matrix = to_numpy(gradients.gram(dtype=torch.float64))
    near = to_distances(distances, norms2)
    for i in np.flatnonzero(near):
        others = _near_ones(distances[i], norms2, int(i))
        others = others[others > i]
        found = _distances_from(gradients, norms2, int(i), others)
        distances[i, others] = distances[others, i] = found
    return distances


def distance_rows(gradients: LastLayerGradients, norms2: Vector, rows: Indices) -> Matrix:
    """Rows of that matrix: (len(rows), n)."""
    chosen = torch.from_numpy(rows).to(gradients.device)
    distances: Matrix = to_numpy(gradients.gram_rows(chosen, dtype=torch.float64))
    near = rows_to_distances(distances, norms2, rows)
    for place in np.flatnonzero(near):
        i = int(rows[place])
        others = _near_ones(distances[place], norms2, i)
        distances[place, others] = _distances_from(gradients, norms2, i, others)
    return distances


def _near_ones(distances: Vector, norms2: Vector, i: int) -> Indices:
    """The samples so near to sample i that too few digits of the distance are left."""
    scales = norms2[i] + norms2
    near = (distances**2 <= NEAR * scales) & (scales > 0)
    near[i] = False
    return np.flatnonzero(near)


def _distances_from(
    gradients: LastLayerGradients, norms2: Vector, i: int, others: Indices
) -> Vector:
    """|g_i - g_j| for each j of `others`, from the differences themselves, a block at a time."""
    block = max(1, BLOCK_ELEMENTS // gradients.shape[1])
    rows = torch.from_numpy(others).to(gradients.device)
    this = gradients[i : i + 1].dense(dtype=torch.float64)
    found = np.empty(len(others))
    for start in range(0, len(others), block):
        part = slice(start, start + block)
        found[part] = to_numpy(
            (gradients[rows[part]].dense(dtype=torch.float64) - this).norm(dim=1)
        )
    duplicate = min(DUPLICATE, (2.5 * torch.finfo(gradients.dtype).eps) ** 2)
    found[found**2 <= duplicate * (norms2[i] + norms2[others])] = 0.0
    return found


@compiled
def rows_to_distances(gram: Matrix, norms2: Vector, rows: Indices) -> NDArray[np.bool_]:
    """Turn rows of a Gram matrix into Euclidean distances, in place; what is within rounding of
    zero is 0.

    rows: (b,) which of the n they are. Returns which of them have others so near that too few
    digits of the distance are left: (b,).
    """
    near = np.zeros(len(rows), np.bool_)
    for place in range(len(rows)):
        i = rows[place]
        for j in range(len(norms2)):
            scale = norms2[i] + norms2[j]
            squared = scale - 2 * gram[place, j]
            gram[place, j] = np.sqrt(squared) if squared > DUPLICATE * scale else 0.0
            if squared <= NEAR * scale and i != j and scale > 0:
                near[place] = True
        gram[place, i] = 0.0
    return near


def to_distances(gram: Matrix, norms2: Vector) -> NDArray[np.bool_]:
    """The same for the whole matrix: (n,)."""
    found: NDArray[np.bool_] = rows_to_distances(gram, norms2, np.arange(len(gram)))
    return found


@compiled
def facility_location(
    distances: Matrix, budget: int, tolerance: float
) -> tuple[Indices, Indices, Vector]:
    """Exact greedy on L(S) = sum_i min_{j in S} d_ij: picks, cluster sizes, and L after each pick.

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
    cost = basis = n * phantom  # L(S), and what it is a difference from
    apart = n  # how many samples L is made of, so that rounding leaves no false remainder
    count = 0
    while count < budget:
        best = gains.max()
        if best <= 0 and count > 0:  # the first is always picked: without it nothing serves anyone
            break
        threshold = best - min(TIE * basis, best / 2)
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
        if cost < FAR * basis:  # too few digits of the differences are left: compute them anew
            cost = basis = served.sum()
            for e in range(n):
                gains[e] = 0.0 if gains[e] > -np.inf else gains[e]  # -inf for those chosen
            for i in range(n):
                for e in range(n):
                    gains[e] += served[i] - min(served[i], distances[i, e])
        picks[count], costs[count] = pick, cost if apart else 0.0
        count += 1
        if costs[count - 1] <= max(tolerance, 0.0):
            break
    for i in range(n):
        if server[i] < n:
            sizes[server[i]] += 1
    return picks[:count], sizes[picks[:count]], costs[:count]
