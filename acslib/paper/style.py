"""The house style of every figure: how methods look, text that is no mathematics, files."""

import io
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure

from acslib.paper import files
from acslib.paper.methods import METHODS, Method

FOLDER = files.RESULTS.parent / "figures"
PAPER = "#AAAAAA"  # what the paper prints, beside ours
QUIET = "#555555"  # lines and sentences that only explain
# for methods of a CSV that nobody has registered here: the rest of Okabe and Ito's palette
SPARE = (("#CC79A7", "D"), ("#E69F00", "P"), ("#56B4E9", "X"), ("#F0E442", "d"))


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


def looks(values: Iterable[str]) -> dict[str, Method]:
    """How each method of a CSV's column `method` looks, in the order of the column.

    A method that is not registered here has its own name and a look that is left.
    """
    known = {method.printed: method for method in METHODS.values()}
    taken = {method.colour for method in METHODS.values()}
    spare = cycle([look for look in SPARE if look[0] not in taken] or SPARE)
    return {
        value: known.get(value) or Method(value, value, *next(spare), value)
        for value in dict.fromkeys(values)
    }


def line(method: Method) -> dict[str, Any]:
    """What matplotlib draws a method's line and marks with."""
    return {"color": method.colour, "marker": method.marker}


def literal(text: str) -> str:
    """Text as it stands: in words that others wrote, a dollar sign begins no mathematics."""
    return text.replace("$", r"\$")


def described(figure: Figure, text: str) -> Figure:
    """The figure with what is seen on it in words, which `notebook.show` hands on."""
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
        files.write_atomically(folder / f"{name}.{kind}", content.getvalue())
    return folder / f"{name}.pdf"
