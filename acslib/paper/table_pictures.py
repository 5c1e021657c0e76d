"""Tables as pictures, drawn from their CSVs, the paper's numbers in grey."""

from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from acslib.paper import columns
from acslib.paper.methods import FULL, Method
from acslib.paper.seen import as_sentence, brief, described, listed, span
from acslib.paper.style import PAPER, label_of, line, literal, looks

OTHERS = "paper (its data and networks)"


def legend(figure: Figure, handles: list, labels: list[str]) -> None:
    """One legend below all panels, the paper's open grey marks last."""
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
    what = f"{ylabel or 'robust accuracy (%)'} upwards against speed-up, the paper's marks in grey"
    said = [trades_in_words(part, f"{measure}{mean}_pct") for part in by_setting(gathered)]
    return described(figure, f"A panel a setting, {what}. {' '.join(said)}")


def by_setting(gathered: pd.DataFrame) -> list[pd.DataFrame]:
    return [part for _, part in gathered.groupby("setting", sort=False)]


def trades_in_words(part: pd.DataFrame, measure: str) -> str:
    """What one panel of `tradeoff` shows: full training, and from where to where the others go."""
    full, others = part[part.method == FULL.printed], part[part.method != FULL.printed]
    first = part.iloc[0]
    said = [f"{FULL.label} {brief(value)} %" for value in full[measure]]
    if len(others):
        fast = span(others.speedup_median_x)
        said.append(f"the others {span(others[measure])} % at speed-ups {fast}")
    who = f"{first.model} {columns.objective_title(first.objective)}, {first.dataset}"
    return as_sentence(f"{who}: {listed(said)}")


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
    said = [attacks_in_words(part, columns.single_attacks(part)) for part in parts]
    what = "A panel a data set, a mark a method in a column for each attack, the paper's in grey"
    return described(figure, f"{what}. {' '.join(said)}")


def attacks_in_words(part: pd.DataFrame, attacks: dict[str, str]) -> str:
    """What one panel of `attack_panels` shows: between which accuracies each column's marks are."""
    said = (f"{title} {span(part[name])} %" for name, title in attacks.items())
    return as_sentence(f"{part.dataset.iloc[0]}: {listed(said)}")


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
