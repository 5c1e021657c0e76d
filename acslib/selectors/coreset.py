"""The type that every selector returns, and what selectors share."""

from __future__ import annotations

import functools
import math
import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from acslib.gradients import LastLayerGradients, as_gradients
from acslib.protocols import Selector as Selector

Gradients = LastLayerGradients | Tensor
Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]

# candidates closer than this, relative to the largest first score, tie: the lower index wins
TIE = 1e-12
# facility location keeps L(S) and its gains by differences until L(S) is below this share of what
# it began with
FAR = 1e-8
# the solvers take fourth powers of a gradient's size, which double precision holds in this range
SMALLEST, LARGEST = 1e-50, 1e50


class NotACoreset(ValueError):
    """What a selector returned, or was about to, cannot be trained on."""


@dataclass(frozen=True, eq=False)
class Coreset:
    """The samples to train on and their weights gamma (eq. 12), with how they were found.

    All tensors are on the CPU. Weights of another type than float64 are converted.

    indices: (k,) int64, ascending.
    weights: (k,) float64, for the sum over samples of eqs. (12), (13) and (23). They are >= 0
        unless a selector was told otherwise.
    reason: why the search ended. "budget"; "tolerance"; "optimum", where no further sample lowers
        the error (for gradmatch by more than 3e-8 of the target; among nearly parallel or nearly
        equal gradients by more than some 5e-4); or "rounding", where one might, and double
        precision cannot tell which.
    picks: (k,) the same indices in the order in which they were chosen.
    trace: the error after each step of the search, empty where no search was made. For gradmatch it
        is the square root of its objective over |target|: without a ridge, the relative error of
        eq. (12). For craig it is L(S) of Algorithm 2. It is longer than k where samples left again.

    Raises NotACoreset, a ValueError, for indices that are not ascending and distinct, for picks
    that are not the same samples, and for weights that are not finite.
    """

    indices: Tensor
    weights: Tensor
    reason: str = "budget"
    picks: Tensor = None  # type: ignore[assignment]  # the indices, where it is left out
    trace: Tensor = None  # type: ignore[assignment]  # empty, where it is left out

    def __post_init__(self) -> None:
        if not (isinstance(self.indices, Tensor) and isinstance(self.weights, Tensor)):
            raise NotACoreset(
                f"indices are a {type(self.indices).__name__}, weights a"
                f" {type(self.weights).__name__}; give tensors: (k,) int64 indices and (k,) weights"
            )
        if (
            self.indices.dtype != torch.int64
            or self.indices.ndim != 1
            or self.indices.shape != self.weights.shape
        ):
            raise NotACoreset(
                f"indices are {self.indices.dtype} of shape {tuple(self.indices.shape)}, weights of"
                f" shape {tuple(self.weights.shape)}; give (k,) int64 indices and (k,) weights"
            )
        indices, weights = self.indices.cpu(), self.weights.detach().cpu().double()
        picks = indices if self.picks is None else self.picks.cpu()
        if (indices.diff() <= 0).any() or (indices < 0).any():
            raise NotACoreset(
                "indices must be ascending, each given once, and not negative: sort them first"
            )
        if not weights.isfinite().all():
            raise NotACoreset("weights must be finite: check the gradients they were made from")
        if picks is not indices and not torch.equal(picks.sort().values, indices):
            raise NotACoreset("picks must be the indices in the order of choice, or left out")
        trace = torch.empty(0, dtype=torch.float64) if self.trace is None else self.trace.cpu()
        found = {"indices": indices, "weights": weights, "picks": picks, "trace": trace}
        for name, values in found.items():
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.indices)

    def normalised(self) -> Coreset:
        """The same samples with weights of mean 1, as training uses them.

        Raises ValueError where the weights sum to 0.
        """
        total = self.weights.sum()
        if len(self) and total <= 0:
            raise ValueError(
                f"the weights sum to {float(total):g}; only a positive sum can be scaled to mean 1"
            )
        weights = self.weights * (len(self) / total)
        return Coreset(self.indices, weights, self.reason, self.picks, self.trace)


def check_coreset(coreset: object, n: int, budget: int, *, nonnegative: bool = True) -> Coreset:
    """What a selector returned, or NotACoreset where it cannot be trained on.

    n: number of samples it chose from. budget: the most that it may return; `most_returned` says
    how many that is where a selector takes whole groups. nonnegative: refuse weights below 0.
    """
    if not isinstance(coreset, Coreset):
        raise NotACoreset(
            f"the selector returned a {type(coreset).__name__}; it must return a"
            " selectors.Coreset(indices, weights)"
        )
    if len(coreset) > budget:
        raise NotACoreset(
            f"the selector returned {len(coreset)} samples; the budget allows {budget}"
        )
    if len(coreset) and int(coreset.indices[-1]) >= n:
        raise NotACoreset(
            f"the selector returned sample number {int(coreset.indices[-1])};"
            f" there are {n}, numbered from 0"
        )
    if nonnegative and (coreset.weights < 0).any():
        raise NotACoreset(
            f"the selector returned a weight of {float(coreset.weights.min()):g};"
            " training needs weights >= 0 (for gradmatch: nonnegative=True)"
        )
    return coreset


def most_returned(selector: Selector, n: int, budget: int) -> int:
    """The most samples that `selector` may return: the budget, but for one that takes whole groups.

    Such a selector says so by a method `most(n, budget)`.
    """
    most = said_by(selector, "most")
    return budget if most is None else int(most(n, budget))


def said_by(selector: Any, name: str, otherwise: Any = None) -> Any:
    """What a selector says of itself by an attribute; a functools.partial of it says the same."""
    while isinstance(selector, functools.partial) and not hasattr(selector, name):
        selector = selector.func
    return getattr(selector, name, otherwise)


def needs_gradients(selector: Selector) -> bool:
    """Whether a selector looks at gradients; one that does not says so by `needs_gradients`."""
    return bool(said_by(selector, "needs_gradients", True))


def needed_fields(selector: Selector) -> tuple[str, ...]:
    """What a selector wants of LastLayerGradients besides the gradients, by its attribute `needs`.

    Any of "labels", "losses", "predictions" and "input_norms"; of Samples, "labels" alone.
    """
    return tuple(said_by(selector, "needs", ()))


def selector_name(selector: Any) -> str:
    """A selector in a word, with what is inside of it: BatchWise(craig)."""
    if isinstance(selector, functools.partial):
        return selector_name(selector.func)
    named = getattr(selector, "__name__", None) or getattr(selector, "name", None)
    inside = getattr(selector, "selector", None)
    own = str(named or type(selector).__name__)
    return own if inside is None else f"{own}({selector_name(inside)})"


def gradient_error(gradients: Gradients, coreset: Coreset) -> tuple[float, float]:
    """`|sum_i g_i - sum_j gamma_j g_j|` of eq. (12), and the same over `|sum_i g_i|`.

    Both are computed in float64.
    """
    gradients = as_gradients(gradients)
    missing = torch.ones(len(gradients), dtype=torch.float64)
    missing[coreset.indices] -= coreset.weights
    absolute = _norm(gradients.total(missing, dtype=torch.float64))
    scale = _norm(gradients.total(dtype=torch.float64))
    return absolute, absolute / scale if scale else math.inf if absolute else 0.0


def _norm(vector: Tensor) -> float:
    """The Euclidean norm, of vectors too whose squares leave the range of double precision."""
    norm = float(vector.norm())
    largest = float(vector.abs().max()) if len(vector) else 0.0
    if largest and not SMALLEST < norm < LARGEST:
        return largest * float((vector / largest).norm())
    return norm


def coreset_of(picks: Indices, weights: Vector | Indices, reason: str, trace: Vector) -> Coreset:
    """From picks and weights in the order of choice."""
    order = np.argsort(picks)
    return Coreset(
        torch.from_numpy(picks[order]),
        torch.from_numpy(weights[order].astype(np.float64)),
        reason,
        torch.from_numpy(picks),
        torch.from_numpy(trace),
    )


def in_order_of_picks(coreset: Coreset) -> Tensor:
    """The weights, in the order in which the samples were chosen: (k,)."""
    return coreset.weights[torch.searchsorted(coreset.indices, coreset.picks)]


def to_numpy(values: Tensor) -> NDArray[Any]:
    return values.detach().cpu().numpy()


def well_scaled(gradients: LastLayerGradients) -> tuple[LastLayerGradients, Vector, float]:
    """Gradients whose squares double precision holds, their squared norms, and their scale.

    The gradients come back as they are, with scale 1, unless the largest has a norm outside
    SMALLEST..LARGEST. Then they are divided by `scale`, a power of two, which rounds nothing; what
    is smaller than 1e-150 of the largest counts as zero from there on. Raises ValueError naming the
    first gradient that is not finite, and for features that are too large to be squared.
    """
    norms2 = _squared_norms(gradients)
    largest2 = norms2.max(initial=0.0)
    if SMALLEST**2 <= largest2 <= LARGEST**2:
        return gradients, norms2, 1.0
    for errors, features in gradients.terms:
        finite = errors.isfinite().all(1)
        if features is not None:
            finite &= features.isfinite().all(1)
        _refuse_unless_finite(to_numpy(finite))
    size = max(_largest(errors) * (1 + _largest(features)) for errors, features in gradients.terms)
    if size == 0 or len(gradients) == 0:
        return gradients, norms2, 1.0
    if not math.isfinite(size):
        raise ValueError(
            "errors times features leave the range of double precision (1e308): scale the features"
        )
    scale = power_of_two(size)
    scaled = gradients.to(torch.float64).scaled(1 / scale)
    norms2 = _squared_norms(scaled)
    if not np.isfinite(norms2).all():
        raise ValueError(
            f"the features reach {_largest(gradients.features):.0e}, and their squares leave the"
            " range of double precision (1e308): scale them"
        )
    return scaled, norms2, scale


def power_of_two(size: float) -> float:
    """One near `size` whose inverse is finite too: dividing by it rounds nothing."""
    return float(2.0 ** max(-1000, min(1000, round(math.log2(size)))))


def _squared_norms(gradients: LastLayerGradients) -> Vector:
    return cast(Vector, to_numpy(gradients.squared_norms(dtype=torch.float64)))


def _refuse_unless_finite(finite: NDArray[np.bool_]) -> None:
    bad = np.flatnonzero(~finite)
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(finite)} gradients are not finite, the first is number {bad[0]}; "
            "all must be: lower the learning rate if the loss has diverged, or leave them out"
        )


def _largest(factor: Tensor | None) -> float:
    return 0.0 if factor is None or not factor.numel() else float(factor.detach().abs().max())


def check_budget(budget: int, n: int) -> int:
    """`budget` as a whole number between 0 and n, or ValueError."""
    if not isinstance(budget, SupportsIndex) or not 0 <= operator.index(budget) <= n:
        raise ValueError(
            f"the budget is {budget}; give a whole number between 0 and {n}, the number of samples"
        )
    return operator.index(budget)


def check_not_negative(name: str, value: float) -> float:
    """`value` as a finite number >= 0, or ValueError."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; give a finite number >= 0")
    return float(value)


F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compiled by numba at the first call, kept on disk, and run without the interpreter's lock."""

    @functools.wraps(function)
    def kernel(*arguments: Any) -> Any:
        return _machine_code(function)(*arguments)

    return cast(F, kernel)


@functools.cache
def _machine_code(function: Callable[..., Any]) -> Callable[..., Any]:
    from numba import njit  # it takes half a second, and most methods have no use for it

    return cast(Callable[..., Any], njit(cache=True, nogil=True)(function))


class _BlasLimit:
    """One BLAS thread for the whole process, while anybody is inside."""

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                self.limit = _controller().select(user_api="blas").limit(limits=1)
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.limit.restore_original_limits()


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


_blas = _BlasLimit()


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products in one thread, so that a result does not depend on how many there are.

    One is the fastest number too: the solvers make many small products, and threads would wait for
    each other at every one. BLAS's limit belongs to the process, so that the first to enter sets it
    and the last to leave restores it. OpenMP's belongs to each thread.
    """
    with _controller().select(user_api="openmp").limit(limits=1):
        _blas.enter()
        try:
            yield
        finally:
            _blas.leave()
