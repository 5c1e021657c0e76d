"""Pictures of one run: its plan, its training, its coresets, adversarial examples; and a table as a
plot.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from acslib.paper.style import COLOURS, MARKERS
from acslib.schedule import Plan
from acslib.selectors.coreset import Coreset

PHASES = {
    "full": ("#0072B2", "all the data"),
    "skip": ("#FFFFFF", "skipped"),
    "coreset": ("#E69F00", "coreset"),
}


def timeline(plan: Plan, axis=None):
    """Figure 1a from a plan: a box an epoch, a triangle at each selection."""
    axis = axis or plt.subplots(figsize=(8, 1.5))[1]
    for phase, (colour, label) in PHASES.items():
        boxes = [(epoch.index, 1) for epoch in plan if epoch.phase == phase]
        if boxes:
            axis.broken_barh(
                boxes, (0, 1), facecolor=colour, edgecolor="#555555", linewidth=0.5, label=label
            )
    chosen = [epoch.index + 0.5 for epoch in plan if epoch.select]
    if chosen:
        axis.plot(chosen, [1.25] * len(chosen), "v", color="black", label="selection")
    axis.set(xlabel="epoch", yticks=[], ylim=(0, 1.5), xlim=(0, len(plan)))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(False)
    axis.spines["left"].set_visible(False)
    axis.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    return axis


def training_curves(history: Sequence[dict]) -> Figure:
    """Loss, accuracies and the seconds of each epoch."""
    rows = (
        pd.DataFrame(history).dropna(subset="loss")
        if "loss" in pd.DataFrame(history)
        else pd.DataFrame(history)
    )
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3))
    left.plot(rows.epoch, rows.loss, "o-", label="objective, training batches", markersize=4)
    middle.plot(
        rows.epoch,
        100 * rows.train_robust_accuracy,
        "o-",
        label="robust, training batches",
        markersize=4,
    )
    for name, label, mark in (
        ("train_clean", "clean, training images", "s-"),
        ("validation_clean", "clean, validation", "^--"),
        ("validation_robust", "robust, validation", "v--"),
    ):
        for axis, measure, scale in ((left, "loss", 1), (middle, "accuracy", 100)):
            if f"{name}_{measure}" in rows:
                axis.plot(
                    rows.epoch, scale * rows[f"{name}_{measure}"], mark, label=label, markersize=4
                )
    left.set(xlabel="epoch", ylabel="loss")
    middle.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 100))
    for axis in (left, middle):
        axis.legend(fontsize=8)
    bottom = 0 * rows.epoch.astype(float)
    for part, colour in (("attack", "#D55E00"), ("update", "#0072B2"), ("select", "#009E73")):
        right.bar(rows.epoch, rows[f"seconds_{part}"], bottom=bottom, color=colour, label=part)
        bottom = bottom + rows[f"seconds_{part}"]
    right.set(xlabel="epoch", ylabel="seconds")
    right.legend(fontsize=8)
    for axis in (left, middle, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def show_images(
    images: Tensor, titles: Sequence[str] = (), columns: int = 10, size: float = 1.0
) -> Figure:
    """A grid of images (n, C, H, W) in [0, 1] with a line of text above each."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(columns * size, rows * size * (1.25 if titles else 1)),
        squeeze=False,
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(
        axes.flat, images, list(titles) or [""] * len(images), strict=False
    ):
        picture = image.permute(1, 2, 0).cpu()
        axis.imshow(
            picture.squeeze(-1), cmap="gray" if picture.shape[-1] == 1 else None, vmin=0, vmax=1
        )
        axis.set_title(title, fontsize=8, pad=2)
    return figure


def show_coreset(data, coreset: Coreset, count: int = 20) -> Figure:
    """The samples of largest weight; one of each weight where there are enough, since batches share
    theirs.
    """
    order = coreset.weights.argsort(descending=True, stable=True)
    first = torch.cat([torch.ones(1, dtype=torch.bool), coreset.weights[order].diff() != 0])
    order = (order[first] if int(first.sum()) >= count else order)[:count]
    chosen = coreset.indices[order]
    titles = [
        f"{data.class_names[int(data.train.labels[i])]}\n{float(w):.2f}"
        for i, w in zip(chosen, coreset.weights[order], strict=True)
    ]
    return show_images(data.train.float_images(chosen.to(data.train.images.device)), titles)


def coreset_summary(data, coreset: Coreset) -> Figure:
    """How the weights are spread, and how much weight each class got beside its share of the data."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8))
    weights = coreset.normalised().weights
    left.hist(weights.numpy(), bins=30, color=COLOURS["gradmatch"])
    left.set(xlabel="weight (mean 1)", ylabel="samples")
    labels, classes = data.train.labels.cpu(), len(data.class_names)
    share = torch.bincount(labels, minlength=classes) / len(labels)
    got = (
        torch.bincount(labels[coreset.indices], weights=weights, minlength=classes) / weights.sum()
    )
    position = torch.arange(classes)
    right.bar(position - 0.2, 100 * share, 0.4, color=COLOURS["random"], label="data")
    right.bar(position + 0.2, 100 * got, 0.4, color=COLOURS["gradmatch"], label="coreset, weighted")
    right.set(xticks=position, ylabel="share (%)")
    right.set_xticklabels(data.class_names, rotation=45, ha="right", fontsize=8)
    right.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def show_adversarial(model, data, attack, count: int = 10) -> Figure:
    """Test images above, what the attack made of them below, with what the model says."""
    images, labels = data.test.float_images(slice(0, count)), data.test.labels[:count]
    adversarial = attack(model, images, labels)
    with torch.no_grad():
        before, after = model(images).argmax(1), model(adversarial).argmax(1)
    titles = [data.class_names[int(i)] for i in (*before, *after)]
    return show_images(torch.cat([images, adversarial]), titles, columns=count)


def tradeoff(gathered: pd.DataFrame) -> Figure:
    """A table as a picture: robust accuracy against speed-up, a panel a setting, the paper's in
    open grey marks.
    """
    names = list(gathered.setting.unique())
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.8 * rows), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        for _, row in gathered[gathered.setting == name].iterrows():
            method = row.method.removeprefix("adv_")
            spread = row.racc_std_pct if row.seeds > 1 else None
            size = 9 if method == "full" else 7
            look = {"fmt": MARKERS[method], "color": COLOURS[method], "ms": size}
            axis.errorbar(row.speedup_median_x, row.racc_pct, spread, **look)
            if pd.notna(row.get("paper_racc_pct")):
                axis.plot(
                    row.paper_speedup_x,
                    row.paper_racc_pct,
                    MARKERS[method],
                    color="#BBBBBB",
                    fillstyle="none",
                )
        first = gathered[gathered.setting == name].iloc[0]
        axis.set_title(
            f"{first.model}\n{columns.OBJECTIVES[name.split('-')[1]]}, {first.dataset}", fontsize=9
        )
        axis.set(xlabel="speed-up (medians of epochs)", ylabel="robust accuracy (%)")
        axis.margins(0.15)
    handles = [
        plt.Line2D([], [], marker=MARKERS[m], color=COLOURS[m], linestyle="") for m in COLOURS
    ]
    handles.append(plt.Line2D([], [], marker="o", color="#BBBBBB", fillstyle="none", linestyle=""))
    figure.legend(
        handles,
        [*(columns.LABELS[m] for m in COLOURS), "paper (its data and networks)"],
        ncols=6,
        loc="outside lower center",
        fontsize=9,
    )
    return figure
