"""Picks of a matching pursuit foreseen: what is known of them beforehand makes each cost less."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

# scipy has a BLAS of its own, which `one_thread` limits only if it is loaded before
from scipy.linalg.blas import dgemm

from acslib.gradients import LastLayerGradients
from acslib.selectors.coreset import Indices, Matrix, Vector, compiled, to_numpy


class GramOnDemand:
    """A Gram matrix that computes what is indexed: rows (b,), or a block (b, b) by `np.ix_`.

    Picks foreseen wrongly are often foreseen again, so rows are kept, until they are more than
    `held`.
    """

    def __init__(self, gradients: LastLayerGradients, held: int) -> None:
        self.gradients = gradients
        self.held = held
        self.fetched: dict[int, Vector] = {}

    def __getitem__(self, wanted: Indices | tuple[Indices, ...]) -> Matrix:
        if isinstance(wanted, tuple):
            rows = torch.from_numpy(wanted[1][0]).to(self.gradients.device)
            return to_numpy(self.gradients[rows].gram())
        if len(self.fetched) > self.held:
            self.fetched.clear()
        missing = [sample for sample in wanted.tolist() if sample not in self.fetched]
        if missing:
            found = self.gradients.gram_rows(torch.tensor(missing, device=self.gradients.device))
            self.fetched.update(zip(missing, to_numpy(found), strict=True))
        return np.stack([self.fetched[sample] for sample in wanted.tolist()])


class Foresight:
    """Picks that may come, with their Gram rows, and these made orthogonal to the support.

    The pursuit's `orthogonal` (t, n) and `root` (t, t) are given to each method, as they are then.
    `outside` (b, n) is orthogonal to the first `start` rows of it; `taken` (b, start) are the
    coefficients in the support's atoms of what was taken off.
    """

    def __init__(self, n: int) -> None:
        self.places: dict[int, int] = {}  # of each pick, its row
        self.start = 0
        self.gram_rows, self.outside = np.empty((0, n)), np.empty((0, n))
        self.taken = np.empty((0, 0))

    def __contains__(self, atom: int) -> bool:
        return atom in self.places

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)

    def keep(self, atoms: Indices, orthogonal: Matrix, root: Matrix) -> None:
        """Keep these picks alone, orthogonal to all of the support."""
        kept, later = [self.places[atom] for atom in atoms.tolist()], orthogonal[self.start :]
        overlap = later[:, atoms].T
        self.gram_rows, self.outside = self.gram_rows[kept], self.outside[kept]
        subtract_product(self.outside, overlap, later)
        taken = overlap @ root[self.start :]
        taken[:, : self.start] += self.taken[kept]
        self.taken, self.start = taken, len(root)
        self.places = {atom: place for place, atom in enumerate(atoms.tolist())}

    def add(
        self, atoms: Indices, gram_rows: Matrix, overlap: Matrix, orthogonal: Matrix, root: Matrix
    ) -> None:
        """Further picks beside those kept; overlap: (b, t), what `orthogonal` has at them."""
        outside = gram_rows.copy()
        subtract_product(outside, overlap, orthogonal)
        count = len(self.places)
        self.gram_rows = np.concatenate([self.gram_rows, gram_rows])
        self.outside = np.concatenate([self.outside, outside])
        self.taken = np.concatenate([self.taken, overlap @ root])
        self.places |= {atom: count + place for place, atom in enumerate(atoms.tolist())}

    def gram_row(self, atom: int) -> Vector:
        """A pick's inner products with every sample: (n,)."""
        row: Vector = self.gram_rows[self.places[atom]]
        return row

    def outside_span(self, atom: int, orthogonal: Matrix, root: Matrix) -> tuple[Vector, Vector]:
        """What is left of a pick outside the support's span: its coefficients in the support's
        atoms and the pick, (t + 1,), and its inner products with every sample, (n,).
        """
        place, later = self.places[atom], orthogonal[self.start :]
        overlap = later[:, atom]
        row = self.outside[place] - overlap @ later
        taken = overlap @ root[self.start :]
        taken[: self.start] += self.taken[place]
        return np.append(-taken, 1.0), row

    def give_back(self, row: Vector, coefficients: Vector, position: int) -> None:
        """The last `row` of `orthogonal` goes, with its `coefficients` of `root`: what it took off
        is given back. The support's last atom takes the `position` of the one that leaves.
        """
        overlap = row[list(self.places)]
        self.outside += np.outer(overlap, row)
        self.taken -= np.outer(overlap, coefficients)
        self.start -= 1
        self.taken[:, position] = self.taken[:, self.start]
        self.taken = self.taken[:, : self.start]


@compiled
def pursuit_steps(
    gram: Matrix, residual: Vector, pick: int, budget: int, ridge: float, nonnegative: bool
) -> Indices:
    """The first steps of the pursuit among few atoms, from `pick` on; weights may turn negative.

    gram: (n, n) inner products and residual: (n,) correlations, both of what is outside the present
    support; they change in place. Up to `budget` indices.
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


def subtract_product(values: Matrix, left: Matrix, right: Matrix) -> None:
    """`values -= left @ right` in place; `values` must be a float64 array in C order."""
    if left.size:
        dgemm(-1.0, right.T, left.T, 1.0, values.T, overwrite_c=True)
