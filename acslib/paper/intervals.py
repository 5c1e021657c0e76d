"""The study's figure: differences with their 95 % intervals, and what each arm costs."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from acslib.paper import study
from acslib.paper.methods import METHODS
from acslib.paper.style import QUIET

SIZES: dict[float | str, tuple[str, str]] = {
    0.1: ("v", "#56B4E9"),
    0.2: ("o", "#0072B2"),
    0.5: ("s", "#332288"),
}
MEAN = ("D", "#000000")
TITLES = {"linf": "PGD, linf", "trades": "TRADES", "l2": "PGD, l2"}


def figure_study(table: pd.DataFrame) -> Figure:
    """A row of panels an objective: differences of robust and of clean accuracy to the reference,
    and robust accuracy by cost.
    """
    objectives = list(dict.fromkeys(table.objective))
    figure, axes = plt.subplots(
        len(objectives), 3, figsize=(13, 4.6 * len(objectives)), squeeze=False
    )
    for row, objective in zip(axes, objectives, strict=True):
        part = table[table.objective == objective]
        differences(row[0], part[part.measure == "racc"], "robust accuracy")
        differences(row[1], part[part.measure == "acc"], "clean accuracy")
        row[1].set_yticklabels([])
        cost(row[2], part[part.measure == "racc"])
        row[0].set_title(TITLES.get(objective, objective), loc="left", fontweight="bold")
    seeds = " to ".join(map(str, sorted({int(table.seeds.min()), int(table.seeds.max())})))
    figure.suptitle(
        f"Differences to {spelt(study.design().reference)} at the same size, paired by seed, with"
        f" 95 % intervals over {seeds} seeds; {study.comparisons(table)} intervals, of which one in"
        " twenty misses by chance",
        fontsize=9,
        color=QUIET,
    )
    return figure


def spelt(arm: str) -> str:
    """An arm's name for people."""
    label = METHODS[arm].label if arm in METHODS else arm.replace("_", " ")
    return label


def differences(axis: Axes, table: pd.DataFrame, what: str) -> None:
    """A line an arm; a mark a size, with its interval."""
    reference = study.design().reference
    arms = [
        arm
        for arm in dict.fromkeys(table.arm)
        if arm != reference and table[table.arm == arm].difference.notna().any()
    ]
    marks = SIZES | {study.MEAN: MEAN}
    for place, arm in enumerate(arms):
        part = table[(table.arm == arm) & table.difference.notna()]
        for offset, (_, row) in enumerate(part.iterrows()):
            y = place + 0.17 * (offset - (len(part) - 1) / 2)
            marker, colour = mark(row.k, marks)
            axis.plot([row.ci_low, row.ci_high], [y, y], color=colour, linewidth=1.4)
            axis.plot(row.difference, y, marker=marker, color=colour, markersize=6)
    shade_chance(axis, table)
    axis.axvline(0, color=QUIET, linewidth=1)
    axis.set(xlabel=f"difference of {what} (points)", ylim=(len(arms) - 0.4, -0.6))
    axis.set_yticks(range(len(arms)), [spelt(arm) for arm in arms])
    handles = [
        Line2D([], [], marker=marker, color=colour, linestyle="", label=size_label(size))
        for size, (marker, colour) in marks.items()
    ]
    axis.legend(
        handles=handles, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.13)
    )


def mark(size, marks: dict) -> tuple[str, str]:
    """A size's marker and colour; sizes come as text from a CSV that has `mean` among them."""
    key = size if size == study.MEAN else float(size)
    return marks.get(key, ("x", QUIET))


def size_label(size) -> str:
    return "mean of sizes" if size == study.MEAN else f"k = {size:g}"


def shade_chance(axis: Axes, table: pd.DataFrame) -> None:
    """What chance alone gave: the interval of the reference with other draws, over all sizes."""
    null = table[(table.arm == study.design().chance) & (table.k == study.MEAN)]
    if len(null) and null.ci_low.notna().all():
        axis.axvspan(
            float(null.ci_low.iloc[0]), float(null.ci_high.iloc[0]), color="#DDDDDD", zorder=0
        )


def cost(axis: Axes, table: pd.DataFrame) -> None:
    """Robust accuracy against the images that were attacked, a mark an arm and size."""
    shown = table[table.k != study.MEAN]
    for _, row in shown.iterrows():
        marker, colour = mark(row.k, SIZES | {1.0: ("*", "#000000")})
        axis.plot(row.seconds, row.value, marker=marker, color=colour, markersize=6)
    for arm in ("full", "full_early", "nfgsm"):
        for _, row in shown[shown.arm == arm].iterrows():
            axis.annotate(
                spelt(arm), (row.seconds, row.value), (5, 4), textcoords="offset points", fontsize=8
            )
    axis.set(xlabel="seconds of training (CPU)", ylabel="robust accuracy (%)", xscale="log")
