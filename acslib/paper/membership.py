"""Which images are in which coresets, as frames: how often, of which classes, what coresets share;
and the gradient errors that selections recorded.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from acslib.selectors.coreset import Coreset

KINDS = ("always", "sometimes", "never")


def times_chosen(coresets: Mapping[Any, Coreset], n: int) -> Tensor:
    """For each of n images, how many of the coresets have it, (n,) int64."""
    times = torch.zeros(n, dtype=torch.int64)
    for coreset in coresets.values():
        times[coreset.indices] += 1
    return times


def kinds(coresets: Mapping[Any, Coreset], n: int) -> dict[str, Tensor]:
    """The images that are in every coreset, in some and in none, each as ascending indices."""
    times = times_chosen(coresets, n)
    masks = {"always": times == len(coresets), "never": times == 0}
    masks["sometimes"] = ~(masks["always"] | masks["never"])
    return {kind: masks[kind].nonzero().squeeze(1) for kind in KINDS}


def kind_shares(coresets: Mapping[Any, Coreset], n: int) -> pd.DataFrame:
    """Percent of the images of each kind, beside what independent random draws would give."""
    found = kinds(coresets, n)
    shares = [len(coreset) / n for coreset in coresets.values()]
    always, never = math.prod(shares), math.prod(1 - share for share in shares)
    chance = {"always": always, "sometimes": 1 - always - never, "never": never}
    return pd.DataFrame(
        {
            "images": [len(found[kind]) for kind in KINDS],
            "share_pct": [100 * len(found[kind]) / n for kind in KINDS],
            "by_chance_pct": [100 * chance[kind] for kind in KINDS],
        },
        index=pd.Index(KINDS, name="chosen"),
    )


def overlap(coresets: Mapping[Any, Coreset]) -> pd.DataFrame:
    """Row a, column b: percent of a's images that b has, too. By chance it is b's share of all."""
    table = [
        [100 * float(torch.isin(a.indices, b.indices).double().mean()) for b in coresets.values()]
        for a in coresets.values()
    ]
    names = list(coresets)
    return pd.DataFrame(table, index=names, columns=names)


def balance(labels: Tensor, coreset: Coreset, names: Sequence[str]) -> pd.DataFrame:
    """Percent of each class in all the data, among the chosen images, and in their weight."""
    labels, weights = labels.cpu(), coreset.weights
    chosen, count = labels[coreset.indices], len(names)
    parts = {
        "data_pct": torch.bincount(labels, minlength=count).double(),
        "images_pct": torch.bincount(chosen, minlength=count).double(),
        "weight_pct": torch.bincount(chosen, weights=weights, minlength=count),
    }
    shares = {name: (100 * part / part.sum()).numpy() for name, part in parts.items()}
    return pd.DataFrame(shares, index=pd.Index(list(names), name="class"))


def gradient_errors(histories: Mapping[str, Sequence[dict[str, Any]]]) -> pd.DataFrame:
    """A row a selection: the relative gradient error (eq. 12), and that of a random subset of the
    same size. Selections without gradients are left out.
    """
    rows = [
        {
            "training": name,
            "epoch": row["epoch"],
            "relative_error": row["selection"]["relative_error"],
            "random_relative_error": row["selection"]["random_relative_error"],
        }
        for name, history in histories.items()
        for row in history
        if (row["selection"] or {}).get("relative_error") is not None
    ]
    columns = ["training", "epoch", "relative_error", "random_relative_error"]
    return pd.DataFrame(rows, columns=columns)
