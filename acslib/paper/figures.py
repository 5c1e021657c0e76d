"""Figures 3 to 5, drawn from tables with one row a run and seed: nothing here trains or attacks."""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from acslib.paper import columns
from acslib.paper.style import COLOURS, MARKERS

FAT = ("#D55E00", "s")  # FAT's colour and marker; the other curves have those of their method
VERSIONS = {
    "plain": ("#CC79A7", "v"),
    "batch-wise": ("#E69F00", "s"),
    "batch-wise + warm start": (COLOURS["gradmatch"], MARKERS["gradmatch"]),
    "adaptive random": (COLOURS["adaptive_random"], MARKERS["adaptive_random"]),
}
SPEED_UP = "speed-up over full adversarial training (medians of epochs)"


# ---- what is drawn: Figures 3 to 5


def over_seeds(table: pd.DataFrame, by: list[str], measures: list[str]) -> pd.DataFrame:
    """Mean and sample standard deviation (`<measure>_std`; NaN for one seed) of `measures` for each
    of `by`.
    """
    groups = table.groupby(by, sort=False)[measures]
    return groups.mean().join(groups.std().add_suffix("_std")).reset_index()


def note(table: pd.DataFrame, width: int = 160) -> str:
    """What the points are: profile, data, network, and what the error bars mean."""
    n = int(table.seeds.iloc[0])
    bars = (
        "one seed, no error bars"
        if n == 1
        else f"mean and standard deviation (bars) of n = {n} seeds"
    )
    about = [
        f"profile {table.profile.iloc[0]}",
        *table["data"].unique(),
        *table.network.unique(),
        bars,
    ]
    return textwrap.fill(", ".join(about), width)


def figure3(table: pd.DataFrame) -> Figure:
    """Figure 3: robust accuracy against the linf norm of the attack, a curve a training."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for (curve, name), part in table.groupby(["curve", "method"], sort=False):
        method = name.removeprefix("adv_")
        colour, marker = FAT if curve == "FAT" else (COLOURS[method], MARKERS[method])
        points = over_seeds(part, ["epsilon_255"], ["racc_pct"]).sort_values("epsilon_255")
        label = f"{curve}, {'all the data' if method == 'full' else columns.LABELS[method]}"
        axis.plot(
            points.epsilon_255,
            points.racc_pct,
            marker=marker,
            color=colour,
            label=label,
            clip_on=False,
        )
        low, high = points.racc_pct - points.racc_pct_std, points.racc_pct + points.racc_pct_std
        axis.fill_between(points.epsilon_255, low, high, color=colour, alpha=0.2, linewidth=0)
    trained = table.training_epsilon_255.iloc[0]
    axis.axvline(
        trained,
        color="#555555",
        linestyle="--",
        linewidth=1,
        label=f"norm of the training, {trained:g}/255",
    )
    axis.set(
        xlabel=r"$\ell_\infty$ norm of the attack (1/255)",
        ylim=(0, None),
        ylabel=f"robust accuracy, PGD-{table.steps.iloc[0]:g} (%)",
    )
    axis.legend(fontsize=9)
    axis.set_title(note(table, 110).replace("(bars)", "(shaded)"), fontsize=7, color="#555555")
    return figure


def trace(
    axis, part: pd.DataFrame, by: str, measure: str, look: tuple[str, str], label: str, **line
):
    """One line of relative errors against speed-up with error bars over seeds, from the largest
    `by` to the least.
    """
    points = over_seeds(part, [by], ["speedup_median_x", measure]).sort_values(by, ascending=False)
    bars = {
        f"{end}err": points[f"{name}_std"]
        for end, name in (("x", "speedup_median_x"), ("y", measure))
    }
    colour, marker = look
    line |= bars if len(part) > len(points) else {}
    return axis.errorbar(
        points.speedup_median_x,
        points[measure],
        color=colour,
        marker=marker,
        label=label,
        capsize=2,
        elinewidth=1,
        **line,
    )


def full_training(axis) -> None:
    """Where full training stands: speed-up 1, relative error 0."""
    axis.axhline(0, color="#555555", linestyle=":", linewidth=1, zorder=0)
    axis.plot(1, 0, MARKERS["full"], color=COLOURS["full"], markersize=11, label="Full", zorder=3)


def figure4(table: pd.DataFrame) -> Figure:
    """Figure 4: relative robust error against speed-up, over coreset sizes (left) and warm starts
    (right).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4), sharey=True)
    measure = "relative_robust_error_pct"
    for axis in (left, right):
        full_training(axis)
        axis.set(xlabel=SPEED_UP)
    sizes = table[table.series == "size"]
    for method in ("random", "adaptive_random", "adv_gradmatch"):
        name = method.removeprefix("adv_")
        trace(
            left,
            sizes[sizes.method == method],
            "coreset_fraction",
            measure,
            (COLOURS[name], MARKERS[name]),
            columns.LABELS[name],
        )
    left.set(title=f"coreset sizes {spelt(sizes.coreset_fraction)}", ylabel=error_label("robust"))
    warm = table[table.series == "warm_start"]
    values, marks = sorted(warm.warm_start.unique()), "vs^oDPX"
    for i, value in enumerate(values):
        look = plt.get_cmap("cividis")(i / max(1, len(values) - 1) * 0.85), marks[i % len(marks)]
        trace(
            right,
            warm[warm.warm_start == value],
            "warm_start",
            measure,
            look,
            f"warm start {100 * value:g} %",
            linestyle="",
        )
    right.set(title=f"{columns.LABELS['gradmatch']}, coreset size {spelt(warm.coreset_fraction)}")
    for axis in (left, right):
        axis.legend(fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.suptitle(note(table), fontsize=7, color="#555555")
    return figure


def figure5(table: pd.DataFrame) -> Figure:
    """Figure 5: relative clean (a, c) and robust error (b, d) against speed-up for CRAIG (a, b),
    GradMatch (c, d).
    """
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 7), sharex=True, sharey="col")
    panels = [
        (selector, kind) for selector in ("craig", "gradmatch") for kind in ("clean", "robust")
    ]
    for letter, (selector, kind), axis in zip("abcd", panels, axes.flat, strict=True):
        full_training(axis)
        for version, look in VERSIONS.items():
            part = table[
                (table.version == version)
                & table.method.isin((f"adv_{selector}", "adaptive_random"))
            ]
            trace(
                axis,
                part,
                "coreset_fraction",
                f"relative_{kind}_error_pct",
                look,
                version,
                linestyle="--" if version == "adaptive random" else "-",
            )
        axis.set(
            title=f"({letter}) {columns.LABELS[selector]}, {kind} error", ylabel=error_label(kind)
        )
    for axis in axes[1]:
        axis.set(xlabel=SPEED_UP)
    figure.legend(*axis.get_legend_handles_labels(), ncols=5, loc="outside lower center")
    sizes = f"coreset sizes {spelt(table.coreset_fraction[table.version.notna()])}"
    figure.suptitle(f"{sizes}, from left to right; {note(table)}", fontsize=7, color="#555555")
    return figure


def error_label(kind: str) -> str:
    return f"relative {kind} error,\n(error - error of full) / error of full (%)"


def spelt(fractions: pd.Series) -> str:
    """Distinct fractions, the largest first: 50, 40 %."""
    return (
        ", ".join(f"{100 * value:g}" for value in sorted(fractions.unique(), reverse=True)) + " %"
    )
