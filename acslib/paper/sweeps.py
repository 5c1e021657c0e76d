"""Pictures of any item, as one of one's own: accuracies against what varies."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acslib.paper import columns, table_pictures
from acslib.paper.methods import FULL
from acslib.paper.settings import owner
from acslib.paper.style import QUIET, label_of, line, literal, looks, note

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
        return table_pictures.tradeoff(
            table, *(() if "racc_pct" in table else ("racc_unseen", "_mean"))
        )
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
