"""The house style of every figure: how methods look, text that is no mathematics, files."""

import io
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from cycler import cycler
from matplotlib.figure import Figure

from acslib.paper import files
from acslib.paper.methods import METHODS, Method, free_look
from acslib.paper.printing import html_image
from acslib.paper.seen import in_words

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
            # a ground of its own: black axes are to be read on a dark page, too
            "figure.facecolor": "white",
            "savefig.facecolor": "auto",
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
        say_in_words(shell)


def say_in_words(shell: Any) -> None:
    """Whatever shows a picture in this shell, a cell's end or a slider: its alternative text and
    the text that stands for it say what is seen.
    """
    import matplotlib_inline.backend_inline  # noqa: F401  (its import forgets formatters)

    formatter = shell.display_formatter
    texts, images = formatter.formatters["text/plain"], formatter.formatters["image/png"]
    texts.for_type(Figure, lambda figure, printer, cycle: printer.text(in_words(figure)))
    if draw := images.for_type(Figure):  # nothing where no picture can be shown, or it is done
        images.pop(Figure)
        formatter.mimebundle_formatter.for_type(Figure, WithWords(draw))


class WithWords:
    """A figure as a picture that says what is seen.

    Twice, since nobody reads both: JupyterLab reads the alternative text of HTML alone, and others
    that beside the PNG.
    """

    def __init__(self, draw: Callable[[Figure], Any]) -> None:
        self.draw = draw

    def __call__(self, figure: Figure) -> tuple[dict[str, str], dict[str, Any]]:
        """The picture by its formats, and what a notebook keeps beside it."""
        made = self.draw(figure)
        picture, size = made if isinstance(made, tuple) else (made, {})
        words = in_words(figure)
        shown = {"image/png": picture, "text/html": html_image(words, picture, **size)}
        return shown, {"image/png": size | {"alt": words}}


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
