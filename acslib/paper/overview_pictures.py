"""Figures 1 and 2: what a selection sees, and how its coreset stands for everyone."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from acslib.gradients import LastLayerGradients
from acslib.paper.methods import METHODS, Method
from acslib.paper.overview import Selection, in_plane
from acslib.paper.pictures import PARTS, stack_seconds, timeline, timeline_in_words
from acslib.paper.seen import brief, described, span
from acslib.paper.style import QUIET, line, literal
from acslib.selectors.coreset import Coreset


def figure1(
    plan,
    history: Sequence[dict],
    seconds_full_epoch: float,
    vanilla: Selection,
    robust: Selection,
    about: str = "",
) -> Figure:
    """Figure 1: (a) phases and cost of each epoch; (b, c) vanilla and robust selection."""
    figure = plt.figure(figsize=(9.6, 8.4))
    parts: Any = figure.subfigures(3, 1, height_ratios=[1.15, 1, 1])
    top, middle, bottom = parts
    boxes, bars = top.subplots(2, 1, sharex=True, height_ratios=[1, 1.6])
    timeline(plan, boxes)
    boxes.set(xlabel="")
    epoch_seconds(bars, history, seconds_full_epoch)
    top.suptitle("(a) training with coreset selection", x=0.01, ha="left")
    bottom.supxlabel(literal(about), fontsize=7, color=QUIET)
    scale = max(float(selection.gradients.errors.abs().max()) for selection in (vanilla, robust))
    module(middle, vanilla, scale)
    middle.suptitle("(b) selection for vanilla training", x=0.01, ha="left")
    module(bottom, robust, scale)
    bottom.suptitle(
        "(c) selection for adversarial training: the images are attacked first", x=0.01, ha="left"
    )
    first, second = (set(one.coreset.indices.tolist()) for one in (vanilla, robust))
    seconds = pd.DataFrame(history)[[f"seconds_{part}" for part in PARTS]].sum(axis=1)
    return described(
        figure,
        f"(a) {timeline_in_words(plan)} Below it bars: an epoch takes {span(seconds)} seconds, a"
        f" full one {brief(seconds_full_epoch)}. (b) {len(vanilla.images)} images, their gradients,"
        f" and {len(first)} of them in frames, chosen by vanilla gradients; (c) the same attacked"
        f" first, and {len(second)} chosen by adversarial gradients. {len(first & second)} images"
        " are chosen both times.",
    )


def epoch_seconds(axis: Axes, history: Sequence[dict], seconds_full_epoch: float) -> None:
    """Seconds of each epoch, stacked by what took them, under those of full training."""
    stack_seconds(axis, pd.DataFrame(history))
    axis.axhline(
        seconds_full_epoch, color="black", linestyle="--", linewidth=1, label="full training, mean"
    )
    axis.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def module(figure, selection: Selection, scale: float) -> None:
    """One row, with arrows: images, the attack's images, their gradients, the coreset."""
    grid = figure.add_gridspec(1, 7, width_ratios=[1.5, 0.7, 1.5, 0.7, 0.8, 0.7, 1.5])
    show_mosaic(empty(figure, grid[0]), selection.images, "images")
    if selection.adversarial is None:
        arrow(empty(figure, grid[1:4]), "last layer's gradients")
    else:
        arrow(empty(figure, grid[1]), "attack")
        show_mosaic(empty(figure, grid[2]), selection.adversarial, "adversarial images")
        arrow(empty(figure, grid[3]), "last layer's\ngradients")
    errors = empty(figure, grid[4])
    errors.imshow(
        selection.gradients.errors.float().cpu().numpy(),
        cmap="RdBu_r",
        vmin=-scale,
        vmax=scale,
        aspect="auto",
    )
    errors.set_title("gradients", fontsize=9)
    errors.set_xlabel("classes", fontsize=8)
    errors.set_ylabel("images", fontsize=8)
    arrow(empty(figure, grid[5]), "greedy\nsolver")
    show_mosaic(empty(figure, grid[6]), selection.images, "weighted coreset", selection.coreset)


def empty(figure, place):
    """A panel without ticks, grid and frame."""
    axis = figure.add_subplot(place)
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)
    return axis


def arrow(axis, text: str) -> None:
    """An arrow across a panel, its text above it."""
    look = {"arrowstyle": "-|>", "color": "black", "mutation_scale": 14, "linewidth": 1.4}
    axis.annotate("", (1, 0.5), (0, 0.5), "axes fraction", arrowprops=look)
    axis.text(0.5, 0.56, text, ha="center", va="bottom", fontsize=8, transform=axis.transAxes)


def show_mosaic(
    axis, images: Tensor, title: str, coreset: Coreset | None = None, columns: int = 6
) -> None:
    """Images side by side; a coreset's framed as thickly as they weigh, the others faded."""
    images = images.float().cpu()
    chosen = torch.zeros(len(images), dtype=torch.bool)
    if coreset is not None:
        chosen[coreset.indices.cpu()] = True
        images = torch.where(chosen[:, None, None, None], images, 1 - 0.2 * (1 - images))
    axis.imshow(mosaic(images, columns).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=9)
    if coreset is None:
        return
    height, width = images.shape[2] + 1, images.shape[3] + 1
    for index, weight in zip(
        coreset.indices.tolist(), (coreset.weights / coreset.weights.max()).tolist(), strict=True
    ):
        row, column = divmod(index, columns)
        axis.add_patch(
            Rectangle(
                (column * width, row * height),
                width - 1,
                height - 1,
                fill=False,
                edgecolor=METHODS["gradmatch"].colour,
                linewidth=0.8 + 3 * weight,
            )
        )


def mosaic(images: Tensor, columns: int) -> Tensor:
    """(n, C, H, W) as one picture (rows, columns, C), a white pixel between the images."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    canvas = torch.ones(rows * columns, channels, height + 1, width + 1)
    canvas[:n, :, :height, :width] = images
    grid = canvas.view(rows, columns, channels, height + 1, width + 1).permute(0, 3, 1, 4, 2)
    return grid.reshape(rows * (height + 1), columns * (width + 1), channels)[:-1, :-1]


def figure2(
    gradients: LastLayerGradients, coresets: dict[str, Sequence[Coreset]], about: str = ""
) -> Figure:
    """Figure 2: a coreset among all gradients (two principal components), and its total's error.

    `coresets`: one or more for each method; the first of "gradmatch" is drawn on the left.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2))
    dense = gradients.dense(dtype=torch.float64).cpu()
    centred = dense - dense.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False)[2][:2]
    places, shown = centred @ axes.T, coresets["gradmatch"][0]
    share = float((places**2).sum() / (centred**2).sum())
    left.scatter(
        *places.T.numpy(), s=8, color="#BBBBBB", label=f"all {len(gradients)} samples", linewidths=0
    )
    left.scatter(
        *places[shown.indices].T.numpy(),
        s=(120 * shown.weights / shown.weights.max()).numpy(),
        alpha=0.75,
        color=METHODS["gradmatch"].colour,
        edgecolors="white",
        linewidths=0.5,
        label=f"coreset of {len(shown)}, area by weight",
    )
    left.set(
        xlabel="first principal component",
        ylabel="second principal component",
        title=f"gradients ({share:.0%} of their variance)",
    )
    full = METHODS["full"]
    right.plot([0, 1], [0, 0], color=full.colour, zorder=0)
    star = {"markersize": 14, "linestyle": "", **line(full)}
    right.plot(1, 0, label="total of all samples", **star)
    for name, several in coresets.items():
        totals(right, gradients, several, METHODS[name])
    right.set(
        xlabel="along the total gradient (its length = 1)",
        ylabel="across it",
        title="totals, weighted",
    )
    right.set_aspect("equal", adjustable="datalim")  # lengths are to be compared
    for axis in (left, right):
        axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.suptitle(literal(about), fontsize=7, color=QUIET)
    return figure


def totals(
    axis: Axes, gradients: LastLayerGradients, several: Sequence[Coreset], method: Method
) -> None:
    """Where the totals of a method's coresets end; a line leads to a single one."""
    ends = torch.tensor([in_plane(gradients, coreset) for coreset in several])
    draws = f", {len(ends)} draws" if len(ends) > 1 else ""
    axis.plot(*ends.T.numpy(), linestyle="", label=literal(method.label) + draws, **line(method))
    if not draws:
        axis.plot(*zip((0, 0), ends[0].tolist(), strict=True), color=method.colour, zorder=0)
