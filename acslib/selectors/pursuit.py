"""Orthogonal matching pursuit by updates: what `gradmatch` does when Gram rows fit in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from acslib.selectors.coreset import TIE, Indices, Matrix, Vector, compiled
from acslib.selectors.foresight import Foresight, GramOnDemand, pursuit_steps

# an atom with less than this share of its squared norm outside the span of the others depends on
# them
RANK = 1e-12
AHEAD = 64  # picks foreseen at most: 48 to 96 cost about the same
# candidates among which they are foreseen, for each: 5 or 6 cost about the same, 4 an eighth more
# where many samples leave
BREADTH = 5
FLOOR = 10 * TIE  # alignments below this share of |g| |target| cannot be told from rounding
HIDDEN = 1e-3  # the share of that below which they are nothing but rounding
ROUNDING = 1e-15  # squared errors, relative to the target's, are not known better than this
# an atom with less than this share of its squared norm outside the span is made orthogonal twice
CANCELLED = 1e-4
LOST = 1e-4  # where the relative error differs by more from what was said of it, the way is lost
EXACT = 1e-7  # relative errors are not known better than this, about ROUNDING's square root
# updates leave this much, of the largest correlation, on the support; with more, it is factorised
# anew
DRIFT = 1e-12


def pursuit_room(d: int, budget: int, ridge: float) -> int:
    """The most samples among which `gradmatch` holds inner products; without a ridge the d + 1st
    depends on the others.
    """
    return budget if ridge else min(budget, d + 1)


@compiled
def rotate_out(root: Matrix, t: int, position: int, others: Matrix) -> None:
    """Rotate the first t rows of `root`, and those of `others` alike, until the last alone has
    anything in column `position`: one pass over the rows from the first that has.

    root: (room, room), of which (t, t) is filled; others: (room, n). In place.
    """
    first = 0
    while first < t - 1 and root[first, position] == 0.0:
        first += 1
    for i in range(first, t - 1):  # row i carries what the rows before it had
        x, y = root[i, position], root[i + 1, position]
        size = np.hypot(x, y)
        cosine, sine = (y / size, x / size) if size > 0 else (0.0, 1.0)
        for j in range(t):
            carried, own = root[i, j], root[i + 1, j]
            root[i, j] = cosine * carried - sine * own
            root[i + 1, j] = sine * carried + cosine * own
        for j in range(others.shape[1]):
            carried, own = others[i, j], others[i + 1, j]
            others[i, j] = cosine * carried - sine * own
            others[i + 1, j] = sine * carried + cosine * own
        root[i, position] = 0.0


@dataclass
class Pursued:
    """What a pursuit found: samples in the order in which they entered, and their weights, (k,);
    the relative error after each pick (the square root of the objective over |target|), and where
    rounding spoilt the last, that of what is given back; why it ended; and whether rounding has
    lost its way, so that weights or errors may be wrong.
    """

    atoms: Indices
    weights: Vector
    trace: list[float]
    reason: str
    lost: bool


class MatchingPursuit:
    """Orthogonal matching pursuit on the Gram matrix (Algorithm 3), weights >= 0 on request.

    Minimises `|target - sum_j w_j g_j|^2 + ridge |w|^2` over the weights of the chosen atoms after
    every pick. With the sign constraint this is the active-set method of Lawson and Hanson stopped
    at `budget` atoms: atoms whose weight would turn negative leave, and the search goes on.

    The next picks are foreseen by taking the same steps among the best candidates alone. Their Gram
    rows are fetched and made orthogonal to the support together, by matrix products, so that each
    pick only meets the last few ones. A pick that was not foreseen lets further ones be foreseen
    beside those still to come; what leaves the support is given back to all of them. The picks are
    those of the textbook algorithm. Where samples are nearly dependent, updates alone would lose
    the way: see `_orthogonalised` and `_settle`.

    gram: (n, n) float64 `<g_i, g_j>`, as an array or as what is indexed like one by rows (b,) and
        by `np.ix_` of the same rows and columns.
    correlations: (n,) `<g_i, target>`. diagonal: (n,) `|g_i|^2`. norm2: `|target|^2`.
    """

    def __init__(
        self,
        gram: Matrix | GramOnDemand,
        correlations: Vector,
        diagonal: Vector,
        norm2: float,
        budget: int,
        *,
        ridge: float = 0.0,
        tolerance: float = 0.0,
        nonnegative: bool = True,
    ) -> None:
        n = len(correlations)
        self.gram, self.correlations = gram, correlations
        self.diagonal, self.norm2 = diagonal, norm2
        self.budget, self.ridge, self.tolerance = budget, ridge, tolerance
        self.nonnegative = nonnegative
        self.largest = float(np.abs(correlations).max(initial=0.0))
        self.slack = TIE * self.largest
        # an atom less aligned than this with what is left is spent
        self.floor = FLOOR * np.sqrt(norm2 * diagonal)
        self.chosen, self.blocked = np.zeros(n, bool), np.zeros(n, bool)
        self.residual, self.error2 = correlations.copy(), norm2
        self.set_aside = False  # whether a dependent sample seemed to lower the error
        self.settled = False  # whether `residual` is that of the weights themselves
        self.trace: list[float] = []
        self.size, self.clock = 0, 0
        self.foreseen = Foresight(n)
        self._hold(n)
        # the least squared error so far; the samples that have it, when they entered, their weights
        self.least2 = norm2
        self.best: tuple[Indices, Indices, Vector] = self._support()

    def _hold_support(self, room: int) -> None:
        # The support, in no particular order: atoms, when they entered, and weights; and `root`,
        # for which root.T @ root = inverse of the support's Gram matrix.
        self.support = np.empty(room, np.int64)
        self.entered = np.empty(room, np.int64)
        self.w = np.zeros(room)
        self.root = np.zeros((room, room))

    def _hold(self, n: int) -> None:
        self._hold_support(self.budget)
        # The support's Gram rows, and `orthogonal` = root @ Gram rows.
        self.kept = np.empty((self.budget, n))
        self.orthogonal = np.empty((self.budget, n))
        self.foreseen_at = -AHEAD  # when picks were foreseen

    def run(self) -> Pursued:
        while (reason := self._stop()) is None:
            if self.pick not in self.foreseen:
                self._foresee()
            self._add(self.pick)
        if self.error2 > self.least2 + ROUNDING * self.norm2:  # by rounding: no step raises it
            self.trace.append(np.sqrt(max(self.least2, 0.0) / self.norm2))
            return self._pursued(self.best, "rounding", True)
        t = self.size
        w, root = self.w[:t], self.root[:t, :t]
        for _ in range(2):  # the weights have been through many updates; this makes them exact
            w += root.T @ (root @ self._missing_on_support())
        return self._pursued(self._support(), reason, False)

    def _pursued(
        self, support: tuple[Indices, Indices, Vector], reason: str, lost: bool
    ) -> Pursued:
        """What was found, in the order in which it entered."""
        atoms, weights = in_order(*support)
        if self.nonnegative and weights.min(initial=1.0) <= 0:  # by rounding
            atoms, weights = atoms[weights > 0], weights[weights > 0]
            reason = "rounding" if reason == "budget" else reason
        return Pursued(atoms, weights, self.trace, reason, lost)

    def _support(self) -> tuple[Indices, Indices, Vector]:
        """The samples chosen, when they entered, and their weights: copies."""
        t = self.size
        return self.support[:t].copy(), self.entered[:t].copy(), self.w[:t].copy()

    def _told(self) -> None:
        """Tell the error, and keep what has the least."""
        self.trace.append(np.sqrt(max(self.error2, 0.0) / self.norm2))
        if self.error2 < self.least2:
            self.least2, self.best = self.error2, self._support()

    def _missing_on_support(self) -> Vector:
        """Half the objective's negative slope in each weight: zero, but for rounding."""
        t, support = self.size, self.support[: self.size]
        w = self.w[:t]
        left: Vector = self.correlations[support] - self.kept[:t, support] @ w - self.ridge * w
        return left

    def _stop(self) -> str | None:
        """The reason to stop, or None after setting the next `pick`."""
        if self.size == self.budget:
            return "budget"
        if self.error2 <= self.tolerance**2 * self.norm2:
            return "tolerance"
        scores = self._scores()
        best = scores.max()
        if best == -np.inf:
            return "rounding" if self.set_aside or self._hidden() else "optimum"
        self.pick = int(np.argmax(scores >= best - self.slack))
        return None

    def _scores(self) -> Vector:
        scores = self.residual if self.nonnegative else np.abs(self.residual)
        return np.where(self.chosen | self.blocked | (scores <= self.floor), -np.inf, scores)

    def _hidden(self) -> bool:
        """Whether a sample might lower the error, but is too little aligned for us to tell."""
        scores = self.residual if self.nonnegative else np.abs(self.residual)
        open_ = ~(self.chosen | self.blocked) & (self.floor > 0)
        return bool((scores[open_] > HIDDEN * self.floor[open_]).any())

    def _foresee(self) -> None:
        """The next picks, as the best candidates alone give them, and their Gram rows."""
        if not self.settled:
            self._settle()
        t, scores = self.size, self._scores()
        ahead = min(AHEAD, 2 * (self.clock - self.foreseen_at) + 4, self.budget - t)
        width = min(BREADTH * ahead, len(scores))
        best = np.argpartition(scores, -width)[-width:]
        best = np.union1d(best[scores[best] > -np.inf], self.pick)
        overlap = self.orthogonal[:t, best]
        gram = self.gram[np.ix_(best, best)] - overlap.T @ overlap
        first = int(np.searchsorted(best, self.pick))
        steps = pursuit_steps(gram, self.residual[best], first, ahead, self.ridge, self.nonnegative)
        atoms = best[steps]
        known = np.array([atom in self.foreseen for atom in atoms.tolist()])
        orthogonal, root = self.orthogonal[:t], self.root[:t, :t]
        self.foreseen.keep(atoms[known], orthogonal, root)
        new, overlap = atoms[~known], overlap[:, steps[~known]].T
        self.foreseen.add(new, self.gram[new], overlap, orthogonal, root)
        self.foreseen_at = self.clock

    def _add(self, atom: int) -> None:
        """One pick: a step of the progressive Cholesky factorisation, then new weights for all."""
        t = self.size
        self.support[t] = atom
        coefficients, row = self._outside_span(atom)
        pivot = row[atom] + self.ridge
        gain = self._gain(atom, pivot)
        if gain <= ROUNDING * self.norm2:
            self.blocked[atom] = True
            return
        scale = np.sqrt(pivot)
        direction = self.root[t, : t + 1]
        direction[:] = coefficients / scale
        orthogonal = self.orthogonal[t]
        orthogonal[:] = row / scale
        step = self._enter(atom, direction, scale)
        if step is not None:
            self.residual -= step * orthogonal
            self.error2 -= gain
        self._told()

    def _gain(self, atom: int, pivot: float) -> float:
        """What an atom lowers the squared error by; nothing if it depends on the support. That it
        seems to lower it even so is rounding.
        """
        if pivot > RANK * self.diagonal[atom]:
            return float(self.residual[atom] ** 2 / pivot)
        self.set_aside = True
        return 0.0

    def _enter(self, atom: int, direction: Vector, scale: float) -> float | None:
        """The weights with the atom among them; the step along `direction` unless others left."""
        t = self.size
        self.entered[t], self.w[t], self.chosen[atom] = self.clock, 0.0, True
        self.settled = False
        self.size, self.clock = t + 1, self.clock + 1
        step = float(self.residual[atom] / scale)
        trial = self.w[: t + 1] + step * direction
        if self.nonnegative and trial.min() <= 0:
            self._drop(trial, atom, step)
            return None
        self.w[: t + 1] = trial
        return step

    def _outside_span(self, atom: int) -> tuple[Vector, Vector]:
        """What is left of a candidate outside the support's span.

        Its coefficients in the support's atoms and the candidate: (t + 1,), and its inner products
        with every sample: (n,).
        """
        t = self.size
        coefficients, row = self.foreseen.outside_span(atom, self.orthogonal[:t], self.root[:t, :t])
        self.kept[t] = self.foreseen.gram_row(atom)
        if row[atom] + self.ridge < CANCELLED * self.diagonal[atom]:
            coefficients, row = self._orthogonalised(coefficients)
        return coefficients, row

    def _orthogonalised(self, coefficients: Vector) -> tuple[Vector, Vector]:
        """Gram-Schmidt once more, from the Gram rows: a candidate's coefficients, and its row."""
        t, support = self.size, self.support[: self.size]
        root, kept = self.root[:t, :t], self.kept[: t + 1]
        left = (coefficients @ kept)[support] + self.ridge * coefficients[:t]
        coefficients[:t] -= (root @ left) @ root
        return coefficients, coefficients @ kept

    def _settle(self) -> None:
        """The residual from the weights themselves, and anew what updates have made too inexact."""
        t, support = self.size, self.support[: self.size]
        kept, w = self.kept[:t], self.w[:t]
        self.residual = self.correlations - w @ kept
        missing = self.residual[support] - self.ridge * w
        self.settled = True
        if np.abs(missing).max(initial=0.0) > DRIFT * self.largest:
            gram = kept[:, support] + self.ridge * np.eye(t)
            self.root[:t, :t] = solve_triangular(cholesky(gram, lower=True), np.eye(t), lower=True)
            self.orthogonal[:t] = self.root[:t, :t] @ kept
            w += self.root[:t, :t].T @ (self.root[:t, :t] @ missing)
            if self.nonnegative:
                np.maximum(w, 0.0, out=w)
            self.residual = self.correlations - w @ kept
            self.settled = False

    def _drop(self, trial: Vector, atom: int, step: float) -> None:
        """Walk from the feasible weights towards the trial ones; atoms that reach zero leave."""
        self._try(step)
        feasible = self.w[: self.size].copy()
        while trial.min() <= 0:
            gap = np.where(trial <= 0, feasible - trial, 1.0)
            share = np.divide(feasible, gap, out=np.zeros_like(gap), where=gap > 0)
            share[trial > 0] = np.inf
            leaving = int(share.argmin())
            feasible += share[leaving] * (trial - feasible)
            column = self.root[: self.size, : self.size].T @ self.root[: self.size, leaving]
            back = float(trial[leaving] / column[leaving])
            trial -= back * column
            feasible, trial = _without(feasible, leaving), _without(trial, leaving)
            self._remove(leaving, back)
        self.w[: self.size] = trial
        self.error2 = self._error2()
        if self.error2 < self.least2 - ROUNDING * self.norm2:
            self.blocked[:] = False
        else:
            self.blocked[atom] = True  # else two atoms could push each other out for ever

    def _error2(self) -> float:
        """The objective, of weights that are the best on their support."""
        t = self.size
        return float(self.norm2 - self.w[:t] @ self.correlations[self.support[:t]])

    def _remove(self, position: int, back: float) -> None:
        """Rotate `root` so that one row alone involves the leaving atom; that row goes with it, and
        the weights go `back` along the atom's column of the inverse.
        """
        t, last = self.size, self.size - 1
        rotate_out(self.root, t, position, self._rows_alike())
        self._forget_row(position, last, back)
        self.root[:t, position] = self.root[:t, last]
        self.root[last, :t], self.root[:t, last] = 0.0, 0.0
        self._replace_row(position, last)
        self.chosen[self.support[position]] = False
        for values in (self.support, self.entered):
            values[position] = values[last]
        self.size = last

    def _try(self, step: float) -> None:
        """The residual of the trial weights, a `step` along the newest row."""
        t = self.size
        to_come = [atom for atom in self.foreseen if not self.chosen[atom]]
        self.foreseen.keep(np.array(to_come, np.int64), self.orthogonal[:t], self.root[:t, :t])
        self.residual -= step * self.orthogonal[t - 1]

    def _forget_row(self, position: int, last: int, back: float) -> None:
        """Give back what the last row, which goes, took from residual and picks foreseen."""
        row, coefficients = self.orthogonal[last], self.root[last, : last + 1]
        self.residual += back * coefficients[position] * row
        self.foreseen.give_back(row, coefficients, position)

    def _rows_alike(self) -> Matrix:
        """What is rotated as `root` is."""
        return self.orthogonal

    def _replace_row(self, position: int, last: int) -> None:
        """The last Gram row takes the leaving one's place."""
        self.kept[position] = self.kept[last]


def in_order(atoms: Indices, entered: Indices, weights: Vector) -> tuple[Indices, Vector]:
    """Samples and weights in the order in which they entered."""
    order = np.argsort(entered)
    return atoms[order], weights[order]


def _without(values: Vector, position: int) -> Vector:
    """One entry fewer: the last takes its place."""
    values[position] = values[-1]
    return values[:-1]
