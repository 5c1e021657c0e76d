"""Last-layer gradients as outer products, never as vectors (section 3.4, "Gradient Approximation").

With logits `W h + b`, the gradient of a sample's loss with respect to `[W, b]` is `e (x) [h, 1]`,
where `e` is the gradient with respect to the logits. Inner products factor:
`<g_i, g_j> = <e_i, e_j> (<h_i, h_j> + 1)`. ImageNet-100 with a ResNet-50 takes 1 GB this way, where
the 126,000 x 204,900 matrix would take 104 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# what one block of rows may convert to the working precision at a time: 32 MB in float64
BLOCK_ELEMENTS = 1 << 22
# 4 GB in float64; beyond it the system may end the process before torch could refuse
GRAM_ELEMENTS = 480_000_000


@dataclass(frozen=True)
class Samples:
    """What a selector gets that needs no gradients.

    How many samples there are, their labels (n,), and the epoch of the selection.
    """

    n: int
    labels: Tensor | None = None
    epoch: int = 0

    def __len__(self) -> int:
        return self.n


@dataclass(frozen=True, eq=False)
class LastLayerGradients:
    """Gradients of n samples as sums of outer products, `g_i = errors_i (x) [features_i, 1] + ...`.

    errors: (n, C), d loss_i / d logits_i, as in eq. (18). features: (n, D), what the last layer
    saw; None stands for the bias part alone, `g_i = errors_i`. errors2 (n, C), features2 (n, D):
    the terms of eq. (22) that go through the adversarial image. `more` holds such pairs for
    objectives with more than two passes. `bias` False is for a last layer without a bias.

    A gradient read as a vector has d = C (D + 1) entries: the (C, D + 1) matrix `[dW, db]`, row by
    row; C D without a bias. Methods compute in `dtype`, by default that of the factors, and at
    least in float32. Raises ValueError for shapes, types or devices that do not fit together.

    For selectors that want them, and None where nobody gave them: labels (n,) int64, losses (n,),
    predictions (n, C), the softmax for the image that is trained on, and input_norms (n,), the norm
    of the loss's gradient with respect to the image; and the epoch of the selection.
    """

    errors: Tensor
    features: Tensor | None = None
    errors2: Tensor | None = None
    features2: Tensor | None = None
    _: KW_ONLY
    more: tuple[tuple[Tensor, Tensor | None], ...] = ()
    bias: bool = True
    labels: Tensor | None = None
    losses: Tensor | None = None
    predictions: Tensor | None = None
    input_norms: Tensor | None = None
    epoch: int = 0

    def __post_init__(self) -> None:
        if self.errors2 is None and (self.features2 is not None or self.more):
            raise ValueError("features2 is given without errors2: a second term needs both")
        if not self.bias and self.features is None:
            raise ValueError("bias is False and features None: no part of the last layer is left")
        for errors, features in self._pairs:
            self._check_term(errors, features)
        for name, values in self.extras.items():
            dimensions = 2 if name == "predictions" else 1
            if values is not None and (values.ndim, len(values)) != (dimensions, len(self)):
                raise ValueError(
                    f"{name} have shape {tuple(values.shape)}; give one for each of the"
                    f" {len(self.errors)} samples"
                )

    def _check_term(self, errors: Tensor, features: Tensor | None) -> None:
        _check_factor("errors", errors, self.errors)
        if errors.shape[1] != self.errors.shape[1]:
            raise ValueError(
                f"errors2 has {errors.shape[1]} classes, errors has {self.errors.shape[1]}"
            )
        if (features is None) != (self.features is None):
            raise ValueError(
                "features and features2 must both be given, or both be None for the bias part alone"
            )
        if features is not None and self.features is not None:
            _check_factor("features", features, self.errors)
            if features.shape[1] != self.features.shape[1]:
                raise ValueError(
                    f"features2 is {features.shape[1]} wide, features {self.features.shape[1]}"
                )

    @property
    def extras(self) -> dict[str, Tensor | None]:
        """What a selector may want besides the gradients, one row for each sample."""
        names = ("labels", "losses", "predictions", "input_norms")
        return {name: getattr(self, name) for name in names}

    @property
    def _pairs(self) -> list[tuple[Tensor, Tensor | None]]:
        first = [(self.errors, self.features)]
        second = [] if self.errors2 is None else [(self.errors2, self.features2)]
        return [*first, *second, *self.more]

    @property
    def terms(self) -> list[tuple[Tensor, Tensor | None]]:
        """The (errors, features) pairs that are summed: one, two for TRADES."""
        return [(e.detach(), None if h is None else h.detach()) for e, h in self._pairs]

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(C, D + 1); (C, D) without a bias, (C, 1) for the bias part alone."""
        width = 0 if self.features is None else self.features.shape[1]
        return self.errors.shape[1], width + self.bias

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d) of the matrix that is never formed."""
        classes, width = self.matrix_shape
        return len(self), classes * width

    @property
    def dtype(self) -> torch.dtype:
        return self.errors.dtype

    @property
    def device(self) -> torch.device:
        return self.errors.device

    def _map(self, function: Callable[[Tensor], Tensor]) -> LastLayerGradients:
        """The same with every factor changed; the extras and the epoch stay."""
        pairs = [(function(e), None if h is None else function(h)) for e, h in self._pairs]
        return self._with(pairs, self.extras)

    def _with(
        self, pairs: Sequence[tuple[Tensor, Tensor | None]], extras: dict[str, Any]
    ) -> LastLayerGradients:
        first, second = pairs[0], pairs[1] if len(pairs) > 1 else (None, None)
        return LastLayerGradients(
            *first, *second, more=tuple(pairs[2:]), bias=self.bias, epoch=self.epoch, **extras
        )

    def __getitem__(self, rows: slice | Tensor) -> LastLayerGradients:
        """The samples selected by a slice, a mask or a 1-D index."""
        pairs = [(e[rows], None if h is None else h[rows]) for e, h in self._pairs]
        extras = {name: None if x is None else x[rows] for name, x in self.extras.items()}
        return self._with(pairs, extras)

    def scaled(self, factor: float) -> LastLayerGradients:
        """The same gradients times `factor`."""
        return self._with([(e * factor, h) for e, h in self._pairs], self.extras)

    def to(self, *args: Any, **kwargs: Any) -> LastLayerGradients:
        """Another dtype or device, as `Tensor.to`."""
        return self._map(lambda factor: factor.to(*args, **kwargs))

    @staticmethod
    def concatenated(pieces: Sequence[LastLayerGradients]) -> LastLayerGradients:
        """The samples of several batches, one batch after the other."""
        first, columns = pieces[0], list(zip(*(piece._pairs for piece in pieces), strict=True))
        pairs = [
            (_joined([e for e, _ in terms]), _joined([h for _, h in terms])) for terms in columns
        ]
        extras = {name: _joined([piece.extras[name] for piece in pieces]) for name in first.extras}
        return first._with(pairs, extras)

    def bias_only(self) -> LastLayerGradients:
        """The bias part alone, d = C: what CRAIG sees in the authors' code."""
        if not self.bias:
            raise ValueError("the last layer has no bias: select by the whole layer")
        errors = self.errors
        for others, _ in self._pairs[1:]:
            errors = errors + others
        return self._with([(errors, None)], self.extras)

    def _working(self, dtype: torch.dtype | None) -> torch.dtype:
        return torch.promote_types(dtype or self.dtype, torch.float32)

    def _blocks(self) -> Iterator[slice]:
        rows = max(1, BLOCK_ELEMENTS // max(self.matrix_shape))
        return (slice(start, start + rows) for start in range(0, max(len(self), 1), rows))

    def total(self, weights: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
        """`sum_i w_i g_i`, (d,): the sums of eq. (12). Weights (n,) are 1 unless given."""
        dtype = self._working(dtype)
        if weights is not None and weights.shape != self.shape[:1]:
            raise ValueError(
                f"weights have shape {tuple(weights.shape)}; give one for each of the"
                f" {len(self)} samples"
            )
        out = torch.zeros(self.matrix_shape, dtype=dtype, device=self.device)
        for block in self._blocks():
            part = self[block].to(dtype)
            _add_sum(out, part, None if weights is None else weights[block].to(out))
        return out.flatten()

    def group(self, assignment: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """Sums, not means, of each group's gradients: (m, d), m = assignment.max() + 1.

        assignment: (n,) integers >= 0. Sums make a short group count by its size, and weights found
        on the groups are, unchanged, those of their samples in eq. (12). A group without samples is
        a zero row.
        """
        assignment = check_integers("assignment", assignment, len(self))
        sizes = torch.bincount(assignment).tolist()
        order = torch.argsort(assignment, stable=True).to(self.device)
        out = torch.zeros(
            len(sizes), *self.matrix_shape, dtype=self._working(dtype), device=self.device
        )
        for matrix, members in zip(out, torch.split(order, sizes), strict=True):
            _add_sum(matrix, self[members].to(out.dtype))
        return out.flatten(1)

    def correlations(self, vector: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """`<g_i, vector>` of every sample: (n,). Raises ValueError unless the vector is (d,)."""
        dtype = self._working(dtype)
        if vector.shape != self.shape[1:]:
            raise ValueError(
                f"the vector has shape {tuple(vector.shape)}; give one of shape ({self.shape[1]},)"
            )
        matrix = vector.to(self.device, dtype).view(self.matrix_shape)
        out = torch.zeros(len(self), dtype=dtype, device=self.device)
        for block in self._blocks():
            for errors, features in self[block].to(dtype).terms:
                seen = matrix[:, -1] if self.bias else matrix.new_zeros(())
                if features is not None:
                    seen = features @ matrix[:, : features.shape[1]].T + seen
                out[block] += (errors * seen).sum(1)
        return out

    def squared_norms(self, *, dtype: torch.dtype | None = None) -> Tensor:
        """`|g_i|^2` for every sample: (n,), the diagonal of the Gram matrix."""
        dtype = self._working(dtype)
        out = torch.empty(len(self), dtype=dtype, device=self.device)
        for block in self._blocks():
            part = self[block].to(dtype)
            out[block] = _inner(part, part, lambda x, y: torch.einsum("nd,nd->n", x, y))
        return out

    def gram_rows(self, rows: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """Rows of the Gram matrix, `<g_i, g_j>` for i in `rows` and every j: (len(rows), n)."""
        dtype = self._working(dtype)
        chosen = self[rows].to(dtype)
        parts = [_inner(chosen, self[block].to(dtype), _products) for block in self._blocks()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def gram(self, *, dtype: torch.dtype | None = None) -> Tensor:
        """All inner products `<g_i, g_j>`, (n, n). ValueError beyond GRAM_ELEMENTS of them."""
        check_gram(len(self), len(self))
        dtype = self._working(dtype)
        out = _empty_square(len(self), dtype, self.device)
        size = min(512, max(64, 8 * BLOCK_ELEMENTS // max(self.matrix_shape)))
        blocks = [slice(start, start + size) for start in range(0, len(self), size)]
        for i, rows in enumerate(blocks):
            left = self[rows].to(dtype)
            for columns in blocks[i:]:
                block = _inner(left, self[columns].to(dtype), _products)
                out[rows, columns], out[columns, rows] = block, block.T
        return out

    def dense(self, *, dtype: torch.dtype | None = None) -> Tensor:
        """The (n, d) matrix itself, for tests and teaching: what everything else here avoids."""
        part = self.to(self._working(dtype))
        out = torch.zeros(len(self), *self.matrix_shape, dtype=part.dtype, device=self.device)
        for errors, features in part.terms:
            if features is not None:
                out[..., : features.shape[1]] += errors[:, :, None] * features[:, None, :]
            if self.bias:
                out[..., -1] += errors
        return out.flatten(1)


def as_gradients(gradients: LastLayerGradients | Tensor) -> LastLayerGradients:
    """Gradients of any origin in one form: an (n, d) tensor is its own "bias part"."""
    if isinstance(gradients, LastLayerGradients):
        return gradients
    if isinstance(gradients, Tensor):
        return LastLayerGradients(gradients)
    raise ValueError(
        f"gradients is a {type(gradients).__name__}; give LastLayerGradients or an (n, d) tensor"
    )


def _joined(parts: Sequence[Tensor | None]) -> Any:
    """Concatenated; None where a part is missing."""
    given = [part for part in parts if part is not None]
    return torch.cat(given) if len(given) == len(parts) else None


def check_gram(rows: int, columns: int) -> None:
    """Raises ValueError where a rows x columns part of a Gram matrix is beyond GRAM_ELEMENTS."""
    if rows * columns > GRAM_ELEMENTS:
        raise ValueError(
            f"{rows} x {columns} inner products take {8e-9 * rows * columns:.0f} GB; the limit is "
            f"{8e-9 * GRAM_ELEMENTS:.0f} GB: select per class or batch-wise"
        )


def check_integers(name: str, values: Tensor, n: int) -> Tensor:
    """`values` as (n,) int64, all >= 0, or ValueError."""
    if not isinstance(values, Tensor) or values.shape != (n,) or values.is_floating_point():
        found = (
            f"{values.dtype} of shape {tuple(values.shape)}"
            if isinstance(values, Tensor)
            else type(values).__name__
        )
        raise ValueError(f"{name} is {found}; give one integer for each of the {n} samples")
    if n and values.min() < 0:
        raise ValueError(f"{name} contains {int(values.min())}; the smallest allowed is 0")
    return values.long()


def _check_factor(name: str, factor: Tensor, like: Tensor) -> None:
    if not isinstance(factor, Tensor) or factor.ndim != 2 or not factor.is_floating_point():
        found = (
            f"{factor.dtype} of shape {tuple(factor.shape)}"
            if isinstance(factor, Tensor)
            else type(factor).__name__
        )
        raise ValueError(f"{name} is {found}; give a floating-point tensor with one row per sample")
    if len(factor) != len(like) or factor.device != like.device or factor.dtype != like.dtype:
        raise ValueError(
            f"{name} has {len(factor)} rows of {factor.dtype} on {factor.device}, errors has"
            f" {len(like)} rows of {like.dtype} on {like.device}: they must agree"
        )


def _empty_square(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.empty(n, n, dtype=dtype, device=device)
    # numpy asks the system for huge pages and torch does not: a quarter less time in every pass
    # over the matrix
    return torch.from_numpy(np.empty((n, n), str(dtype).removeprefix("torch.")))


def _add_sum(out: Tensor, part: LastLayerGradients, weights: Tensor | None = None) -> None:
    for errors, features in part.terms:
        product = _product if weights is None else torch.matmul
        errors = errors if weights is None else errors * weights[:, None]
        if features is not None:
            out[:, : features.shape[1]] += product(errors.T, features)
        if part.bias:
            out[:, -1] += errors.sum(0)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """`x @ y` of factors, which are constants to autograd; on the CPU by numpy's BLAS.

    That is up to three times faster than torch's where one side has few rows.
    """
    if x.device.type != "cpu":
        return x @ y
    return torch.from_numpy(x.numpy() @ y.numpy())


def _products(x: Tensor, y: Tensor) -> Tensor:
    return _product(x, y.T)


def _inner(
    left: LastLayerGradients, right: LastLayerGradients, product: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Sum over pairs of terms of `<e, e'> (<h, h'> + 1)`, with `product` for the inner products."""
    out: Tensor | None = None
    for errors, features in left.terms:
        for other, seen in right.terms:
            term = product(errors, other)
            if features is not None and seen is not None:
                both = product(features, seen)
                term = term.addcmul_(term, both) if left.bias else term.mul_(both)
            out = term if out is None else out.add_(term)
    assert out is not None  # there is always a first term
    return out
