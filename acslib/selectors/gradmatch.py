"""Adv. GradMatch: orthogonal matching pursuit on last-layer gradients (Algorithm 3).

`plain_gradmatch` is the algorithm as the paper prints it. `gradmatch` makes the same picks, fast:
by `MatchingPursuit`, or by `StreamedPursuit` where its Gram rows would not fit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acslib.gradients import GRAM_ELEMENTS, LastLayerGradients, as_gradients, check_gram
from acslib.selectors.coreset import (
    LARGEST,
    SMALLEST,
    Coreset,
    Gradients,
    Matrix,
    Vector,
    check_budget,
    check_not_negative,
    coreset_of,
    one_thread,
    power_of_two,
    to_numpy,
    well_scaled,
)
from acslib.selectors.foresight import GramOnDemand
from acslib.selectors.pursuit import EXACT, LOST, MatchingPursuit, Pursued, pursuit_room
from acslib.selectors.sampling import Sampling
from acslib.selectors.streamed_pursuit import StreamedPursuit

# --- Algorithm 3 as it is printed


def plain_gradmatch(
    gradients: Gradients,
    budget: int,
    *,
    target: Tensor | None = None,
    ridge: float = 0.0,
    tolerance: float = 1e-6,
    nonnegative: bool = True,
) -> Coreset:
    """Algorithm 3 with its symbols, least squares from scratch at every step: for a few hundred.

    Gamma is |b - sum_j gamma_j g_j|^2 + lambda |gamma|^2, with the square that makes line 7 least
    squares, and b is the sum of all gradients. With `nonnegative` line 7 is non-negative least
    squares, and samples whose weight becomes 0 leave S. The square root of Gamma over |b| is what
    `tolerance` bounds and `Coreset.trace` holds.
    """
    from scipy.optimize import nnls  # it takes 0.3 s, and the fast algorithm has its own

    g = to_numpy(as_gradients(gradients).dense(dtype=torch.float64))
    n = len(g)
    b = g.sum(0) if target is None else to_numpy(target.double())
    solve = nnls if nonnegative else _least_squares
    S: list[int] = []  # line 1
    gamma, trace, reason = np.zeros(n), [math.inf], "budget"
    r = g @ b  # line 3, up to the factor -2
    error, floor = float(np.linalg.norm(b)), 1e-11 * np.abs(r).max(initial=0.0)
    while len(S) < budget:  # line 4
        if error <= tolerance * np.linalg.norm(b):
            reason = "tolerance"
            break
        scores = r.copy() if nonnegative else np.abs(r)
        scores[S] = -np.inf
        j = int(scores.argmax())  # line 5; numpy takes the first of equals
        if scores[j] <= floor:
            reason = "optimum"
            break
        S.append(j)  # line 6
        A = np.vstack([g[S].T, math.sqrt(ridge) * np.eye(len(S))])
        gamma[:] = 0.0
        gamma[S] = solve(A, np.append(b, np.zeros(len(S))))[0]  # line 7
        S = [i for i in S if gamma[i] > 0] if nonnegative else S
        r = g @ (b - gamma @ g) - ridge * gamma  # line 8
        error = math.hypot(
            float(np.linalg.norm(b - gamma @ g)), math.sqrt(ridge) * float(np.linalg.norm(gamma))
        )
        trace.append(error / float(np.linalg.norm(b)))
        if trace[-1] >= trace[-2]:  # only rounding is left
            reason = "optimum"
            break
    return coreset_of(np.array(S, dtype=np.int64), gamma[S], reason, np.array(trace[1:]))


def _least_squares(A: Matrix, b: Vector) -> tuple[NDArray[Any], ...]:
    return np.linalg.lstsq(A, b, rcond=None)[:2]


# --- the same, fast

KEPT_ROWS = 2  # Gram rows that the pursuit keeps at hand, in budgets


def gradmatch(
    gradients: Gradients,
    budget: int,
    *,
    target: Tensor | None = None,
    ridge: float = 0.0,
    tolerance: float = 1e-6,
    nonnegative: bool = True,
    epsilon: float = 0.0,
    seed: int = 0,
) -> Coreset:
    """Weights on at most `budget` samples whose gradients add up to everyone's (Algorithm 3).

    Orthogonal matching pursuit on eq. (12): each step picks the sample best aligned with what is
    still missing, then refits all weights. `nonnegative` keeps them >= 0: samples that would turn
    negative leave again, and the weights are the exact non-negative least squares on the samples
    chosen. The search ends at the budget, at a relative error (`Coreset.trace`) <= tolerance
    (Algorithm 3's epsilon over |target|), or at the optimum, where no further sample lowers the
    error. The last two happen before the budget where it exceeds the gradients' rank: see
    `rank_limit`. Gradients that are nearly parallel (to 1e-5: far from zero, close together) end
    with the reason "rounding", since inner products no longer tell which sample is the next best.

    target: (d,) what the weighted gradients shall add up to, by default the sum of all gradients. A
    validation set's is its own `gradients.total()`, at the same network, times n over its size: the
    variant for imbalanced or noisy training sets of Killamsetty et al. (2021a).
    ridge: lambda >= 0, in the units of a squared gradient; the objective is |missing|^2 + lambda
    |weights|^2. It spreads the weights, at the cost of error: without it a few samples may
    carry most of the sum. A tenth of the mean squared gradient is a beginning.
    epsilon: 0 looks at all samples at each step. Between 0 and 1, a step looks at a random
    n / budget * log(1 / epsilon) of them and takes the best, see `craig`. All weights are still
    refitted. No bound is known for the error; docs/scaling.md has what was measured.
    seed: of those draws, together with the epoch of the gradients.

    Where its Gram rows would take more than 4 GB, a step makes the inner products of all samples
    with what is missing anew, which takes n d operations and budget^2 numbers of memory.

    Raises ValueError for a budget outside 0..n, for one too large even so, for non-finite
    gradients, and for a target of another length or too large or small beside them.
    """
    gradients = as_gradients(gradients)
    budget = check_budget(budget, len(gradients))
    ridge = check_not_negative("ridge", ridge)
    tolerance = check_not_negative("tolerance", tolerance)
    sampling = Sampling.checked(epsilon, seed, gradients, budget)
    streamed = check_pursuit(gradients.shape, budget, ridge, sampling is not None)
    with one_thread():
        scaled, norms2, scale = well_scaled(gradients)
        if target is None:
            goal, goal_scale = scaled.total(dtype=torch.float64), scale
        else:
            goal, goal_scale = _scaled_target(gradients, target, norms2, scale)
        options: dict[str, Any] = {
            "ridge": ridge / scale / scale,
            "tolerance": tolerance,
            "nonnegative": nonnegative,
        }
        several = [] if streamed else _by_gram_rows(scaled, goal, norms2, budget, options)
        if all(found.lost for found in several):
            pursuit = StreamedPursuit(scaled, goal, norms2, budget, sampling, **options)
            several += [told_truly(pursuit.run(), scaled, goal, options["ridge"], tolerance)]
        # no sample at all has error 1, and comes last, so that what is as good as that is kept
        several += [Pursued(np.empty(0, np.int64), np.empty(0), [1.0], "rounding", True)]
        found = min(several, key=lambda found: found.trace[-1] if found.trace else 1.0)
    weights = _unscaled(found.weights, goal_scale, scale)
    return coreset_of(found.atoms, weights, found.reason, np.array(found.trace))


def _unscaled(weights: Vector, goal_scale: float, scale: float) -> Vector:
    """The weights for gradients and target as they were given; ValueError where float64 cannot hold
    them.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        found = weights * (goal_scale / scale)
    largest = np.abs(found).max(initial=0.0)
    if len(found) and not np.finfo(np.float64).tiny <= largest < np.inf:
        size = "small" if goal_scale < scale else "large"
        raise ValueError(
            f"the target is so {size} beside the gradients that float64 cannot hold the weights:"
            " scale one of them"
        )
    return found


def _by_gram_rows(
    scaled: LastLayerGradients, goal: Tensor, norms2: Vector, budget: int, options: dict[str, Any]
) -> list[Pursued]:
    """By the fast pursuit; none where samples are so nearly dependent that nothing is solved."""
    scaled = scaled.to(torch.float64)
    correlations: Vector = to_numpy(scaled.correlations(goal))
    norm2, gram = float(goal.square().sum()), _gram_of(scaled, budget)
    try:
        found = MatchingPursuit(gram, correlations, norms2, norm2, budget, **options).run()
    except np.linalg.LinAlgError:
        return []
    return [told_truly(found, scaled, goal, options["ridge"], options["tolerance"])]


def told_truly(
    found: Pursued, gradients: LastLayerGradients, goal: Tensor, ridge: float, tolerance: float
) -> Pursued:
    """What was found, with its error by the gradients themselves where rounding has spoilt it."""
    rows = torch.from_numpy(found.atoms).to(gradients.device)
    weights = torch.from_numpy(found.weights).to(gradients.device)
    missing = goal - gradients[rows].total(weights, dtype=torch.float64)
    error2 = float(missing.square().sum()) + ridge * float(weights.square().sum())
    norm2 = float(goal.square().sum())
    if not found.trace or not norm2:
        return found
    error = math.sqrt(error2 / norm2)
    missed = found.reason == "tolerance" and error > tolerance + EXACT
    if missed or abs(error - found.trace[-1]) > LOST:
        return Pursued(found.atoms, found.weights, [*found.trace[:-1], error], "rounding", True)
    return found


def _scaled_target(
    gradients: LastLayerGradients, target: Tensor, norms2: Vector, scale: float
) -> tuple[Tensor, float]:
    """A target of its own, divided by a power of two where very large or small; that power.

    gradients: as they were given. norms2, scale: what became of them.
    """
    if target.shape != gradients.shape[1:]:
        raise ValueError(
            f"the target has shape {tuple(target.shape)}; give one of shape ({gradients.shape[1]},)"
        )
    target = target.detach().to(gradients.device, torch.float64)
    largest = float(target.abs().max()) if len(target) else 0.0
    if not math.isfinite(largest):
        raise ValueError(f"the target's squared norm is {largest * largest}; give a finite target")
    nonzero = np.zeros(len(gradients), bool)
    for errors, _ in gradients.terms:
        nonzero |= to_numpy(errors.any(1))
    lost = int((nonzero & (norms2 < 1e-290)).sum())
    if lost:
        raise ValueError(
            f"{lost} of {len(gradients)} gradients are below 1e-145 of the largest, and count as"
            " zero beside it: leave them out, or give them without the others"
        )
    if largest == 0.0 or (scale == 1.0 and SMALLEST < largest < LARGEST):
        return target, 1.0
    power = power_of_two(largest)
    return target / power, power


def rank_limit(classes: int, width: int) -> int:
    """The most samples that `gradmatch` can weight: (classes - 1) * (width + 1).

    It is the rank of last-layer gradients with `width` features, 0 for the bias part alone; errors
    sum to zero over the classes. With that many samples the error is zero, so that a larger budget
    ends early, with the reason "tolerance" or "optimum".
    """
    return (classes - 1) * (width + 1)


def gram_rows_held(n: int, budget: int) -> int:
    """How many of n Gram rows `gradmatch` keeps at hand: all where that is cheaper and they fit."""
    return n if 8 * budget >= n and n * n <= GRAM_ELEMENTS else min(n, KEPT_ROWS * budget)


def check_pursuit(shape: tuple[int, int], budget: int, ridge: float, sampled: bool) -> bool:
    """Whether `gradmatch` does without Gram rows, since they would take more than GRAM_ELEMENTS.

    shape: (n, d) of the gradients. sampled: whether epsilon > 0; then it has none to begin with.
    Raises ValueError where the inner products among the samples chosen take more by themselves.
    """
    n, room = shape[0], pursuit_room(shape[1], budget, ridge)
    # beside the rows at hand, it keeps two for each sample chosen
    kept = (gram_rows_held(n, budget) + 2 * room) * n + room * room
    if kept <= GRAM_ELEMENTS and not sampled:
        return False
    check_gram(room, room)
    return True


def _gram_of(gradients: LastLayerGradients, budget: int) -> Matrix | GramOnDemand:
    """The whole matrix, unless so few rows are wanted that fetching them is cheaper."""
    held = gram_rows_held(len(gradients), budget)
    return to_numpy(gradients.gram()) if held == len(gradients) else GramOnDemand(gradients, held)
