"""The two greedy solvers on plain arrays: facility location (Algorithm 2) and matching pursuit (Algorithm 3)."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import dgemm

TIE = 1e-12  # candidates closer than this, relative to the largest first score, tie: the lower index wins
DUPLICATE = 1e-13  # squared distances below this share of |g_i|^2 + |g_j|^2 are rounding
RANK = 1e-12  # an atom with less than this share of its squared norm outside the span of the others depends on them
AHEAD = 64  # picks foreseen at most: 48 to 96 cost about the same
BREADTH = 4  # candidates among which they are foreseen, for each: 4 to 6 cost about the same, 3 or 8 a tenth more
ROUNDING = 1e-15  # squared errors, relative to the target's, are not known better than this
CANCELLED = 1e-4  # an atom with less than this share of its squared norm outside the span is made orthogonal twice
DRIFT = 1e-12  # updates leave this much, of the largest correlation, on the support; with more, it is factorised anew


@njit(cache=True)
def to_distances(gram, norms2):
    """Turn a Gram matrix into Euclidean distances, in place; what is within rounding of zero is zero."""
    n = len(gram)
    for i in range(n):
        for j in range(n):
            scale = norms2[i] + norms2[j]
            squared = scale - 2 * gram[i, j]
            gram[i, j] = np.sqrt(squared) if squared > DUPLICATE * scale else 0.0
        gram[i, i] = 0.0


@njit(cache=True)
def facility_location(distances, budget, tolerance):
    """Exact greedy on L(S) = sum_i min_{j in S} d_ij (Algorithm 2): picks, cluster sizes, and L after each pick.

    distances: (n, n), non-negative, zero diagonal. Stops at `budget` picks, at L(S) <= tolerance, or when no further
    sample lowers L. A pick changes the gains only through the rows that it serves better, so that all the picks
    together cost about 5 n^2 operations.
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
    cost, apart = n * phantom, n  # L(S), and how many samples it is made of: rounding leaves no false remainder
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


@njit(cache=True)
def pursuit_steps(gram, residual, pick, budget, ridge, nonnegative):
    """The first steps of orthogonal matching pursuit among few atoms, from `pick` on; weights may turn negative.

    gram: (n, n) inner products and residual: (n,) correlations, both of what is outside the present support; they
    change in place. Up to `budget` indices.
    """
    steps, taken = np.empty(budget, np.int64), np.zeros(len(residual), np.bool_)
    for count in range(budget):
        steps[count], taken[pick] = pick, True
        pivot = gram[pick, pick] + ridge
        if pivot <= 0:
            return steps[: count + 1]
        row = gram[pick] / np.sqrt(pivot)
        step = residual[pick] / np.sqrt(pivot)
        best = 0.0
        for i in range(len(residual)):
            residual[i] -= step * row[i]
            for j in range(len(residual)):
                gram[i, j] -= row[i] * row[j]
            score = residual[i] if nonnegative else abs(residual[i])
            if score > best and not taken[i]:
                best, pick = score, i
        if best == 0.0:
            return steps[: count + 1]
    return steps


class MatchingPursuit:
    """Orthogonal matching pursuit on the Gram matrix (Algorithm 3), with non-negative weights on request.

    Minimises `|target - sum_j w_j g_j|^2 + ridge |w|^2` over the weights of the chosen atoms after every pick. With the
    sign constraint this is the active-set method of Lawson and Hanson stopped at `budget` atoms: atoms whose weight
    would turn negative leave, and the search goes on.

    The next picks are foreseen by taking the same steps among the best candidates alone. Their Gram rows are fetched
    and made orthogonal to the support together, by matrix products, so that each pick only meets the last few ones; a
    pick that was not foreseen starts this anew. The picks are those of the textbook algorithm. Where samples are nearly
    dependent, updates alone would lose the way: see `_orthogonalised` and `_settle`.

    gram: (n, n) float64 `<g_i, g_j>`, as an array or as what is indexed like one by rows (b,) and by `np.ix_` of the
    same rows and columns. correlations: (n,) `<g_i, target>`. diagonal: (n,) `|g_i|^2`. norm2: `|target|^2`. After
    `run()`: `atoms` in the order in which they entered, `weights`, `trace` (the relative error, square root of the
    objective over |target|, after each pick) and `reason`.
    """

    def __init__(self, gram, correlations, diagonal, norm2, budget, *, ridge=0.0, tolerance=0.0, nonnegative=True):
        n = len(correlations)
        self.gram, self.correlations, self.diagonal, self.norm2 = gram, correlations, diagonal, norm2
        self.budget, self.ridge, self.tolerance, self.nonnegative = budget, ridge, tolerance, nonnegative
        self.largest = np.abs(correlations).max(initial=0.0)
        self.slack = TIE * self.largest
        self.floor = 10 * TIE * np.sqrt(norm2 * diagonal)  # an atom less aligned than this with what is left is spent
        self.chosen, self.blocked = np.zeros(n, bool), np.zeros(n, bool)
        self.residual, self.error2, self.trace = correlations.copy(), norm2, []
        # the support, in no particular order: atoms, when they entered, weights, Gram rows, `root`, for which
        # root.T @ root = inverse of the support's Gram matrix, and `orthogonal` = root @ Gram rows
        self.size, self.clock = 0, 0
        self.support, self.entered, self.w = np.empty(budget, np.int64), np.empty(budget, np.int64), np.zeros(budget)
        self.kept, self.root, self.orthogonal = np.empty((budget, n)), np.zeros((budget, budget)), np.empty((budget, n))
        # the atoms foreseen and their places, when that was, their Gram rows as fetched and made orthogonal to the
        # support, of size `start` then, and what of the support makes up the difference
        self.foreseen, self.foreseen_at, self.start = {}, -AHEAD, 0
        self.fetched, self.deflated, self.solved = np.empty((0, n)), np.empty((0, n)), np.empty((0, 0))

    def run(self) -> MatchingPursuit:
        while (reason := self._stop()) is None:
            if self.pick not in self.foreseen:
                self._foresee()
            self._add(self.pick)
        self.reason = reason
        t = self.size
        w, support, root = self.w[:t], self.support[:t], self.root[:t, :t]
        for _ in range(2):  # the weights have been through many updates; refinement makes them exact
            missing = self.correlations[support] - self.kept[:t, support] @ w - self.ridge * w
            w += root.T @ (root @ missing)
        order = np.argsort(self.entered[:t])
        self.atoms, self.weights = support[order], w[order]
        if self.nonnegative:
            np.maximum(self.weights, 0.0, out=self.weights)
        return self

    def _stop(self) -> str | None:
        """The reason to stop, or None after setting the next `pick`."""
        if self.size == self.budget:
            return "budget"
        if self.error2 <= self.tolerance**2 * self.norm2:
            return "tolerance"
        scores = self._scores()
        best = scores.max()
        if best == -np.inf:
            return "optimum"
        self.pick = int(np.argmax(scores >= best - self.slack))
        return None

    def _scores(self) -> np.ndarray:
        scores = self.residual if self.nonnegative else np.abs(self.residual)
        return np.where(self.chosen | self.blocked | (scores <= self.floor), -np.inf, scores)

    def _foresee(self) -> None:
        """The next picks as the best candidates alone give them, with Gram rows orthogonal to the support."""
        self._settle()
        t, scores = self.size, self._scores()
        ahead = min(AHEAD, 2 * (self.clock - self.foreseen_at) + 4, self.budget - t)
        width = min(BREADTH * ahead, len(scores))
        best = np.argpartition(scores, -width)[-width:]
        best = np.union1d(best[scores[best] > -np.inf], self.pick)
        overlap = self.orthogonal[:t, best]
        gram, first = self.gram[np.ix_(best, best)] - overlap.T @ overlap, np.searchsorted(best, self.pick)
        steps = pursuit_steps(gram, self.residual[best], first, ahead, self.ridge, self.nonnegative)
        atoms = best[steps]
        self.foreseen, self.start = {atom: position for position, atom in enumerate(atoms.tolist())}, t
        self.foreseen_at = self.clock
        self.fetched, overlap = self.gram[atoms], overlap[:, steps].T
        self.deflated, self.solved = self.fetched.copy(), overlap @ self.root[:t, :t]
        _subtract_product(self.deflated, overlap, self.orthogonal[:t])

    def _add(self, atom: int) -> None:
        """One pick: a step of the progressive Cholesky factorisation, then new weights for all atoms."""
        t, position = self.size, self.foreseen[atom]
        earlier = self.orthogonal[self.start : t]
        overlap = earlier[:, atom]
        row = self.deflated[position] - overlap @ earlier
        solved = overlap @ self.root[self.start : t, :t]
        solved[: self.start] += self.solved[position]
        coefficients = np.append(-solved, 1.0)
        self.kept[t], self.support[t] = self.fetched[position], atom
        if row[atom] + self.ridge < CANCELLED * self.diagonal[atom]:
            coefficients, row = self._orthogonalised(coefficients)
        pivot = row[atom] + self.ridge
        gain = self.residual[atom] ** 2 / pivot if pivot > RANK * self.diagonal[atom] else 0.0
        if gain <= ROUNDING * self.norm2:
            self.blocked[atom] = True
            return
        scale = np.sqrt(pivot)
        direction = self.root[t, : t + 1]
        direction[:] = coefficients / scale
        orthogonal = self.orthogonal[t]
        orthogonal[:] = row / scale
        self.entered[t], self.w[t], self.chosen[atom] = self.clock, 0.0, True
        self.size, self.clock = t + 1, self.clock + 1
        step = self.residual[atom] / scale
        trial = self.w[: t + 1] + step * direction
        if self.nonnegative and trial.min() <= 0:
            self._drop(trial, atom)
        else:
            self.w[: t + 1] = trial
            self.residual -= step * orthogonal
            self.error2 -= gain
        self.trace.append(np.sqrt(max(self.error2, 0.0) / self.norm2))

    def _orthogonalised(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gram-Schmidt once more, from the Gram rows themselves: a candidate's coefficients, and its row."""
        t, support = self.size, self.support[: self.size]
        root, kept = self.root[:t, :t], self.kept[: t + 1]
        left = (coefficients @ kept)[support] + self.ridge * coefficients[:t]
        coefficients[:t] -= (root @ left) @ root
        return coefficients, coefficients @ kept

    def _settle(self) -> None:
        """The residual from the weights themselves; a new factorisation where updates have lost the optimum."""
        t, support = self.size, self.support[: self.size]
        kept, w = self.kept[:t], self.w[:t]
        self.residual = self.correlations - w @ kept
        missing = self.residual[support] - self.ridge * w
        if np.abs(missing).max(initial=0.0) > DRIFT * self.largest:
            gram = kept[:, support] + self.ridge * np.eye(t)
            self.root[:t, :t] = solve_triangular(cholesky(gram, lower=True), np.eye(t), lower=True)
            self.orthogonal[:t] = self.root[:t, :t] @ kept
            w += self.root[:t, :t].T @ (self.root[:t, :t] @ missing)
            if self.nonnegative:
                np.maximum(w, 0.0, out=w)
            self.residual = self.correlations - w @ kept

    def _drop(self, trial: np.ndarray, atom: int) -> None:
        """Walk from the feasible weights towards the trial ones; atoms that reach zero on the way leave."""
        feasible = self.w[: self.size].copy()
        while trial.min() <= 0:
            share = np.where(trial <= 0, feasible / np.where(trial <= 0, feasible - trial, 1.0), np.inf)
            leaving = int(share.argmin())
            feasible += share[leaving] * (trial - feasible)
            column = self.root[: self.size, : self.size].T @ self.root[: self.size, leaving]
            trial -= column * (trial[leaving] / column[leaving])
            feasible, trial = _without(feasible, leaving), _without(trial, leaving)
            self._remove(leaving)
        t = self.size
        self.w[:t], self.foreseen = trial, {}
        self._settle()
        before, self.error2 = self.error2, self.norm2 - self.w[:t] @ self.correlations[self.support[:t]]
        if self.error2 < before - ROUNDING * self.norm2:
            self.blocked[:] = False
        else:
            self.blocked[atom] = True  # else two atoms could push each other out for ever

    def _remove(self, position: int) -> None:
        """Reflect `root` so that one row alone involves the leaving atom, and leave that row and atom out."""
        last = self.size - 1
        root, orthogonal = self.root[: self.size, : self.size], self.orthogonal[: self.size]
        normal = root[:, position].copy()
        normal[last] += np.copysign(np.linalg.norm(normal), normal[last])
        double = normal[:, None] * (2 / (normal @ normal))
        root -= double * (normal @ root)
        _subtract_product(orthogonal, double, (normal @ orthogonal)[None])
        root[:, position] = root[:, last]
        root[last], root[:, last] = 0.0, 0.0
        self.chosen[self.support[position]] = False
        for values in (self.support, self.entered, self.kept):
            values[position] = values[last]
        self.size = last


def _subtract_product(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """`values -= left @ right` in place; `values` must be a float64 array in C order."""
    if left.size:
        dgemm(-1.0, right.T, left.T, 1.0, values.T, overwrite_c=True)


def _without(values: np.ndarray, position: int) -> np.ndarray:
    """One entry fewer: the last takes its place."""
    values[position] = values[-1]
    return values[:-1]
