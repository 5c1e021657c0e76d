"""A selector applied within each class, or to batches of samples (section 3.4).

`per_class` and `batch_wise` are functions for one call; `PerClass`, `BatchWise`, `Unweighted` and
`BiasOnly` are selectors made of a selector.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from acslib.draws import check_seed
from acslib.gradients import LastLayerGradients, Samples, as_gradients, check_integers
from acslib.selectors.chance import seed_of_epoch
from acslib.selectors.coreset import (
    Coreset,
    Gradients,
    Selector,
    check_budget,
    check_coreset,
    coreset_of,
    in_order_of_picks,
    most_returned,
    needed_fields,
    needs_gradients,
    one_thread,
    said_by,
)
from acslib.selectors.scores import highest

# --- selectors that wrap one


@dataclass(frozen=True)
class _Wrapper:
    """Needs what the selector inside needs."""

    selector: Selector

    def __post_init__(self) -> None:
        if isinstance(self.selector, type) or not callable(self.selector):
            raise ValueError(
                f"{type(self).__name__} is made of {self.selector!r}: give it a selector, like"
                " selectors.gradmatch or selectors.Random(seed)"
            )

    @property
    def needs_gradients(self) -> bool:
        return needs_gradients(self.selector)

    @property
    def needs(self) -> tuple[str, ...]:
        return needed_fields(self.selector)

    def most(self, n: int, budget: int) -> int:
        """The most samples that it may return."""
        return most_returned(self.selector, n, budget)


@dataclass(frozen=True)
class PerClass(_Wrapper):
    """The selector within each class, with budgets proportional to the classes' sizes.

    Labels are taken from the gradients. workers: how many classes are solved at a time; more than
    one is for selectors that keep no state, and changes no result. Raises ValueError where the
    gradients have no labels.
    """

    workers: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        return ("labels", *(name for name in super().needs if name != "labels"))

    def most(self, n: int, budget: int) -> int:
        """The most samples that it may return: all, where the selector inside takes groups."""
        return budget if said_by(self.selector, "most") is None else n

    def __call__(self, gradients: Gradients | Samples, budget: int) -> Coreset:
        labels = getattr(gradients, "labels", None)
        if labels is None:
            raise ValueError(
                "PerClass needs the samples' labels: give LastLayerGradients(..., labels=...),"
                " or call per_class(selector, gradients, labels, budget)"
            )
        return per_class(self.selector, gradients, labels, budget, workers=self.workers)


@dataclass(frozen=True)
class BatchWise(_Wrapper):
    """The selector on the summed gradients of groups: Algorithm 1's line 8 and section 3.4.

    The groups are random ones of `batch_size` samples, by `seed`: the same at every selection, or
    with `regroup` new ones in every epoch, which a resumed run repeats. Or they are `groups`, (n,)
    integers that assign each sample to one; batch_size is then None. Every sample of a chosen group
    is taken, so that the coreset may exceed the budget: `most` says up to what.

    Where the selector inside has `scores`, these are averaged by group.
    """

    batch_size: int | None = None
    seed: int = 0
    regroup: bool = False
    groups: Tensor | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        if (self.batch_size is None) == (self.groups is None):
            raise ValueError(
                f"batch_size is {self.batch_size} and groups are"
                f" {'not ' if self.groups is None else ''}given; give one of the two"
            )
        scored = said_by(self.selector, "scores") is not None
        missing = () if scored else needed_fields(self.selector)
        if missing:
            raise ValueError(
                f"groups of samples have no {' and no '.join(missing)}, which the selector inside"
                " BatchWise needs: put BatchWise inside, as in PerClass(BatchWise(craig, 128))"
            )
        if self.batch_size is not None:
            _check_batch_size(self.batch_size)
        elif self.regroup:
            raise ValueError(
                "regroup draws new groups, and groups are given: leave one of them out"
            )
        if isinstance(self.groups, Tensor):  # a tuple can be compared
            object.__setattr__(self, "groups", tuple(self.groups.tolist()))

    def assignment(self, samples: Gradients | Samples) -> Tensor:
        """The group of each sample: (n,) int64."""
        if self.groups is not None:
            try:
                groups = torch.as_tensor(self.groups)
            except (TypeError, ValueError, RuntimeError) as error:
                raise ValueError(
                    f"groups are no numbers: give one integer a sample ({error})"
                ) from error
            return check_integers("groups", groups, len(samples)).cpu()
        assert self.batch_size is not None
        n = len(samples)
        seed = seed_of_epoch(self.seed, samples) if self.regroup else self.seed
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        groups = torch.empty_like(order)
        groups[order] = torch.arange(n) // self.batch_size
        return groups

    def most(self, n: int, budget: int) -> int:
        """The most samples that it may return: those of the largest groups."""
        if self.batch_size is not None:
            count = -(-n // self.batch_size)
            return min(n, _groups_wanted(budget, count, n) * self.batch_size)
        assert self.groups is not None
        sizes = np.sort(np.unique(np.array(self.groups), return_counts=True)[1])[::-1]
        return int(sizes[: _groups_wanted(budget, len(sizes), n)].sum())

    def __call__(self, gradients: Gradients | Samples, budget: int) -> Coreset:
        return batch_wise(self.selector, gradients, self.assignment(gradients), budget)


@dataclass(frozen=True)
class Unweighted(_Wrapper):
    """The selector's samples, each with weight n / k: how much its weights matter.

    Classes are not weighted by their size; the sum of all weights stays n.
    """

    @property
    def scores(self) -> Callable[[LastLayerGradients], Tensor]:
        """Those of the selector inside; AttributeError where it has none."""
        found: Callable[[LastLayerGradients], Tensor] | None = said_by(self.selector, "scores")
        if found is None:
            raise AttributeError("the selector inside has no scores")
        return found

    def __call__(self, gradients: Gradients | Samples, budget: int) -> Coreset:
        found = _checked_choice(self.selector, gradients, budget)
        weights = torch.full_like(found.weights, len(gradients) / max(len(found), 1))
        return Coreset(found.indices, weights, found.reason, found.picks, found.trace)


@dataclass(frozen=True)
class BiasOnly(_Wrapper):
    """The selector on the bias part of the gradients alone, as the authors' code runs CRAIG.

    It goes around other wrappers: BiasOnly(BatchWise(craig, 128)).
    """

    def __call__(self, gradients: Gradients | Samples, budget: int) -> Coreset:
        gradients = _samples(gradients)
        if isinstance(gradients, LastLayerGradients):
            gradients = gradients.bias_only()
        return _checked_choice(self.selector, gradients, budget)


# --- the same for one call


def per_class(
    selector: Selector,
    gradients: Gradients | Samples,
    labels: Tensor,
    budget: int,
    *,
    workers: int = 1,
) -> Coreset:
    """Apply `selector` within each class, with budgets proportional to the classes' sizes.

    The budgets sum to `budget` (largest remainder, ties to the lower label). Each class
    approximates its own total, so that the weights of all classes together approximate everyone's.
    labels: (n,) integers; absent labels are no matter. workers: see `PerClass`. reason: "budget",
    or the classes that ended otherwise and how. Raises ValueError as the selector does.
    """
    gradients = _samples(gradients)
    n = len(gradients)
    budget = check_budget(budget, n)
    labels = check_integers("labels", labels, n).cpu()
    classes, counts = np.unique(labels.numpy(), return_counts=True)
    shares = _proportional(counts.tolist(), budget)
    wanted = [
        (label, share) for label, share in zip(classes.tolist(), shares, strict=True) if share
    ]
    members = [(labels == label).nonzero().squeeze(1) for label, _ in wanted]

    def solve(position: int) -> Coreset:
        return _checked_choice(selector, _part(gradients, members[position]), wanted[position][1])

    found = _in_parallel(solve, len(wanted), workers)
    picks = [own[part.picks] for own, part in zip(members, found, strict=True)]
    weights = [in_order_of_picks(part) for part in found]
    reasons = [
        f"class {label}: {part.reason} at {len(part)} of {share}"
        for (label, share), part in zip(wanted, found, strict=True)
        if part.reason != "budget"
    ]
    return coreset_of(
        torch.cat([torch.empty(0, dtype=torch.int64), *picks]).numpy(),
        torch.cat([torch.empty(0, dtype=torch.float64), *weights]).numpy(),
        "; ".join(reasons) or "budget",
        np.zeros(0),
    )


def batch_wise(
    selector: Selector, gradients: Gradients | Samples, groups: int | Tensor, budget: int
) -> Coreset:
    """Apply `selector` to the summed gradients of groups (section 3.4, "Batch-wise Selection").

    groups: (n,) integers that assign each sample to a group (Algorithm 1's I), or a batch size b,
    for consecutive batches of which the last may be short. Consecutive batches of samples sorted by
    class are classes; `BatchWise` draws random groups.

    ceil(budget / b) groups are chosen, b being the mean size where groups are assigned. Every
    sample of a chosen group is in the coreset with the group's weight. So the coreset may exceed
    the budget: by less than a batch, or by less than two where sizes differ. Gradients are summed
    within a group, not averaged. So a group's weight is also the weight of each of its samples, and
    a short group counts by its size. Scores, of a selector that has `scores`, are averaged. Raises
    ValueError as the selector does.
    """
    gradients = _samples(gradients)
    n = len(gradients)
    budget = check_budget(budget, n)
    if isinstance(groups, Tensor):
        assignment = check_integers("groups", groups, n).cpu()
        names, inverse = np.unique(assignment.numpy(), return_inverse=True)
        assignment = torch.from_numpy(inverse)
        chosen = _groups_wanted(budget, len(names), n)
    else:
        size = _check_batch_size(groups)
        assignment = torch.arange(n) // size
        chosen = -(-budget // size)
    if not n:
        return coreset_of(np.zeros(0, np.int64), np.zeros(0), "budget", np.zeros(0))
    sizes = assignment.bincount()
    found = _select_groups(selector, gradients, assignment, chosen)
    order = assignment.argsort(stable=True).tensor_split(sizes.cumsum(0)[:-1])
    members = [order[group] for group in found.picks.tolist()]
    picks = torch.cat([torch.empty(0, dtype=torch.int64), *members])
    weights = torch.zeros(len(sizes), dtype=torch.float64)
    weights[found.indices] = found.weights
    return coreset_of(
        picks.numpy(), weights[assignment[picks]].numpy(), found.reason, found.trace.numpy()
    )


def _select_groups(
    selector: Any, gradients: LastLayerGradients | Samples, assignment: Tensor, chosen: int
) -> Coreset:
    """The selector's choice among groups, of which indices and weights are."""
    sizes = assignment.bincount()
    scores = said_by(selector, "scores")
    if scores is not None:
        sums = torch.zeros(len(sizes), dtype=torch.float64)
        return highest(sums.index_add_(0, assignment, scores(gradients)) / sizes, chosen)
    groups: LastLayerGradients | Samples
    if isinstance(gradients, Samples) or not needs_gradients(selector):
        groups = Samples(len(sizes), epoch=gradients.epoch)
    else:
        with one_thread():
            sums = gradients.group(assignment, dtype=torch.float64)
        groups = LastLayerGradients(sums, epoch=gradients.epoch)
    return _checked_choice(selector, groups, chosen)


def _checked_choice(selector: Selector, gradients: Gradients | Samples, budget: int) -> Coreset:
    """The selector's choice, with weights of any sign, or ValueError where it is none."""
    n = len(gradients)
    most = most_returned(selector, n, budget)
    return check_coreset(selector(gradients, budget), n, most, nonnegative=False)


def _samples(gradients: Gradients | Samples) -> LastLayerGradients | Samples:
    return gradients if isinstance(gradients, Samples) else as_gradients(gradients)


def _part(gradients: LastLayerGradients | Samples, members: Tensor) -> LastLayerGradients | Samples:
    if isinstance(gradients, LastLayerGradients):
        return gradients[members.to(gradients.device)]
    labels = gradients.labels
    own = None if labels is None else labels[members.to(labels.device)]
    return Samples(len(members), own, gradients.epoch)


def _in_parallel(solve: Callable[[int], Coreset], count: int, workers: int) -> list[Coreset]:
    """solve(0), solve(1), ..., in that order; `workers` at a time."""
    if min(workers, count) <= 1:
        return [solve(position) for position in range(count)]
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(solve, range(count)))


def _check_batch_size(size: object) -> int:
    if not isinstance(size, SupportsIndex) or operator.index(size) < 1:
        raise ValueError(f"the batch size is {size}; give a whole number of at least 1")
    return operator.index(size)


def _groups_wanted(budget: int, count: int, n: int) -> int:
    return -(-budget * count // n) if n else 0


def _proportional(counts: list[int], budget: int) -> list[int]:
    """Split `budget` in proportion to `counts`: largest remainders first, ties to the lower one."""
    total = max(sum(counts), 1)
    shares = [count * budget // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: (-(counts[i] * budget % total), i))
    for i in by_remainder[: budget - sum(shares)]:
        shares[i] += 1
    return shares
