"""Facility location where not all distances are kept: CRAIG for tens of thousands of samples.

Distances come in rows from whoever can compute them, POOL samples' at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from acslib.selectors.coreset import FAR, TIE, Indices, Matrix, Vector, compiled
from acslib.selectors.sampling import Sampling

POOL = 256  # rows of distances at hand

Distances = Callable[[Indices], Matrix]


@compiled
def gains_of(rows: Matrix, served: Vector) -> Vector:
    """What each sample would lower L(S) by: (b,), of its distances (b, n)."""
    gains = np.zeros(len(rows))
    for e in range(len(rows)):
        for i in range(len(served)):
            gains[e] += max(served[i] - rows[e, i], 0.0)
    return gains


@compiled
def losses_of(rows: Matrix, nearer: Indices, before: Vector, after: Vector) -> Vector:
    """What those gains fall by where samples `nearer` are served from `after` now: (b,)."""
    losses = np.zeros(len(rows))
    for e in range(len(rows)):
        for place in range(len(nearer)):
            d = rows[e, nearer[place]]
            losses[e] += max(before[place] - d, 0.0) - max(after[place] - d, 0.0)
    return losses


class StreamedLocations(ABC):
    """Greedy on L(S) = sum_i min_{j in S} d_ij, one `_best` sample after the other.

    distances: (b,) indices -> (b, n) non-negative, zero on the diagonal. sampling: what draws the
    samples that a step looks at, where it does not look at all.
    """

    def __init__(self, distances: Distances, n: int, sampling: Sampling | None = None) -> None:
        self.distances, self.n, self.sampling = distances, n, sampling
        self.server = np.full(n, n)
        self.served = np.full(n, np.inf)
        self.pool, self.rows = np.empty(0, np.int64), np.empty((0, n))
        self.count = 0

    def run(self, budget: int, tolerance: float) -> tuple[Indices, Indices, Vector]:
        """Picks, cluster sizes, and L after each pick, as `facility_location` gives them."""
        picks, costs = np.empty(budget, np.int64), np.empty(budget)
        if budget:
            self._begin()
        while self.count < budget:
            pick = self._best(budget)
            if pick is None:
                break
            self._serve(pick)
            picks[self.count], costs[self.count] = pick, self.served.sum()
            self.count += 1
            if costs[self.count - 1] <= max(tolerance, 0.0):
                break
        sizes = np.bincount(self.server[self.server < self.n], minlength=self.n)
        return picks[: self.count], sizes[picks[: self.count]], costs[: self.count]

    @abstractmethod
    def _begin(self) -> None:
        """Everyone is served by the phantom."""

    @abstractmethod
    def _best(self, budget: int) -> int | None:
        """The next pick, or None where none lowers L."""

    def _serve(self, pick: int) -> None:
        """Whoever is nearer to the pick than to what served it is served by it."""
        row = self._row(pick)
        ties = row == self.served
        self.server[ties] = np.minimum(self.server[ties], pick)
        nearer = np.flatnonzero(row < self.served)
        self.server[nearer] = pick
        before = self.served[nearer]
        self.served[nearer] = row[nearer]
        self._follow(pick, nearer, before)

    @abstractmethod
    def _follow(self, pick: int, nearer: Indices, before: Vector) -> None:
        """What else changes with a pick: these samples were served from `before`."""

    def _row(self, sample: int) -> Vector:
        place = np.flatnonzero(self.pool == sample)
        row: Vector = self.rows[place[0]] if len(place) else self.distances(np.array([sample]))[0]
        return row


class LazyLocations(StreamedLocations):
    """The exact greedy.

    What a sample lowers L(S) by never grows again. So what it was found to be some picks ago is a
    bound, and it is computed anew only where the bound exceeds the best that is known: the lazy
    greedy of Minoux (1978). The most promising samples' distances stay at hand.
    """

    def _begin(self) -> None:
        sums, farthest = np.empty(self.n), 0.0
        for start in range(0, self.n, POOL):
            rows = self.distances(np.arange(start, min(start + POOL, self.n)))
            sums[start : start + POOL] = rows.sum(1)
            farthest = max(farthest, float(rows.max()))
        self.served = np.full(self.n, farthest)
        self.bounds = self.n * farthest - sums
        self.fresh = np.ones(self.n, np.bool_)  # whose bound is the gain itself
        self.basis = self.n * farthest  # the L(S) that the bounds are differences from

    def _best(self, budget: int) -> int | None:
        while True:
            known = np.where(self.fresh, self.bounds, -np.inf)
            best = max(known.max(), 0.0)
            threshold = best - min(TIE * self.basis, best / 2)
            stale = np.flatnonzero(~self.fresh & (self.bounds > threshold))
            if not len(stale):
                break
            self._look_at(stale)
        if best == 0 and self.count:
            return None
        return int(np.argmax(known >= threshold))

    def _look_at(self, stale: Indices) -> None:
        """The gains of the most promising of these; the best of all stay in the pool."""
        block = _highest(stale, self.bounds, POOL // 2)
        rows = self.distances(block)
        self.bounds[block], self.fresh[block] = gains_of(rows, self.served), True
        pool, held = np.append(self.pool, block), np.concatenate([self.rows, rows])
        if len(pool) > POOL:
            kept = _highest(np.arange(len(pool)), self.bounds[pool], POOL)
            pool, held = pool[kept], held[kept]
        self.pool, self.rows = pool, held

    def _follow(self, pick: int, nearer: Indices, before: Vector) -> None:
        self.fresh[:] = False
        self.fresh[self.pool] = True
        self.bounds[pick] = -np.inf
        self.bounds[self.pool] -= losses_of(self.rows, nearer, before, self.served[nearer])
        cost = float(self.served.sum())
        if cost < FAR * self.basis:  # too few digits of the differences are left
            self.bounds += TIE * self.basis  # bounds still, whatever rounding did
            self.basis = cost
            open_ = self.bounds[self.pool] > -np.inf
            self.bounds[self.pool[open_]] = gains_of(self.rows[open_], self.served)


class DrawnLocations(StreamedLocations):
    """The stochastic greedy: each step takes the best of those that `sampling` draws.

    Draws of several steps are made ahead, so that their distances are computed together. Those
    served from 0 would lower nothing and are not drawn.
    """

    sampling: Sampling

    def _begin(self) -> None:
        # nobody is farther apart; which phantom it is changes no pick
        self.served = np.full(self.n, 2 * float(self.distances(np.zeros(1, np.int64)).max()))
        self.ahead: list[Indices] = []

    def _open(self) -> NDArray[np.bool_]:
        """Which may be taken."""
        return self.served > 0 if self.count else np.ones(self.n, np.bool_)

    def _best(self, budget: int) -> int | None:
        open_ = self._open()
        if not open_.any():
            return None
        drawn = self._drawn(open_, budget)
        gains = self._gains(drawn)
        best = gains.max()
        slack = min(TIE * float(self.served.sum()), best / 2)
        return int(drawn[np.argmax(gains >= best - slack)])

    def _follow(self, pick: int, nearer: Indices, before: Vector) -> None:
        """Nothing: each step computes what it looks at anew."""

    def _drawn(self, open_: NDArray[np.bool_], budget: int) -> Indices:
        """A uniform sample of those that may be taken, ascending."""
        if not self.ahead:
            self._draw_ahead(np.flatnonzero(open_), budget - self.count)
        drawn = self.ahead.pop()
        drawn = drawn[open_[drawn]]
        wanted = self.sampling.size - len(drawn)  # in the place of those taken since the draw
        if wanted > 0:
            others = open_.copy()
            others[drawn] = False
            drawn = np.union1d(drawn, self.sampling.draw(np.flatnonzero(others), wanted))
        return drawn

    def _draw_ahead(self, open_: Indices, left: int) -> None:
        """The draws of as many steps as fit into the pool; of one, without it, where none does."""
        steps = max(1, min(POOL // self.sampling.size, left))
        self.ahead = [self.sampling.draw(open_) for _ in range(steps)]
        pool = np.unique(np.concatenate(self.ahead))
        self.pool = pool if len(pool) <= POOL else pool[:0]
        self.rows = self.distances(self.pool)

    def _gains(self, drawn: Indices) -> Vector:
        if np.isin(drawn, self.pool).all():
            return gains_of(self.rows[np.searchsorted(self.pool, drawn)], self.served)
        blocks = np.array_split(drawn, -(-len(drawn) // POOL))
        return np.concatenate([gains_of(self.distances(block), self.served) for block in blocks])


def _highest(samples: Indices, values: Vector, count: int) -> Indices:
    """The `count` samples of the highest values, in any order; all where there are fewer."""
    if len(samples) <= count:
        return samples
    return samples[np.argpartition(values[samples], -count)[-count:]]
