"""The study's figure: differences with their 95 % intervals, and what each arm costs."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from acslib.paper import study
from acslib.paper.methods import METHODS
from acslib.paper.seen import as_sentence, described, listed
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
    compared = table[table.difference.notna() & (table.arm != study.design().reference)]
    objectives = list(dict.fromkeys(compared.objective))
    figure, axes = plt.subplots(
        len(objectives), 3, figsize=(13, 4.6 * len(objectives)), squeeze=False
    )
    for row, objective in zip(axes, objectives, strict=True):
        part = table[table.objective == objective]
        draw_differences(row[0], part[part.measure == "racc"], "robust accuracy")
        draw_differences(row[1], part[part.measure == "acc"], "clean accuracy")
        row[1].set_yticklabels([])
        draw_cost(row[2], part[part.measure == "racc"])
        row[0].set_title(TITLES.get(objective, objective), loc="left", fontweight="bold")
    seeds = " to ".join(map(str, sorted({int(table.seeds.min()), int(table.seeds.max())})))
    figure.suptitle(
        f"Differences to {arm_label(study.design().reference)} at the same size, paired by seed,"
        f" with 95 % intervals over {seeds} seeds; {study.comparisons(table)} intervals, of which"
        " one in twenty misses by chance",
        fontsize=9,
        color=QUIET,
    )
    figure.legend(handles=legend_handles(), fontsize=9, ncols=4, loc="outside lower left")
    said = [
        differences_in_words(compared[compared.objective == objective], objective, measure)
        for objective in objectives
        for measure in ("racc", "acc")
    ]
    return described(figure, f"{figure.get_suptitle()}. {' '.join(said)}")


def differences_in_words(compared: pd.DataFrame, objective: str, measure: str) -> str:
    """What a panel of differences shows: for each arm the mean of its sizes, or its only size."""
    last = compared[compared.measure == measure].drop_duplicates("arm", keep="last")
    said = (f"{arm_label(row.arm)} {with_ends(row)}" for row in last.itertuples())
    what = {"racc": "robust", "acc": "clean"}[measure]
    return as_sentence(
        f"{TITLES.get(objective, objective)}, {what} accuracy, points: {listed(said)}"
    )


def with_ends(row: Any) -> str:
    """A difference, and where there are several seeds its interval."""
    ends = f" ({row.ci_low:.1f} to {row.ci_high:.1f})" if pd.notna(row.ci_low) else ""
    return f"{row.difference:+.1f}{ends}"


ARMS = {
    "adaptive_random_null": "Adaptive random, other draws",
    "adaptive_random_each_epoch": "Adaptive random, every epoch",
    "random": "Random, drawn once",
    "gradmatch_unweighted": "Adv. GradMatch, unweighted",
    "full_early": "All data, fewer epochs",
    "nfgsm": "All data, N-FGSM",
    "full": "All data (more time)",
}


def arm_label(arm: str) -> str:
    """An arm's name for people."""
    return ARMS.get(arm) or (METHODS[arm].label if arm in METHODS else arm.replace("_", " "))


def legend_handles() -> list[Line2D]:
    return [
        Line2D([], [], marker=marker, color=colour, linestyle="", label=size_label(size))
        for size, (marker, colour) in (SIZES | {study.MEAN: MEAN}).items()
    ]


def draw_differences(axis: Axes, table: pd.DataFrame, what: str) -> None:
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
            marker, colour = size_mark(row.k, marks)
            axis.plot([row.ci_low, row.ci_high], [y, y], color=colour, linewidth=1.4)
            axis.plot(row.difference, y, marker=marker, color=colour, markersize=6)
    shade_chance(axis, table)
    axis.axvline(0, color=QUIET, linewidth=1)
    axis.set(xlabel=f"difference of {what} (points)", ylim=(len(arms) - 0.4, -0.6))
    axis.set_yticks(range(len(arms)), [arm_label(arm) for arm in arms])


def size_mark(size, marks: dict) -> tuple[str, str]:
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


def draw_cost(axis: Axes, table: pd.DataFrame) -> None:
    """Robust accuracy against training time, as a share of full training's; a mark an arm and size.

    In the colours of the sizes; arms that train on all the data have their names beside them. What
    was trained on another device than the reference is hollow, as seconds cannot be compared.
    """
    shown = table[table.k.astype(str) != study.MEAN]
    full = shown[shown.arm == "full"].seconds
    whole = float(full.iloc[0]) if len(full) else 1.0
    own = shown[shown.arm == study.design().reference].device
    others = set(shown.device) - set(own)
    for _, row in shown.iterrows():
        marker, colour = size_mark(row.k, SIZES | {1.0: ("*", "#000000")})
        axis.plot(
            row.seconds / whole,
            row.value,
            marker=marker,
            color=colour,
            markersize=6,
            fillstyle="none" if row.device in others else "full",
        )
        if row.arm in ("full", "full_early", "nfgsm"):
            ahead = row.seconds > 0.6 * shown.seconds.max()
            axis.annotate(
                arm_label(row.arm),
                (row.seconds / whole, row.value),
                (-8 if ahead else 8, -3),
                textcoords="offset points",
                ha="right" if ahead else "left",
                fontsize=8,
            )
    what = "training time (full training: 1)" if len(full) else "seconds of training"
    if others:
        what += f"\non {own.iloc[0]}; hollow: on {', '.join(sorted(others))}"
    axis.set(xlabel=what, ylabel="robust accuracy (%)", xlim=(0, None))
