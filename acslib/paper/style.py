"""The house style of every figure: how methods look, text that is no mathematics, files."""

import io
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from acslib.paper import files
from acslib.paper.methods import METHODS, Method, free_look

FOLDER = files.figures_folder(files.RESULTS)
PAPER = "#AAAAAA"  # what the paper prints, beside ours
QUIET = "#555555"  # lines and sentences that only explain


def use() -> None:
    """The look of every figure; call it once in a notebook."""
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "lines.markersize": 6,
            "axes.prop_cycle": cycler(color=[method.colour for method in METHODS.values()]),
            "pdf.fonttype": 42,
        }
    )
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        import matplotlib_inline.backend_inline  # noqa: F401  (its import forgets formatters)

        texts = shell.display_formatter.formatters["text/plain"]
        texts.for_type(Figure, lambda figure, printer, cycle: printer.text(in_words(figure)))


def in_words(figure: Figure) -> str:
    """What a picture shows: what `described` has said of it, else its own words.

    It goes with the picture in a notebook, and the site takes it for the alternative text.
    """
    if figure.get_label():
        return str(figure.get_label())
    panels = [words for axis in figure.axes if (words := panel(axis))]
    return "A picture. " + " ".join(filter(None, [figure.get_suptitle(), *panels]))


def panel(axis: Axes) -> str:
    """The words of one panel: its title, its axes, and what is drawn on it."""
    sides = " against ".join(filter(None, [axis.get_ylabel(), axis.get_xlabel()]))
    words = [axis.get_title(), *(axis.get_title(loc=side) for side in ("left", "right"))]
    said = ": ".join(filter(None, [*words, sides, ", ".join(drawn(axis))]))
    return f"{' '.join(said.split())}." if said else ""


def drawn(axis: Axes) -> list[str]:
    """What the legend names, each line with its ends and few bars with their heights; without a
    legend the only line's.
    """
    lines = {line.get_label(): line for line in axis.get_lines()}
    bars = {each.get_label(): each for each in axis.containers if isinstance(each, BarContainer)}
    legend = axis.get_legend()
    if legend:
        named = [text.get_text() for text in legend.get_texts()]
        return [
            " ".join([name, *ends(lines.get(name)), *heights(axis, bars.get(name))])
            for name in named
        ]
    return ends(*lines.values()) if len(lines) == 1 and axis.get_ylabel() else []


def ends(line: Line2D | None) -> list[str]:
    """From where to where a line goes; nothing for a point, and for what is no line."""
    heights = np.asarray([] if line is None else line.get_ydata(orig=False), dtype=float)
    heights = heights[np.isfinite(heights)]
    return [f"from {heights[0]:.3g} to {heights[-1]:.3g}"] if len(heights) > 1 else []


def heights(axis: Axes, bars: BarContainer | None) -> list[str]:
    """How high each of up to six bars is, in the order of the places named below them."""
    if bars is None or len(bars) > 6:
        return []
    places = [tick.get_text() for tick in axis.get_xticklabels()]
    names = places if len(places) == len(bars) else [""] * len(bars)
    said = [f"{name} {bar.get_height():.3g}".strip() for name, bar in zip(names, bars, strict=True)]
    return [f"({', '.join(said)})"]


def looks(values: Iterable[str]) -> dict[str, Method]:
    """How each method of a CSV's column `method` looks, in the order of the column.

    A method that is not registered here has its own name, and a look that is free.
    """
    known = {method.printed: method for method in METHODS.values()}
    found: dict[str, Method] = {}
    for value in dict.fromkeys(values):
        if value not in known:
            known[value] = Method(value, value, *free_look(known.values()), value)
        found[value] = known[value]
    return found


def line(method: Method) -> dict[str, Any]:
    """What matplotlib draws a method's line and marks with."""
    return {"color": method.colour, "marker": method.marker}


def literal(text: str) -> str:
    """Text as it stands: in words that others wrote, a dollar sign begins no mathematics."""
    return text.replace("$", r"\$")


def label_of(method: Method) -> str:
    """A method's name in a legend."""
    return literal(method.label)


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


def described(figure: Figure, text: str) -> Figure:
    """The figure with what is seen on it in words, see `in_words`."""
    figure.set_label(text)
    return figure


def save_figure(figure: Figure, name: str, profile: str) -> Path:
    """Write figures/<profile>/<name>.png and .pdf, each whole or not at all; gives the PDF's path.

    The PDF comes last: it is what Make looks at.
    """
    folder = FOLDER / profile
    for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        content = io.BytesIO()
        figure.savefig(content, format=kind, metadata=metadata)
        files.write_file(folder / f"{name}.{kind}", content.getvalue())
    return folder / f"{name}.pdf"
