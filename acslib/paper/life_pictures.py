"""The picture of `life`: how the error of a coreset grows."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acslib.paper.life import CONDITIONS, TRAINED_DRAWS, VIEWS
from acslib.paper.seen import as_sentence, described, from_to, listed
from acslib.paper.style import QUIET, line, looks


def figure_life(table: pd.DataFrame) -> Figure:
    """A panel a condition: relative error against epochs since the selection, a line a method and
    view. What is random is the mean of the draws that were trained on.
    """
    figure, axes = plt.subplots(1, len(CONDITIONS), figsize=(13, 4.4), sharey=True, squeeze=False)
    table = table[table.draw < TRAINED_DRAWS]
    for axis, condition in zip(axes[0], CONDITIONS, strict=True):
        draw(axis, table[table.condition == condition])
        axis.set(title=condition, xlabel="epochs since the selection")
    axes[0][0].set(ylabel="relative gradient error, eq. (12)", ylim=(0, None))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, fontsize=8, loc="outside lower center")
    said = [life_in_words(table[table.condition == name], name) for name in CONDITIONS]
    what = "Relative gradient error from the first to the last epoch after a selection, in a panel"
    views = f"for {listed(VIEWS.values())}"
    return described(figure, f"{what} for each way of training; {views}. {' '.join(said)}")


def life_in_words(table: pd.DataFrame, condition: str) -> str:
    """What one panel of `figure_life` shows: where the lines of each view begin and end."""
    said = []
    for name, part in table.groupby("method", sort=False):
        views = [one.groupby("epoch").error.mean() for _, one in part.groupby("view", sort=False)]
        ends = (from_to(*errors.iloc[[0, -1]]) for errors in views)
        said.append(f"{looks(table.method)[name].label} {listed(ends)}")
    return as_sentence(f"{condition}: {'; '.join(said)}")


STYLES = {"chosen": "-", "crops": "--", "weights": ":"}


def draw(axis: Axes, table: pd.DataFrame) -> None:
    """A line a method and view: the mean error over seeds, epoch by epoch."""
    known = looks(table.method)
    for (name, which), part in table.groupby(["method", "view"], sort=False):
        points = part.groupby("epoch").error.mean()
        label = f"{known[name].label}: {VIEWS[which]}"
        look = line(known[name]) | {"linestyle": STYLES[which], "markersize": 4}
        axis.plot(points.index, points, label=label, **look)
    axis.axhline(1, color=QUIET, linewidth=0.8)
    axis.set_xticks(sorted(table.epoch.unique()))
