"""Pictures of one run: its plan, its training, its coresets, adversarial examples."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from acslib.paper.methods import METHODS
from acslib.paper.printing import counted
from acslib.paper.seen import described, from_to, span
from acslib.paper.style import literal
from acslib.schedule import Plan
from acslib.selectors.coreset import Coreset

PHASES = {  # colour, hatch and name
    "full": ("#0072B2", "", "all the data"),
    "skip": ("#FFFFFF", "", "skipped"),
    "coreset": ("#E69F00", "//", "coreset"),
}
# what the seconds of an epoch were spent on, from the bottom of a stack to its top
PARTS = {"select": ("#009E73", ".."), "attack": ("#666666", ""), "update": ("#BBBBBB", "//")}


def timeline(plan: Plan, axis: Axes | None = None) -> Axes:
    """Figure 1a from a plan: a box an epoch, a triangle at each selection."""
    if axis is None:
        figure, axis = plt.subplots(figsize=(8, 1.5))
        described(figure, timeline_in_words(plan))
    for phase, (colour, hatch, label) in PHASES.items():
        boxes = [(epoch.index, 1) for epoch in plan if epoch.phase == phase]
        if boxes:
            drawn = axis.broken_barh(boxes, (0, 1), facecolor=colour, hatch=hatch, label=label)
            drawn.set(edgecolor="#555555", linewidth=0.5)
    chosen = [epoch.index + 0.5 for epoch in plan if epoch.select]
    if chosen:
        axis.plot(chosen, [1.25] * len(chosen), "v", color="black", label="selection")
    axis.set(xlabel="epoch", yticks=[], ylim=(0, 1.5), xlim=(0, len(plan)))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(False)
    axis.spines["left"].set_visible(False)
    axis.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    return axis


def timeline_in_words(plan: Plan) -> str:
    """What `timeline` shows."""
    counts = [
        f"{label} ({number})"
        for phase, (*_, label) in PHASES.items()
        if (number := sum(epoch.phase == phase for epoch in plan))
    ]
    return (
        f"A strip of {counted(len(plan), 'epoch')}, {', '.join(counts)},"
        f" with {counted(plan.selections, 'selection')}."
    )


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
    stack_seconds(right, rows)
    right.legend(fontsize=8)
    for axis in (left, middle, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    ends = rows.iloc[[0, -1]]
    longest = max(PARTS, key=lambda part: float(rows[f"seconds_{part}"].sum()))
    return described(
        figure,
        f"Three panels by epoch. The loss goes {from_to(*ends.loss)}, the robust accuracy on"
        f" training batches {from_to(*100 * ends.train_robust_accuracy)} %. What takes longest is"
        f" to {longest}.",
    )


def stack_seconds(axis: Axes, rows: pd.DataFrame) -> None:
    """Seconds of each epoch as a stack of what took them."""
    base = 0 * rows.epoch.astype(float)
    for part, (colour, hatch) in PARTS.items():
        seconds = rows[f"seconds_{part}"]
        middle = rows.epoch + 0.5
        axis.bar(middle, seconds, 0.8, bottom=base, color=colour, hatch=hatch, label=part)
        base = base + seconds
    axis.set(xlabel="epoch", ylabel="seconds")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def show_images(
    images: Tensor, titles: Sequence[str] = (), columns: int = 10, size: float = 1.0
) -> Figure:
    """A grid of images (n, C, H, W) in [0, 1] with a line of text above each."""
    figure = plt.figure(figsize=grid_size(len(images), columns, size, titled=bool(titles)))
    image_grid(figure, images, titles, columns)
    return figure


def grid_size(count: int, columns: int, size: float = 1.0, *, titled: bool) -> tuple[float, float]:
    """Inches across and down of a grid of images."""
    return columns * size, -(-count // columns) * size * (1.25 if titled else 1)


def image_grid(
    place: Figure | SubFigure, images: Tensor, titles: Sequence[str] = (), columns: int = 10
) -> None:
    """Fill a figure, or a part of one, with images as `show_images` has them."""
    axes = place.subplots(-(-len(images) // columns), columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(
        axes.flat, images, list(titles) or [""] * len(images), strict=False
    ):
        draw_image(axis, image)
        axis.set_title(literal(title), fontsize=8, pad=2)


def draw_image(axis: Axes, image: Tensor) -> None:
    """An image (C, H, W) in [0, 1], grey or in colours."""
    picture = image.float().permute(1, 2, 0).cpu().numpy()
    if picture.shape[-1] == 1:
        axis.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1)
    else:
        axis.imshow(picture)


def show_coreset(data, coreset: Coreset, count: int = 20) -> Figure:
    """The samples of largest weight, where the mean is 1; one of each weight if enough, as batches
    share theirs.
    """
    coreset = coreset.normalised()
    order = coreset.weights.argsort(descending=True, stable=True)
    first = torch.cat([torch.ones(1, dtype=torch.bool), coreset.weights[order].diff() != 0])
    order = (order[first] if int(first.sum()) >= count else order)[:count]
    chosen = coreset.indices[order]
    titles = [
        f"{data.class_names[int(data.train.labels[i])]}\n{float(w):.2f}"
        for i, w in zip(chosen, coreset.weights[order], strict=True)
    ]
    figure = show_images(data.train.float_images(chosen.to(data.train.device)), titles)
    how_many = counted(len(chosen), "image")
    named = ", ".join(title.replace("\n", " with weight ") for title in titles[:3])
    return described(figure, f"{how_many} of the coreset, heaviest first: {named} ...")


def coreset_summary(data, coreset: Coreset) -> Figure:
    """How the weights are spread, and each class's weight beside its share of the data."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8))
    weights = coreset.normalised().weights
    left.hist(weights.numpy(), bins=30, color=METHODS["gradmatch"].colour)
    left.set(xlabel="weight (mean 1)", ylabel="samples")
    labels, classes = data.train.labels.cpu(), len(data.class_names)
    share = torch.bincount(labels, minlength=classes) / len(labels)
    got = (
        torch.bincount(labels[coreset.indices], weights=weights, minlength=classes) / weights.sum()
    )
    position = np.arange(classes)
    right.bar(
        position - 0.2, (100 * share).numpy(), 0.4, color=METHODS["random"].colour, label="data"
    )
    right.bar(
        position + 0.2,
        (100 * got).numpy(),
        0.4,
        color=METHODS["gradmatch"].colour,
        hatch="//",
        label="coreset, weighted",
    )
    right.set(xticks=position, ylabel="share (%)")
    right.set_xticklabels(map(literal, data.class_names), rotation=45, ha="right", fontsize=8)
    right.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    apart = 100 * float((got - share).abs().max())
    return described(
        figure,
        f"Left, a histogram of {len(weights)} weights {span(weights)}. Right, each class's share of"
        f" the data beside its share of the weight: at most {apart:.1f} points apart.",
    )


class Attacked(NamedTuple):
    """Test images before and after an attack on a network: whether it is right about each, and what
    it then says.
    """

    images: Tensor
    right: Tensor
    says: Tensor
    fooled: Tensor

    def in_words(self, who: str) -> str:
        return (
            f"{who} gets {int(self.right.sum())} of {counted(len(self.right), 'test image')} right,"
            f" and {int(self.fooled.sum())} of those wrong when they are attacked"
        )


def under_attack(model, attack, images: Tensor, labels: Tensor) -> Attacked:
    """What `attack` makes of images (n, C, H, W) against `model`."""
    adversarial = attack(model, images, labels)
    with torch.no_grad():
        right, says = model(images).argmax(1) == labels, model(adversarial).argmax(1)
    return Attacked(adversarial, right, says, right & (says != labels))


def show_fooled(model, data, attack, count: int = 10, undefended=None) -> Figure:
    """Test images that `model` gets right until `attack` changes them: as they are, the change
    enlarged, and changed; at most `count`. Below, the same images attacked on a network without a
    defence, if `undefended` is given.

    Above the first row stands the true class, above the last ones what the networks say then. A
    column each; an empty figure, with a sentence, where no image of the first 200 is fooled.
    """
    images, labels = data.test.float_images(slice(0, 200)), data.test.labels[:200]
    found = under_attack(model, attack, images, labels)
    chosen = found.fooled.nonzero().squeeze(1)[:count]
    if len(chosen) == 0:
        return only_words(
            f"none of {counted(int(found.right.sum()), 'image')} that it gets right fools the"
            " network"
        )
    change = found.images[chosen] - images[chosen]
    times = 0.5 / float(change.abs().max())
    rows = [images[chosen], 0.5 + times * change, found.images[chosen]]
    titles = [
        *(f"is {data.class_names[int(i)]}" for i in labels[chosen]),
        *[f"change, {times:.2g}x"] * len(chosen),
        *(f"says {data.class_names[int(i)]}" for i in found.says[chosen]),
    ]
    said = [found.in_words("the network")]
    if undefended is not None:
        beside = under_attack(undefended, attack, images, labels)
        rows.append(beside.images[chosen])
        titles += [f"undefended: {data.class_names[int(i)]}" for i in beside.says[chosen]]
        said.append(beside.in_words("an undefended one"))
    figure = show_images(torch.cat(rows), titles, columns=len(chosen))
    figure.suptitle("\n".join(said), fontsize=9)
    what = f"{counted(len(chosen), 'image')}, the changes, the attacked images"
    return described(figure, f"{what}: {'; '.join(said)}.")


def only_words(text: str) -> Figure:
    """A picture that only says something, where there is nothing to draw."""
    figure, axis = plt.subplots(figsize=(8, 0.6))
    axis.axis("off")
    axis.text(0.5, 0.5, literal(text), ha="center", va="center")
    return figure
