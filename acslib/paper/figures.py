"""Figures 3 to 5, and tables as pictures, drawn from CSVs: nothing here trains or attacks.

Every method of a CSV is drawn, in the order of the CSV.
"""

import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from acslib.paper import columns
from acslib.paper.methods import METHODS, Method
from acslib.paper.settings import owner
from acslib.paper.style import PAPER, QUIET, line, literal, looks

FULL = METHODS["full"]
FAT = ("#D55E00", "s")  # FAT's colour and marker; the other curves have those of their method
SPEED_UP = "speed-up over full adversarial training (medians of epochs)"
OTHERS = "paper (its data and networks)"


# ---- what they share


def over_seeds(table: pd.DataFrame, by: list[str], measures: list[str]) -> pd.DataFrame:
    """Mean and sample deviation (`<measure>_std`, NaN for one seed) of `measures` by `by`."""
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
    return literal(textwrap.fill(", ".join(about), width))


def spelt(fractions: pd.Series) -> str:
    """Distinct fractions, the largest first: 50, 40 %."""
    values = sorted(fractions.unique(), reverse=True)
    return ", ".join(f"{100 * value:g}" for value in values) + " %"


def label_of(method: Method) -> str:
    """A method's name in a legend."""
    return literal(method.label)


def full_training(axis: Axes) -> None:
    """Where full training stands: speed-up 1, relative error 0."""
    axis.axhline(0, color=QUIET, linestyle=":", linewidth=1, zorder=0)
    axis.plot(1, 0, FULL.marker, color=FULL.colour, markersize=11, label=FULL.label, zorder=3)


def error_label(kind: str) -> str:
    """What an axis of relative errors is called; `kind` is clean or robust."""
    return f"relative {kind} error,\n(error - error of full) / error of full (%)"


def trace(
    axis: Axes,
    part: pd.DataFrame,
    by: str,
    measure: str,
    look: tuple[Any, str],
    label: str,
    **options,
) -> None:
    """One line of relative errors against speed-up with error bars over seeds, from the largest
    `by` to the least.
    """
    points = over_seeds(part, [by], ["speedup_median_x", measure]).sort_values(by, ascending=False)
    if len(part) > len(points):
        options |= {"xerr": points.speedup_median_x_std, "yerr": points[f"{measure}_std"]}
    axis.errorbar(
        points.speedup_median_x,
        points[measure],
        color=look[0],
        marker=look[1],
        label=label,
        capsize=2,
        elinewidth=1,
        **options,
    )


# ---- Figure 3


def figure3(table: pd.DataFrame) -> Figure:
    """Figure 3: robust accuracy against the linf norm of the attack, a curve a training."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    methods = looks(table.method)
    for (curve, value), part in table.groupby(["curve", "method"], sort=False):
        method = methods[value]
        fast = curve == "FAT" and method == FULL
        colour, marker = FAT if fast else (method.colour, method.marker)
        label = f"{curve}, {'all the data' if method == FULL else method.label}"
        draw_attack_curve(axis, part, colour, marker, literal(label))
    trained = table.training_epsilon_255.iloc[0]
    label = f"norm of the training, {trained:g}/255"
    axis.axvline(trained, color=QUIET, linestyle="--", linewidth=1, label=label)
    axis.set(
        xlabel=r"$\ell_\infty$ norm of the attack (1/255)",
        ylim=(0, None),
        ylabel=f"robust accuracy, PGD-{table.steps.iloc[0]:g} (%)",
    )
    axis.legend(fontsize=9)
    axis.set_title(note(table, 110).replace("(bars)", "(shaded)"), fontsize=7, color=QUIET)
    return figure


def draw_attack_curve(axis: Axes, part: pd.DataFrame, colour: str, marker: str, label: str) -> None:
    """One training's mean over seeds, its standard deviation shaded."""
    points = over_seeds(part, ["epsilon_255"], ["racc_pct"]).sort_values("epsilon_255")
    axis.plot(
        points.epsilon_255, points.racc_pct, marker=marker, color=colour, label=label, clip_on=False
    )
    low, high = points.racc_pct - points.racc_pct_std, points.racc_pct + points.racc_pct_std
    axis.fill_between(points.epsilon_255, low, high, color=colour, alpha=0.2, linewidth=0)


# ---- Figure 4


def figure4(table: pd.DataFrame) -> Figure:
    """Figure 4: relative robust error by speed-up: coreset sizes (left), warm starts (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4), sharey=True)
    for axis in (left, right):
        full_training(axis)
        axis.set(xlabel=SPEED_UP)
    chosen = table[table.method != FULL.printed]
    warm = chosen.series == "warm_start"
    coreset_sizes(left, chosen[~warm])
    warm_starts(right, chosen[warm])
    for axis in (left, right):
        axis.legend(fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.suptitle(note(table), fontsize=7, color=QUIET)
    return figure


def coreset_sizes(axis: Axes, sizes: pd.DataFrame) -> None:
    """A line a method, from its largest coreset to its smallest."""
    for value, method in looks(sizes.method).items():
        part, look = sizes[sizes.method == value], (method.colour, method.marker)
        trace(axis, part, "coreset_fraction", "relative_robust_error_pct", look, label_of(method))
    title = f"coreset sizes {spelt(sizes.coreset_fraction)}"
    axis.set(title=title, ylabel=error_label("robust"))


def warm_starts(axis: Axes, warm: pd.DataFrame) -> None:
    """A mark a warm start in its method's colour and shape: the longer, the larger and lighter."""
    methods = looks(warm.method)
    values, measure = sorted(warm.warm_start.unique()), "relative_robust_error_pct"
    for value, method in methods.items():
        several = f"{label_of(method)}, " if len(methods) > 1 else ""
        for start, part in warm[warm.method == value].groupby("warm_start"):
            place = values.index(start) / max(1, len(values) - 1)
            label = f"{several}warm start {100 * start:g} %"
            look = {
                "linestyle": "",
                "markersize": 5 + 6 * place,
                "markerfacecolor": lighter(method.colour, 0.85 * place),
            }
            trace(axis, part, "warm_start", measure, (method.colour, method.marker), label, **look)
    names = ", ".join(map(label_of, methods.values()))
    axis.set(title=f"{names}, coreset size {spelt(warm.coreset_fraction)}")


def lighter(colour: str, share: float) -> tuple[float, ...]:
    """A colour mixed with white, of which there is a share."""
    return tuple(part + share * (1 - part) for part in to_rgb(colour))


# ---- Figure 5

VERSIONS = {
    "plain": ("#CC79A7", "v"),
    "batch-wise": ("#E69F00", "s"),
    "batch-wise + warm start": (METHODS["gradmatch"].colour, METHODS["gradmatch"].marker),
    "adaptive random": (METHODS["adaptive_random"].colour, METHODS["adaptive_random"].marker),
}


def figure5(table: pd.DataFrame) -> Figure:
    """Figure 5: relative errors by speed-up, clean (a, c), robust (b, d); CRAIG, then GradMatch.

    A method with several versions has a row of panels; one without stands in all of them.
    """
    chosen = table[table.method != FULL.printed]
    versions = chosen.groupby("method", sort=False).version.nunique()
    in_all = chosen[chosen.method.isin(versions.index[versions <= 1])]
    own = {value: look for value, look in looks(chosen.method).items() if versions[value] > 1}
    figure, axes = plt.subplots(
        len(own), 2, figsize=(9.6, 3.5 * len(own)), sharex=True, sharey="col", squeeze=False
    )
    panels = [(value, kind) for value in own for kind in ("clean", "robust")]
    for place, ((value, kind), axis) in enumerate(zip(panels, axes.flat, strict=True)):
        full_training(axis)
        version_lines(axis, chosen[chosen.method == value], kind, "-")
        version_lines(axis, in_all, kind, "--")
        title = f"({chr(ord('a') + place)}) {label_of(own[value])}, {kind} error"
        axis.set(title=title, ylabel=error_label(kind))
    for axis in axes[-1]:
        axis.set(xlabel=SPEED_UP)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=5, loc="outside lower center")
    sizes = f"coreset sizes {spelt(chosen.coreset_fraction)}"
    figure.suptitle(f"{sizes}, from left to right; {note(table)}", fontsize=7, color=QUIET)
    return figure


def version_lines(axis: Axes, part: pd.DataFrame, kind: str, linestyle: str) -> None:
    """A line a version of a selection; a method without versions has its own name and look."""
    methods = looks(part.method)
    names = part.version.fillna(part.method)
    for name, rows in part.groupby(names, sort=False):
        method = methods[rows.method.iloc[0]]
        look = VERSIONS.get(name, (method.colour, method.marker))
        label = label_of(method) if name == method.printed else literal(name)
        measure = f"relative_{kind}_error_pct"
        trace(axis, rows, "coreset_fraction", measure, look, label, linestyle=linestyle)


# ---- tables as pictures


def legend(figure: Figure, handles: list, labels: list[str], with_paper: bool = True) -> None:
    """One legend below all panels, the paper's open grey marks last."""
    if with_paper:
        mark = Line2D([], [], marker="o", color=PAPER, fillstyle="none", linestyle="")
        handles, labels = [*handles, mark], [*labels, OTHERS]
    figure.legend(handles, labels, ncols=6, loc="outside lower center", fontsize=9)


def tradeoff(
    gathered: pd.DataFrame, measure: str = "racc", mean: str = "", ylabel: str | None = None
) -> Figure:
    """A table as a picture: robust accuracy by speed-up, a panel a setting, the paper's in grey.

    `measure` and `mean`: which robust accuracy, as the columns `<measure><mean>_pct` have it.
    """
    names = list(gathered.setting.unique())
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure, axes = plt.subplots(down, across, figsize=(3.1 * across, 2.8 * down), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    methods = looks(gathered.method)
    for axis, name in zip(axes.flat, names, strict=False):
        part = gathered[gathered.setting == name]
        for _, row in part.iterrows():
            trade(axis, row, methods[row.method], measure, mean)
        first = part.iloc[0]
        objective = columns.objective_title(first.objective)
        axis.set_title(literal(f"{first.model}\n{objective}, {first.dataset}"), fontsize=9)
        axis.set(xlabel="speed-up (medians of epochs)", ylabel=ylabel or "robust accuracy (%)")
        axis.margins(0.15)
    handles = [Line2D([], [], linestyle="", **line(method)) for method in methods.values()]
    legend(figure, handles, list(map(label_of, methods.values())))
    return figure


def trade(axis: Axes, row: pd.Series, method: Method, measure: str, mean: str) -> None:
    """One row of a table as a mark, and the paper's as an open grey one."""
    spread = row[f"{measure}_std_pct"] if row.seeds > 1 else None
    axis.errorbar(
        row.speedup_median_x,
        row[f"{measure}{mean}_pct"],
        spread,
        ms=9 if method == FULL else 7,
        linestyle="",
        **line(method),
    )
    theirs = row.get(f"paper_{measure}{mean}_pct")
    if pd.notna(theirs):
        faster = row.get("paper_speedup_x", float("nan"))
        axis.plot(faster, theirs, method.marker, color=PAPER, fillstyle="none")


def fast_training(table: pd.DataFrame, epochs: pd.DataFrame) -> Figure:
    """Table 4 as a picture: robust accuracy epoch by epoch on training batches against one step,
    and at the right what PGD leaves on test images.

    `epochs` has a row an epoch of each method: see `curves.training_curves`.
    """
    figure, axis = plt.subplots(figsize=(7, 3.2))
    last = table.epochs.max()
    for place, (value, method) in enumerate(looks(table.method).items()):
        part = epochs[epochs.method == value]
        curve = {"markersize": 3, "label": label_of(method), **line(method)}
        axis.plot(part.epoch, part.train_robust_pct, **curve)
        axis.plot(last + 0.5 * (place + 1), part.racc_pct.iloc[0], markersize=8, **line(method))
    axis.axvline(last - 0.25, color="black", linewidth=0.6)
    axis.set(
        xlabel="epoch; right of the line: PGD on test images",
        ylabel="robust accuracy (%)",
        ylim=(0, 102),
    )
    axis.legend(fontsize=8, ncols=2)
    return figure


def half_half(table: pd.DataFrame) -> Figure:
    """Table 5 as a picture: an arrow from ONLY-Core to Half-Half, ours left, the paper's right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    sides = ((left, f"here, {table.profile.iloc[0]}", ""), (right, "in the paper", "paper_"))
    full = table[table.method == FULL.printed].iloc[0]
    for axis, title, prefix in sides:
        grey = {"color": "#888888"} if prefix else {}
        for value, method in looks(table.method[table["mode"] != "full"]).items():
            modes = table[table.method == value].set_index("mode")
            mode_arrow(axis, modes, prefix, line(method) | grey, label_of(method))
        place = [full.get(f"{prefix}{name}_pct", float("nan")) for name in ("acc", "racc")]
        axis.plot(*place, markersize=9, label=FULL.label, ls="", **line(FULL) | grey)
        axis.set(title=title, xlabel="clean accuracy (%)", ylabel="robust accuracy (%)")
        axis.margins(0.15)
    left.legend(fontsize=8)
    return figure


def mode_arrow(axis: Axes, modes: pd.DataFrame, prefix: str, look: dict, label: str) -> None:
    """One method's arrow; thin bars are standard deviations, where there are several seeds."""
    names = [f"{prefix}acc_pct", f"{prefix}racc_pct"]
    if not set(names) <= set(modes) or not {"only_core", "half_half"} <= set(modes.index):
        return
    ends = modes[names]
    if ends.isna().all(axis=None):  # a method that the paper does not have
        return
    axis.plot(*ends.loc["only_core"], label=label, linestyle="", **look)
    if not prefix and modes.seeds.iloc[0] > 1:
        x, y = ends.T.values
        bars: dict[str, Any] = {"xerr": modes.acc_std_pct, "yerr": modes.racc_std_pct}
        axis.errorbar(x, y, fmt="none", alpha=0.5, color=look["color"], elinewidth=0.7, **bars)
    tip = {"arrowstyle": "->", "color": look["color"], "lw": 1.5}
    axis.annotate("", ends.loc["half_half"], ends.loc["only_core"], arrowprops=tip)
    axis.update_datalim(ends.values)


def periods(table: pd.DataFrame) -> Figure:
    """Table 6 as a picture: robust accuracy and speed-up against the period of the selections."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    rows = table.dropna(subset="selection_freq_epochs")
    for value, method in looks(rows.method).items():
        part = rows[rows.method == value].sort_values("selection_freq_epochs")
        spread = part.racc_std_pct if part.seeds.iloc[0] > 1 else None
        against_period(left, part, "racc_pct", "paper_racc_pct", method, spread)
        against_period(right, part, "speedup_median_x", "paper_speedup_x", method)
    full = table.racc_pct[table.method == FULL.printed].item()
    left.axhline(full, color="black", linestyle=":", label=FULL.label)
    left.set(ylabel="robust accuracy (%)")
    most = right.axhline(rows.speedup_ceiling_x.max(), color="black", linestyle="--")
    right.set(ylabel="speed-up (medians of epochs)")
    handles, labels = left.get_legend_handles_labels()
    legend(figure, [*handles, most], [*labels, "at most, before selecting"])
    return figure


def against_period(
    axis: Axes, part: pd.DataFrame, measure: str, theirs: str, method: Method, spread=None
) -> None:
    """One method's line, and the paper's in grey."""
    period = part.selection_freq_epochs
    axis.errorbar(period, part[measure], spread, label=label_of(method), **line(method))
    if theirs in part:
        grey = line(method) | {"color": PAPER, "fillstyle": "none", "lw": 1}
        axis.plot(period, part[theirs], **grey)
    axis.set_xlabel("T in the paper (epochs)")


def attack_panels(table: pd.DataFrame) -> Figure:
    """Table D4 as a picture: a panel a data set, a column an attack."""
    parts = [part.dropna(axis=1, how="all") for _, part in table.groupby("dataset", sort=False)]
    figure, axes = plt.subplots(1, len(parts), figsize=(11, 3.6), squeeze=False)
    for axis, part in zip(axes[0], parts, strict=True):
        attack_columns(axis, part, columns.single_attacks(part))
    legend(figure, *axes[0, 0].get_legend_handles_labels())
    return figure


def attack_columns(axis: Axes, part: pd.DataFrame, attacks: dict[str, str]) -> None:
    """A mark a method in every column, the paper's open and grey beside it."""
    methods = looks(part.method)
    for (_, row), shift in zip(part.iterrows(), cycle(range(-2, 3)), strict=False):
        method = methods[row.method]
        look = line(method) | {"linestyle": "", "markersize": 5}
        places = [i + 0.16 * shift for i in range(len(attacks))]
        axis.plot(places, row[list(attacks)], label=label_of(method), **look)
        theirs = pd.to_numeric(row.reindex([f"paper_{name}" for name in attacks]))
        grey = look | {"color": PAPER, "fillstyle": "none"}
        axis.plot([place + 0.08 for place in places], theirs, **grey)
    axis.set(title=literal(part.dataset.iloc[0]), ylabel="accuracy (%)", ylim=(-2, 102))
    axis.set_xticks(range(len(attacks)), list(attacks.values()), rotation=30, ha="right")


# ---- items of one's own

# columns of a table: the mean, its standard deviation over seeds, what an axis of it is called
ACCURACIES = (
    ("racc_pct", "racc_std_pct", "robust accuracy (%)"),
    ("racc_unseen_mean_pct", "racc_unseen_std_pct", "robust accuracy, unseen attacks (%)"),
    ("acc_pct", "acc_std_pct", "clean accuracy (%)"),
)
FEW = 10  # values that an axis has a tick for each of
WIDE = 30  # from this ratio of its values on, an axis is logarithmic


def sweep(table: pd.DataFrame, varied: Sequence[str]) -> Figure:
    """A picture of any item: accuracies against what varies, robust ones left, a line a method.

    varied: the item's varied parameters, as `rows.varied` has them. The axis is the one with the
    most values. Each setting, and each combination of the other parameters, has a row of panels.
    Where nothing varies, the picture is `tradeoff`.
    """
    table = with_null(table, varied)
    several = [name for name in varied if table[name].nunique() > 1]
    measures = [one for one in ACCURACIES if one[0] in table and table[one[0]].notna().any()]
    if not several:
        return tradeoff(table, *(() if "racc_pct" in table else ("racc_unseen", "_mean")))
    along, *apart = sorted(several, key=lambda name: -table[name].nunique())
    panels = table[["setting", *apart]].dropna().drop_duplicates()
    size = (4.5 * len(measures), 0.8 + 2.9 * len(panels))
    figure, axes = plt.subplots(len(panels), len(measures), figsize=size, squeeze=False)
    for row, (_, panel) in zip(axes, panels.iterrows(), strict=True):
        keys = table[list(panel.index)]
        part = table[((keys == panel) | keys.isna()).all(axis=1)]
        for axis, measure in zip(row, measures, strict=True):
            sweep_lines(axis, part, along, *measure)
        title = ", ".join([panel.setting, *with_values(panel[apart])])
        row[0].set_title(literal(title), fontsize=9)
    found = [axis.get_legend_handles_labels() for axis in axes.flat]
    handles = {name: handle for both in found for handle, name in zip(*both, strict=True)}
    figure.legend(handles.values(), handles, ncols=6, loc="outside lower center", fontsize=9)
    figure.suptitle(note(table), fontsize=7, color=QUIET)
    return figure


def with_null(table: pd.DataFrame, varied: Sequence[str]) -> pd.DataFrame:
    """The table with the word null where a parameter is that. A cell that stays empty says that
    full training knows nothing of the parameter.
    """
    for name in varied:
        unknowing = (table.method == FULL.printed) & (owner(name) == "coreset")
        null = table[name].isna() & ~unknowing
        if null.any():
            table = table.assign(**{name: table[name].astype(object).mask(null, "null")})
    return table


def with_values(parameters: pd.Series) -> list[str]:
    """Parameters and their values, as a title has them."""
    return [f"{name} = {columns.value_text(value)}" for name, value in parameters.items()]


def sweep_lines(
    axis: Axes, part: pd.DataFrame, along: str, mean: str, deviation: str, name: str
) -> None:
    """A line a method along the varied parameter; level where the method knows nothing of it."""
    part = part.dropna(subset=mean)
    axis.set(xlabel=along, ylabel=name)
    place_values(axis, part[along].dropna())
    for value, method in looks(part.method).items():
        mine = part[part.method == value]
        known = mine.dropna(subset=along)
        label = label_of(method)
        if known.empty:
            axis.axhline(mine[mean].mean(), color=method.colour, linestyle=":", label=label)
            continue
        if in_numbers(part[along]):
            known = known.sort_values(along)
            places = known[along]
        else:
            places = known[along].map(columns.value_text)
        spread = known.get(deviation) if known.seeds.max() > 1 else None
        look = {"capsize": 2, "elinewidth": 1, **line(method)}
        axis.errorbar(places, known[mean], spread, label=label, **look)


def place_values(axis: Axes, values: pd.Series) -> None:
    """Ticks at the values themselves: numbers to scale, words side by side in their order."""
    distinct = list(dict.fromkeys(values))
    if not in_numbers(values):
        axis.xaxis.update_units([columns.value_text(value) for value in distinct])
        return
    if distinct and min(distinct) > 0 and max(distinct) >= WIDE * min(distinct):
        axis.set_xscale("log")
    if len(distinct) <= FEW:
        axis.set_xticks(distinct, [f"{value:g}" for value in distinct])
        axis.minorticks_off()


def in_numbers(values: pd.Series) -> bool:
    """Whether an axis of these values is one of numbers."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
