"""The two greedy solvers on plain arrays: facility location (Algorithm 2) and matching pursuit (Algorithm 3)."""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.blas import dgemm

TIE = 1e-12  # candidates closer than this, relative to the largest first score, tie: the lower index wins
DUPLICATE = 1e-13  # squared distances below this share of |g_i|^2 + |g_j|^2 are rounding
RANK = 1e-12  # an atom with less than this share of its squared norm outside the span of the others depends on them
PANEL = 160  # candidates kept orthogonal together: 128 to 192 cost about the same, 96 a sixth more
BLOCK = 32  # picks after which the panel is made orthogonal to them
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


class MatchingPursuit:
    """Orthogonal matching pursuit on the Gram matrix (Algorithm 3), with non-negative weights on request.

    Minimises `|target - sum_j w_j g_j|^2 + ridge |w|^2` over the weights of the chosen atoms after every pick. With the
    sign constraint this is the active-set method of Lawson and Hanson stopped at `budget` atoms: atoms whose weight
    would turn negative leave, and the search goes on.

    The atoms chosen next are mostly among those best aligned now. So their Gram rows are fetched and orthogonalised
    against the support a panel at a time, by matrix products, and each pick then only meets the last few ones; a pick
    from outside renews the panel. The picks are those of the textbook algorithm. Where samples are nearly dependent,
    updates alone would lose the way: see `_orthogonalised` and `_settle`.

    rows: callable, indices (b,) -> Gram rows (b, n), a new array. correlations: (n,) `<g_i, target>`. diagonal: (n,)
    `|g_i|^2`. norm2: `|target|^2`. After `run()`: `atoms` in the order in which they entered, `weights`, `trace` (the
    relative error, square root of the objective over |target|, after each pick) and `reason`.
    """

    def __init__(self, rows, correlations, diagonal, norm2, budget, *, ridge=0.0, tolerance=0.0, nonnegative=True):
        n = len(correlations)
        self.rows, self.correlations, self.diagonal, self.norm2 = rows, correlations, diagonal, norm2
        self.budget, self.ridge, self.tolerance, self.nonnegative = budget, ridge, tolerance, nonnegative
        self.largest = np.abs(correlations).max(initial=0.0)
        self.slack = TIE * self.largest
        self.floor = 10 * TIE * np.sqrt(norm2 * diagonal)  # an atom less aligned than this with what is left is spent
        self.chosen, self.blocked = np.zeros(n, bool), np.zeros(n, bool)
        self.residual, self.error2, self.trace = correlations.copy(), norm2, []
        # the support, in no particular order: atoms, when they entered, weights, Gram rows, and `root`, whose
        # rows v satisfy root.T @ root = inverse of the support's Gram matrix
        self.size, self.clock = 0, 0
        self.support, self.entered, self.w = np.empty(budget, np.int64), np.empty(budget, np.int64), np.zeros(budget)
        self.kept, self.root = np.empty((budget, n)), np.zeros((budget, budget))
        # the panel: candidates, their places, Gram rows made orthogonal to the support of size `advanced_to`, and what
        # of the support makes up the difference; `orthogonal` has the directions added to the support since then
        self.members, self.panel, self.advanced_to = np.empty(0, np.int64), {}, 0
        self.deflated, self.solved = np.empty((0, n)), np.empty((0, 0))
        self.orthogonal = np.empty((BLOCK, n))

    def run(self) -> MatchingPursuit:
        while (reason := self._stop()) is None:
            if self.pick not in self.panel:
                self._open_panel()
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

    def _open_panel(self) -> None:
        """The best candidates take the place of those that no longer are, with Gram rows orthogonal to the support."""
        self._advance()
        self._settle()
        t, scores = self.size, self._scores()
        width = min(PANEL, len(scores))
        best = np.argpartition(scores, -width)[-width:]
        wanted = np.union1d(best[scores[best] > -np.inf], self.pick)
        fresh = np.setdiff1d(wanted, self.members)
        rows, root, kept = np.require(self.rows(fresh), np.float64, "CW"), self.root[:t, :t], self.kept[:t]
        solved = rows[:, self.support[:t]] @ root.T @ root
        _subtract_product(rows, solved, kept)
        entering = {"members": fresh, "solved": solved, "deflated": rows}
        places = np.flatnonzero(~np.isin(self.members, wanted))[: len(fresh)]
        for name, values in entering.items():
            present = getattr(self, name)
            present[places] = values[: len(places)]
            if len(values) > len(places):
                setattr(self, name, np.concatenate([present, values[len(places) :]]))
        self.panel = {atom: position for position, atom in enumerate(self.members.tolist())}

    def _advance(self) -> None:
        """Make the panel orthogonal to the picks since the last time, too."""
        start, t = self.advanced_to, self.size
        earlier = self.orthogonal[: t - start]
        overlap = earlier[:, self.members].T
        solved = overlap @ self.root[start:t, :t]
        solved[:, :start] += self.solved
        _subtract_product(self.deflated, overlap, earlier)
        self.solved, self.advanced_to = solved, t

    def _add(self, atom: int) -> None:
        """One pick: a step of the progressive Cholesky factorisation, then new weights for all atoms."""
        t, position = self.size, self.panel[atom]
        earlier = self.orthogonal[: t - self.advanced_to]
        overlap = earlier[:, atom]
        row = self.deflated[position] - overlap @ earlier
        solved = overlap @ self.root[self.advanced_to : t, :t]
        solved[: self.advanced_to] += self.solved[position]
        coefficients = np.append(-solved, 1.0)
        self.kept[t], self.support[t] = self.rows(np.array([atom])), atom
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
        orthogonal = self.orthogonal[len(earlier)]
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
        if self.size - self.advanced_to == BLOCK:
            self._advance()

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
            self.members, self.panel, self.advanced_to = self.members[:0], {}, t
            self.deflated, self.solved = self.deflated[:0], np.empty((0, t))
            w += self.root[:t, :t].T @ (self.root[:t, :t] @ missing)
            if self.nonnegative:
                np.maximum(w, 0.0, out=w)
            self.residual = self.correlations - w @ kept

    def _drop(self, trial: np.ndarray, atom: int) -> None:
        """Walk from the feasible weights towards the trial ones; atoms that reach zero on the way leave."""
        feasible = self.w[: self.size].copy()
        self._advance()
        while trial.min() <= 0:
            share = np.where(trial <= 0, feasible / np.where(trial <= 0, feasible - trial, 1.0), np.inf)
            leaving = int(share.argmin())
            feasible += share[leaving] * (trial - feasible)
            column = self.root[: self.size, : self.size].T @ self.root[: self.size, leaving]
            trial -= column * (trial[leaving] / column[leaving])
            feasible, trial = _without(feasible, leaving), _without(trial, leaving)
            self._remove(leaving)
        t = self.size
        self.w[:t], self.advanced_to = trial, t
        self._settle()
        before, self.error2 = self.error2, self.norm2 - self.w[:t] @ self.correlations[self.support[:t]]
        if self.error2 < before - ROUNDING * self.norm2:
            self.blocked[:] = False
        else:
            self.blocked[atom] = True  # else two atoms could push each other out for ever

    def _remove(self, position: int) -> None:
        """Reflect `root` so that one row alone involves the leaving atom, and leave that row and atom out."""
        last = self.size - 1
        root = self.root[: self.size, : self.size]
        normal = root[:, position].copy()
        normal[last] += np.copysign(np.linalg.norm(normal), normal[last])
        root -= np.outer(normal, (2 / (normal @ normal)) * (normal @ root))
        given_back = root[last] @ self.kept[: self.size]  # the panel is no longer orthogonal to this direction
        shares = given_back[self.members]
        _subtract_product(self.deflated, -shares[:, None], given_back[None])
        self.solved -= np.outer(shares, root[last])
        self.solved[:, position] = self.solved[:, last]
        self.solved = self.solved[:, :last]
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
