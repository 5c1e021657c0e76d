"""A selector applied within each class, or to batches of samples (section 3.4)."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from acslib.gradients import as_gradients, check_integers
from acslib.selectors.coreset import (
    Coreset,
    Gradients,
    Selector,
    _check_budget,
    _coreset,
    _in_order_of_picks,
)


def per_class(selector: Selector, gradients: Gradients, labels: Tensor, budget: int) -> Coreset:
    """Apply `selector` within each class, with budgets proportional to the classes' sizes.

    The budgets sum to `budget` (largest remainder, ties to the lower label). Each class
    approximates its own total, so that the weights of all classes together approximate everyone's.
    labels: (n,) integers; absent labels are no matter. reason: "budget", or the classes that ended
    otherwise and how. Raises ValueError as the selector does.
    """
    gradients = as_gradients(gradients)
    budget = _check_budget(budget, len(gradients))
    labels = check_integers("labels", labels, len(gradients)).cpu()
    classes, counts = labels.unique(return_counts=True)
    parts, reasons = [], []
    for label, share in zip(classes.tolist(), _proportional(counts.tolist(), budget), strict=True):
        members = (labels == label).nonzero().squeeze(1)
        if share:
            part = selector(gradients[members.to(gradients.device)], share)
            parts.append((members[part.picks], _in_order_of_picks(part)))
            if part.reason != "budget":
                reasons.append(f"class {label}: {part.reason} at {len(part)} of {share}")
    picks = torch.cat([torch.empty(0, dtype=torch.int64), *(picks for picks, _ in parts)])
    weights = torch.cat([torch.empty(0, dtype=torch.float64), *(weights for _, weights in parts)])
    return _coreset(picks.numpy(), weights.numpy(), "; ".join(reasons) or "budget", np.zeros(0))


def batch_wise(
    selector: Selector, gradients: Gradients, groups: int | Tensor, budget: int
) -> Coreset:
    """Apply `selector` to the summed gradients of groups of samples (section 3.4, "Batch-wise
    Coreset Selection").

    groups: a batch size b, for consecutive batches of which the last may be short, or (n,) integers
    that assign each sample to a group (Algorithm 1's I). ceil(budget / b) groups are chosen, b
    being the mean size where groups are assigned; every sample of a chosen group is in the coreset
    with the group's weight, so that the coreset may exceed the budget by less than a batch. Sums,
    not means: the weights of eq. (12) for groups are then those of their samples, and a short group
    counts by its size. Raises ValueError as the selector does.
    """
    gradients = as_gradients(gradients)
    n = len(gradients)
    budget = _check_budget(budget, n)
    if isinstance(groups, Tensor):
        assignment = check_integers("groups", groups, n).cpu().unique(return_inverse=True)[1]
        count = int(assignment.max()) + 1 if n else 0
        chosen = -(-budget * count // n) if n else 0
    else:
        if not isinstance(groups, SupportsIndex) or operator.index(groups) < 1:
            raise ValueError(f"the batch size is {groups}; give a whole number of at least 1")
        assignment = torch.arange(n) // operator.index(groups)
        chosen = -(-budget // operator.index(groups))
    if not n:
        return _coreset(np.zeros(0, np.int64), np.zeros(0), "budget", np.zeros(0))
    coreset = selector(gradients.group(assignment, dtype=torch.float64), chosen)
    order = assignment.argsort(stable=True).split(assignment.bincount().tolist())
    picks = torch.cat(
        [torch.empty(0, dtype=torch.int64), *(order[group] for group in coreset.picks.tolist())]
    )
    weights = torch.zeros(len(order), dtype=torch.float64).index_copy(
        0, coreset.indices, coreset.weights
    )
    return _coreset(
        picks.numpy(), weights[assignment[picks]].numpy(), coreset.reason, coreset.trace.numpy()
    )


def _proportional(counts: list[int], budget: int) -> list[int]:
    """Split `budget` in proportion to `counts`, exactly: largest remainders first, ties to the
    lower position.
    """
    total = max(sum(counts), 1)
    shares = [count * budget // total for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda i: (-(counts[i] * budget % total), i))
    for i in by_remainder[: budget - sum(shares)]:
        shares[i] += 1
    return shares
