"""Coresets as pictures: images, classes, overlaps, gradient errors.

A figure's label says what is seen on it, and `notebook.show` hands that on to those who cannot see.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from acslib.data import Dataset
from acslib.paper import membership
from acslib.paper.methods import METHODS
from acslib.paper.pictures import image_grid, only_words
from acslib.paper.printing import counted
from acslib.paper.seen import described, from_to
from acslib.paper.style import QUIET, line, literal
from acslib.selectors.coreset import Coreset

PAGE = 20  # chosen images that are shown at once


# ---- pictures of coresets


def draw_images(data: Dataset, coreset: Coreset, page: int = 0, epoch: int | None = None) -> Figure:
    """Twenty chosen images in the order of their weights, from the `page`-th twenty on, and as many
    of those that are left out, spread over all of them.
    """
    order = coreset.indices[coreset.weights.argsort(descending=True, stable=True)]
    weight = dict(zip(coreset.indices.tolist(), coreset.weights.tolist(), strict=True))
    chosen = order[PAGE * page : PAGE * (page + 1)]
    rest = torch.ones(len(data.train), dtype=torch.bool).index_fill_(0, coreset.indices, False)
    out = rest.nonzero().squeeze(1)
    out = out[page % max(1, len(out) // PAGE) :: max(1, len(out) // PAGE)][:PAGE]
    figure = plt.figure(figsize=(10, 6.2))
    upper, lower = figure.subfigures(2, 1, squeeze=False).flat
    name = _namer(data)
    first, last = PAGE * page + 1, PAGE * page + len(chosen)
    upper.suptitle(f"chosen, number {first} to {last} of {len(coreset)} by weight", fontsize=10)
    lower.suptitle(f"left out, {len(out)} of {int(rest.sum())}", fontsize=10)
    _fill(upper, data, chosen, [f"{name(i)}\n{weight[i]:.2f}" for i in chosen.tolist()])
    _fill(lower, data, out, [name(i) for i in out.tolist()])
    when = "" if epoch is None else f" in epoch {epoch}"
    return described(
        figure,
        f"Images chosen{when}, heaviest first, each under its class and weight"
        f" ({_listed(f'{name(i)} {weight[i]:.2f}' for i in chosen[:5].tolist())} ...); below them"
        " images left out, under their classes.",
    )


def _fill(place: Any, data: Dataset, indices: Tensor, titles: Sequence[str]) -> None:
    where = indices.to(data.train.device)
    if len(indices):
        image_grid(place, data.train.float_images(where), titles)


def _namer(data: Dataset) -> Callable[[int], str]:
    """The class of a training image by its number, short enough for a picture."""
    labels = data.train.labels.cpu()
    return lambda index: data.class_names[int(labels[index])][:12]


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def draw_membership(coresets: Mapping[int, Coreset], data: Dataset) -> Figure:
    """A row a selection, a column an image, black where it is chosen; images sorted by class, and
    within a class by how often they are chosen.
    """
    labels, n = data.train.labels.cpu(), len(data.train)
    times = membership.times_chosen(coresets, n)
    order = torch.from_numpy(np.lexsort((-times.numpy(), labels.numpy())))
    chosen = torch.zeros(len(coresets), n)
    for row, coreset in enumerate(coresets.values()):
        chosen[row, coreset.indices] = 1
    figure, axis = plt.subplots(figsize=(10, 0.9 + 0.4 * len(coresets)))
    axis.imshow(
        chosen[:, order].numpy(), cmap="gray_r", aspect="auto", interpolation="nearest", vmax=1
    )
    counts = torch.bincount(labels, minlength=len(data.class_names))
    ends = counts.cumsum(0)
    for row in range(len(coresets) - 1):
        axis.axhline(row + 0.5, color=QUIET, linewidth=0.8)
    for end in ends[:-1]:
        axis.axvline(float(end) - 0.5, color=QUIET, linewidth=0.8)
    axis.set(xlabel="training images by class", ylabel="epoch")
    axis.set_xticks((ends - counts / 2).tolist(), [literal(one) for one in data.class_names])
    axis.tick_params(axis="x", labelrotation=0 if len(counts) <= 12 else 90, length=0)
    axis.set_yticks(range(len(coresets)), [str(epoch) for epoch in coresets])
    axis.grid(False)
    found = membership.kind_shares(coresets, n).share_pct
    return described(
        figure,
        f"{counted(len(coresets), 'row')} of {n} marks, black where an image is chosen:"
        f" {found['always']:.0f} % are black in every row, {found['never']:.0f} % in none.",
    )


def draw_balance(shares: pd.DataFrame) -> Figure:
    """`balance` as bars: all the data, chosen images, their weight."""
    figure, axis = plt.subplots(figsize=(max(6, 0.85 * len(shares)), 3))
    position = np.arange(len(shares))
    looks = {
        "data_pct": ("all the data", "#FFFFFF", ""),
        "images_pct": ("chosen images", "#BBBBBB", "//"),
        "weight_pct": ("their weight", METHODS["gradmatch"].colour, ""),
    }
    for place, (name, (label, colour, hatch)) in enumerate(looks.items()):
        axis.bar(
            position + 0.27 * (place - 1),
            shares[name],
            0.27,
            color=colour,
            edgecolor=QUIET,
            hatch=hatch,
            label=label,
        )
    axis.set_xticks(position, [literal(str(name)) for name in shares.index])
    axis.set(xlabel="class", ylabel="share (%)")
    axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    change = shares.weight_pct - shares.data_pct
    return described(
        figure,
        "Bars for each class: its share of the data, of the chosen images and of their weight. By"
        f" weight, {change.idxmax()} gains most ({change.max():+.1f} points) and {change.idxmin()}"
        f" loses most ({change.min():+.1f}).",
    )


def draw_overlap(shares: pd.DataFrame, by_chance: float, what: str) -> Figure:
    """`overlap` as a table of numbers on shades of grey."""
    size = min(1.6 + 0.75 * len(shares), 9)
    small = 10 if len(shares) <= 10 else 6
    figure, axis = plt.subplots(figsize=(size + 1.2, size))
    axis.imshow(shares, cmap="Greys", vmin=0, vmax=200)  # light enough for black numbers
    for (row, column), value in np.ndenumerate(shares.to_numpy()):
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=small)
    names = [literal(str(name)) for name in shares]
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set_title(f"% of a row's images in the column, too\nby chance {by_chance:.0f}", fontsize=9)
    axis.grid(False)
    values = shares.to_numpy()[~np.eye(len(shares), dtype=bool)]
    spread = f"{values.min():.0f} to {values.max():.0f} %" if len(values) else "nothing to compare"
    return described(
        figure,
        f"A square of numbers, the overlap of {what}: {spread}; by chance {by_chance:.0f} %.",
    )


def draw_kinds(coresets: Mapping[int, Coreset], data: Dataset, count: int = 10) -> Figure:
    """Images that are always, sometimes and never chosen, a row each, with how many there are."""
    n = len(data.train)
    found, shares = membership.kinds(coresets, n), membership.kind_shares(coresets, n)
    name = _namer(data)
    figure = plt.figure(figsize=(10, 4.8))
    places = figure.subfigures(3, 1, squeeze=False).flat
    for place, kind in zip(places, membership.KINDS, strict=True):
        row = shares.loc[kind]
        place.suptitle(
            f"{kind} chosen: {counted(row.images, 'image')}, {row.share_pct:.0f} %"
            f" (independent random draws: {row.by_chance_pct:.0f} %)",
            fontsize=10,
        )
        indices = found[kind]
        some = indices[:: max(1, len(indices) // count)][:count]
        _fill(place, data, some, [name(i) for i in some.tolist()])
    text = ", ".join(f"{shares.share_pct[kind]:.0f} % {kind}" for kind in membership.KINDS)
    return described(
        figure,
        f"Three rows of training images under their classes: {text} chosen in"
        f" {counted(len(coresets), 'selection')}.",
    )


# ---- pictures of gradient errors


def draw_gradient_errors(found: pd.DataFrame) -> Figure:
    """`gradient_errors`: a line a training, and the random subsets' dashed, with open marks."""
    if found.empty:
        return only_words("none of these selections has looked at gradients")
    figure, axis = plt.subplots(figsize=(6.4, 3.4))
    labels = {method.label: method for method in METHODS.values()}
    for name, part in found.groupby("training", sort=False):
        look = line(labels[name]) if name in labels else {"marker": "o"}
        drawn = axis.plot(part.epoch, part.relative_error, label=literal(name), **look)[0]
        axis.plot(
            part.epoch,
            part.random_relative_error,
            marker=look["marker"],
            color=drawn.get_color(),
            fillstyle="none",
            linestyle="--",
            linewidth=1,
            label=literal(f"random subset, in {name}'s training"),
        )
    axis.set(xlabel="epoch of the selection", ylabel="relative gradient error", ylim=(0, None))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    means = found.groupby("training", sort=False)[
        ["relative_error", "random_relative_error"]
    ].mean()
    said = [
        f"{name} {row.relative_error:.2f}, random beside it {row.random_relative_error:.2f}"
        for name, row in means.iterrows()
    ]
    return described(
        figure, f"Relative gradient error at each selection; in the mean: {'; '.join(said)}."
    )


def draw_sizes(found: pd.DataFrame, marked: float | None = None) -> Figure:
    """The errors of `reselect` against the size; a vertical line at the size `marked`."""
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    for name, part in found.groupby("method", sort=False):
        method = METHODS[name]
        axis.plot(
            100 * part.coreset_fraction,
            part.relative_error,
            label=literal(method.label),
            **line(method),
        )
    if marked is not None:
        axis.axvline(100 * marked, color=QUIET, linestyle=":", label=f"k = {100 * marked:g} %")
    axis.set(xlabel="size k (% of the images)", ylabel="relative gradient error", ylim=(0, None))
    axis.legend(fontsize=9)
    ends = [
        f"{METHODS[name].label} {from_to(*part.relative_error.iloc[[0, -1]])}"
        for name, part in found.groupby("method", sort=False)
    ]
    low, high = found.coreset_fraction.iloc[0], found.coreset_fraction.iloc[-1]
    return described(
        figure,
        f"Gradient error against the size of the coreset, {100 * low:g} to {100 * high:g} %:"
        f" {'; '.join(ends)}.",
    )
