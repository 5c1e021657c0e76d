"""Line 15 of Algorithm 1: a coreset in batches, shuffled, augmented and weighted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from acslib import parallel
from acslib.data.sets import Dataset
from acslib.schedule import Phase
from acslib.selectors.coreset import Coreset

if TYPE_CHECKING:
    from acslib.training import State, Training


@dataclass(frozen=True)
class Batch:
    """Augmented images (b, channels, height, width), labels (b,), weights (b,), of mean about 1.

    `outside` holds indices of samples outside the coreset, trained on as clean images in Table 5.
    `sizes` counts the samples inside and outside over all processes, of which this has a share.
    `known`: images lie in [0, 1] by the way they were made.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    outside: Tensor
    sizes: tuple[int, int]
    known: bool = False


def batches(state: State, data: Dataset, training: Training, phase: Phase) -> Iterator[Batch]:
    """Line 15: augmented batches of the coreset."""
    if state.coreset is None:
        raise ValueError(f"epoch {state.epoch} trains on a coreset, and the state has none")
    n = len(data.train)
    drawn = shuffled_batches(state.coreset, n, training, phase, data.train.device)
    if parallel.rank():  # the order is everyone's, starts and augmentations are each process's own
        training.generator.manual_seed(parallel.own_seed(training.generator.initial_seed()))
    mine = [parallel.share(batch[0]) for batch in drawn]
    for batch, indices in zip(drawn, data.train.ahead(mine), strict=True):
        weights, outside = map(parallel.share, batch[1:])
        if not len(indices):
            raise ValueError(
                f"a batch of {len(batch[0])} cannot be shared by {parallel.processes()} processes:"
                " take fewer, or a larger batch_size"
            )
        images = data.augmented(indices, training.generator)
        sizes = len(batch[0]), len(batch[2])
        # bytes over 255; `augmented` has checked what one's own augmentation made
        known = getattr(type(data), "augmented", None) is Dataset.augmented
        yield Batch(images, data.train.labels[indices], weights, outside, sizes, known)


def shuffled_batches(
    coreset: Coreset, n: int, training: Training, phase: Phase, device: torch.device
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Indices, weights and indices of clean images, shuffled, in batches of nearly equal size.

    Weights have mean 1 over the coreset, so that the mean over a batch estimates eq. (23) without
    bias.
    """
    coreset = coreset.normalised()
    order = shuffled(len(coreset), training.generator, device)
    indices = coreset.indices.to(device)[order]
    weights = coreset.weights.to(device, torch.float32)[order]
    count = math.ceil(len(indices) / training.batch_size)
    outside = [indices[:0]] * count
    if training.half_half and phase == "coreset":
        left_out = torch.ones(n, dtype=torch.bool, device=device).index_fill_(0, indices, False)
        rest = left_out.nonzero().squeeze(1)
        rest = rest[shuffled(len(rest), training.generator, device)]
        outside = list(rest.tensor_split(count))
    return list(zip(indices.tensor_split(count), weights.tensor_split(count), outside, strict=True))


def shuffled(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """A random order of n indices, (n,) int64 on `device`."""
    return torch.randperm(n, generator=generator, device=generator.device).to(device)


def parts_of(batch: Batch, at_most: int | None) -> list[Batch]:
    """A batch in parts of nearly equal size, clean images apart; `sizes` stay the whole batch's."""
    if at_most is None or (len(batch.labels) <= at_most and not len(batch.outside)):
        return [batch]
    none = slice(0, 0)
    return [
        *(_only(batch, rows, none) for rows in in_parts(len(batch.labels), at_most)),
        *(_only(batch, none, rows) for rows in in_parts(len(batch.outside), at_most)),
    ]


def _only(batch: Batch, inside: slice, outside: slice) -> Batch:
    images, labels, weights = batch.images[inside], batch.labels[inside], batch.weights[inside]
    return replace(
        batch, images=images, labels=labels, weights=weights, outside=batch.outside[outside]
    )


def in_parts(n: int, at_most: int) -> list[slice]:
    """Rows of parts of nearly equal size, as few as there can be; none of nothing."""
    count = math.ceil(n / at_most)
    ends = [n * part // count for part in range(1, count + 1)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def bounded(n: int, at_most: int | None) -> int:
    """So many images, or the most that there may be at once."""
    return n if at_most is None else min(n, at_most)
