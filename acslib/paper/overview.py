"""Figures 1 and 2, drawn from a real run."""

import dataclasses
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from acslib import selectors, training
from acslib.data.sets import Dataset
from acslib.gradients import LastLayerGradients
from acslib.paper import build, columns
from acslib.paper.config import Run
from acslib.paper.pictures import timeline
from acslib.paper.style import COLOURS, MARKERS
from acslib.selectors.coreset import Coreset

# ---- what is drawn: Figures 1 and 2


@dataclasses.dataclass(frozen=True)
class Selection:
    """A pass through the selection module: images (n, C, H, W), what the attack made of them (None
    for vanilla training), their last-layer gradients, and the coreset that a greedy solver
    picked.
    """

    images: Tensor
    adversarial: Tensor | None
    gradients: LastLayerGradients
    coreset: Coreset


def select(objective, model, images: Tensor, labels: Tensor, budget: int) -> Selection:
    """Figure 1b or 1c: the selection module for `objective` on a few images, sample by sample with
    GradMatch.
    """
    seen = objective.perturb(model, images, labels)
    gradients = objective.gradients(model, images, labels, seen)
    coreset = selectors.gradmatch(gradients, budget)
    return Selection(images, None if seen is images else seen, gradients, coreset)


def figure1(
    plan,
    history: Sequence[dict],
    seconds_full_epoch: float,
    vanilla: Selection,
    robust: Selection,
    about: str = "",
) -> Figure:
    """Figure 1: (a) the phases of a run and what each epoch cost, (b, c) selection for vanilla and
    robust training.
    """
    figure = plt.figure(figsize=(9.6, 8.4))
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1.15, 1, 1])
    boxes, bars = top.subplots(2, 1, sharex=True, height_ratios=[1, 1.6])
    timeline(plan, boxes)
    boxes.set(xlabel="")
    epoch_seconds(bars, history, seconds_full_epoch)
    top.suptitle("(a) training with coreset selection", x=0.01, ha="left")
    bottom.supxlabel(about, fontsize=7, color="#555555")
    scale = max(float(selection.gradients.errors.abs().max()) for selection in (vanilla, robust))
    module(middle, vanilla, scale)
    middle.suptitle("(b) selection for vanilla training", x=0.01, ha="left")
    module(bottom, robust, scale)
    bottom.suptitle(
        "(c) selection for adversarial training: the images are attacked first", x=0.01, ha="left"
    )
    return figure


def epoch_seconds(axis, history: Sequence[dict], seconds_full_epoch: float) -> None:
    """Seconds of each epoch as a stack of what took them, under an epoch of full training as a
    line.
    """
    rows = pd.DataFrame(history)
    base = 0 * rows.epoch.astype(float)
    for part, colour in (("select", "#009E73"), ("attack", "#666666"), ("update", "#BBBBBB")):
        axis.bar(
            rows.epoch + 0.5, rows[f"seconds_{part}"], 0.8, bottom=base, color=colour, label=part
        )
        base = base + rows[f"seconds_{part}"]
    axis.axhline(
        seconds_full_epoch, color="black", linestyle="--", linewidth=1, label="full training, mean"
    )
    axis.set(xlabel="epoch", ylabel="seconds")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def module(figure, selection: Selection, scale: float) -> None:
    """One row: images, the attack's images, their gradients, the coreset; an arrow from each to the
    next.
    """
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
    """Images side by side; with a coreset, its own framed as thickly as they weigh and the others
    faded.
    """
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
                edgecolor=COLOURS["gradmatch"],
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


def sample_gradients(run: Run, model, data: Dataset, seed: int, count: int) -> LastLayerGradients:
    """Adversarial last-layer gradients of the first `count` training images, as the run's
    selections see them.
    """
    how = build.training_of(run, data.train.labels, seed, str(data.train.labels.device))
    how.generator.manual_seed(seed)
    return training.adversarial_gradients(
        model, dataclasses.replace(data, train=data.train[:count]), how
    )


def in_plane(gradients: LastLayerGradients, coreset: Coreset) -> tuple[float, float]:
    """The coreset's weighted total gradient, in units of the total: its part along the total, and
    the rest's length.

    The distance from there to (1, 0) is the relative error of eq. (12), in however many dimensions.
    """
    total = gradients.total(dtype=torch.float64)
    own = gradients[coreset.indices].total(coreset.weights, dtype=torch.float64)
    along = (own @ total / (total @ total)).item()
    return along, float((own - along * total).norm() / total.norm())


def figure2(
    gradients: LastLayerGradients, coresets: dict[str, Sequence[Coreset]], about: str = ""
) -> Figure:
    """Figure 2: a coreset among all gradients (two principal components), and how near its total
    comes to theirs.

    `coresets`: one or more for each method of `figures.COLOURS`; the first of "gradmatch" is drawn
    on the left.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2))
    dense = gradients.dense(dtype=torch.float64).cpu()
    centred = dense - dense.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False)[2][:2]
    places, shown = centred @ axes.T, coresets["gradmatch"][0]
    share = float((places**2).sum() / (centred**2).sum())
    left.scatter(
        *places.T, s=8, color="#BBBBBB", label=f"all {len(gradients)} samples", linewidths=0
    )
    left.scatter(
        *places[shown.indices].T,
        s=(120 * shown.weights / shown.weights.max()).numpy(),
        alpha=0.75,
        color=COLOURS["gradmatch"],
        edgecolors="white",
        linewidths=0.5,
        label=f"coreset of {len(shown)}, area by weight",
    )
    left.set(
        xlabel="first principal component",
        ylabel="second principal component",
        title=f"gradients ({share:.0%} of their variance)",
    )
    right.plot([0, 1], [0, 0], color=COLOURS["full"], zorder=0)
    right.plot(
        1, 0, MARKERS["full"], color=COLOURS["full"], markersize=14, label="total of all samples"
    )
    for method, several in coresets.items():
        ends = torch.tensor([in_plane(gradients, coreset) for coreset in several])
        draws = f", {len(ends)} draws" if len(ends) > 1 else ""
        right.plot(
            *ends.T, MARKERS[method], color=COLOURS[method], label=columns.LABELS[method] + draws
        )
        if not draws:
            right.plot(*zip((0, 0), ends[0], strict=True), color=COLOURS[method], zorder=0)
    right.set(
        xlabel="along the total gradient (its length = 1)",
        ylabel="across it",
        title="totals, weighted",
    )
    right.set_aspect("equal", adjustable="datalim")  # lengths are to be compared
    for axis in (left, right):
        axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.suptitle(about, fontsize=7, color="#555555")
    return figure
