"""The house style of every figure: colours, markers, files."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from acslib.paper import files

# Okabe and Ito's palette, safe for colour-blind eyes; a marker each, so that print in grey works
# too
COLOURS = {
    "full": "#000000",
    "craig": "#D55E00",
    "gradmatch": "#0072B2",
    "random": "#999999",
    "adaptive_random": "#009E73",
}
MARKERS = {"full": "*", "craig": "s", "gradmatch": "o", "random": "v", "adaptive_random": "^"}
FOLDER = files.RESULTS.parent / "figures"


def style() -> None:
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
            "axes.prop_cycle": plt.cycler(color=list(COLOURS.values())),
            "pdf.fonttype": 42,
        }
    )


def save_figure(figure: Figure, name: str, profile: str) -> Path:
    """Write figures/<profile>/<name>.pdf and .png; gives the PDF's path."""
    folder = FOLDER / profile
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png")
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    return folder / f"{name}.pdf"
