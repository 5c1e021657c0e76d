"""Figures 3 to 5, drawn from CSVs: nothing here trains or attacks.

Every method of a CSV is drawn, in the order of the CSV.
"""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from acslib.paper.methods import FULL, METHODS
from acslib.paper.seen import as_sentence, described, from_to, listed
from acslib.paper.style import QUIET, label_of, literal, looks, note

FAT = ("#D55E00", "s")  # FAT's colour and marker; the other curves have those of their method
SPEED_UP = "speed-up over full adversarial training (medians of epochs)"


# ---- what they share


def over_seeds(table: pd.DataFrame, by: list[str], measures: list[str]) -> pd.DataFrame:
    """Mean and sample deviation (`<measure>_std`, NaN for one seed) of `measures` by `by`."""
    groups = table.groupby(by, sort=False)[measures]
    return groups.mean().join(groups.std().add_suffix("_std")).reset_index()


def spelt(fractions: pd.Series) -> str:
    """Distinct fractions, the largest first: 50, 40 %."""
    values = sorted(fractions.unique(), reverse=True)
    return ", ".join(f"{100 * value:g}" for value in values) + " %"


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
    said = [
        errors_in_words(pd.concat([chosen[chosen.method == value], in_all]), label_of(look), kind)
        for value, look in own.items()
        for kind in ("clean", "robust")
    ]
    what = f"relative errors against speed-up, a panel for each method and error, {sizes}"
    return described(figure, f"Lines of {what}. {' '.join(said)}")


def errors_in_words(part: pd.DataFrame, label: str, kind: str) -> str:
    """What one panel of Figure 5 shows: from where to where its lines go as coresets shrink."""
    said = []
    for name, line in part.groupby(part.version.fillna(part.method), sort=False):
        errors = line.groupby("coreset_fraction")[f"relative_{kind}_error_pct"].mean()[::-1]
        ends = from_to(*errors.iloc[[0, -1]])
        said.append(f"{str(name).replace('_', ' ')} {ends} %")
    return as_sentence(f"{label}, {kind} error: {listed(said)}")


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
