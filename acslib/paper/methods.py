"""The methods that the paper and we compare: their names, and how they look in tables and figures.

Colours are Okabe and Ito's palette, safe for colour-blind eyes. Each method has a marker as well, so
that print in grey works too.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A way to choose what a run trains on. `printed` is its value in the column `method` of CSVs."""

    name: str
    label: str
    colour: str
    marker: str
    printed: str


METHODS = {
    method.name: method
    for method in (
        Method("full", "Full", "#000000", "*", "full"),
        Method("craig", "Adv. CRAIG", "#D55E00", "s", "adv_craig"),
        Method("gradmatch", "Adv. GradMatch", "#0072B2", "o", "adv_gradmatch"),
        Method("random", "Random", "#999999", "v", "random"),
        Method("adaptive_random", "Adaptive random", "#009E73", "^", "adaptive_random"),
    )
}
