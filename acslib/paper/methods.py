"""The methods that the paper and we compare: what they select, and how they look in tables.

The one list of methods: whatever is drawn, listed, built or ordered by method reads `METHODS`.
`acslib.paper.register.method` adds one's own. Colours are Okabe and Ito's palette, then Tol's, safe
for colour-blind eyes. Each method has a marker as well, so that print in grey works too.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from acslib.paper.plugins import PluginError, Registry


@dataclass(frozen=True)
class Method:
    """A way to choose what a run trains on.

    selector: builds what selects, (setting, seed) -> selector, by itself or as "module:name", so
    that this list is read without torch; None for full training. printed: the method's value in the
    column `method` of CSVs. items: the tables and figures that get the method wherever they have
    gradmatch, though their files do not name it.
    """

    name: str
    label: str
    colour: str
    marker: str
    printed: str
    selector: str | Callable[..., Any] | None = None
    items: tuple[str, ...] = ()

    @property
    def selects(self) -> bool:
        return self.selector is not None


BUILD = "acslib.paper.selecting"
BUILT_IN = {
    method.name: method
    for method in (
        Method("full", "Full", "#000000", "*", "full"),
        Method("craig", "Adv. CRAIG", "#D55E00", "s", "adv_craig", f"{BUILD}:build_craig"),
        Method(
            "gradmatch",
            "Adv. GradMatch",
            "#0072B2",
            "o",
            "adv_gradmatch",
            f"{BUILD}:build_gradmatch",
        ),
        Method("random", "Random", "#999999", "v", "random", f"{BUILD}:build_random"),
        Method(
            "adaptive_random",
            "Adaptive random",
            "#009E73",
            "^",
            "adaptive_random",
            f"{BUILD}:build_adaptive_random",
        ),
        Method("el2n", "EL2N", "#E69F00", "D", "el2n", f"{BUILD}:build_el2n"),
        Method("easiest", "EasyCore", "#CC79A7", "P", "easiest", f"{BUILD}:build_easiest"),
    )
}
METHODS: Registry[Method] = Registry("method", BUILT_IN)
FULL = METHODS["full"]


# ---- how those look that are not built in

# Okabe and Ito's that are left, without the yellow that paper swallows; then Tol's "muted"
COLOURS = ("#56B4E9", "#332288", "#882255", "#44AA99", "#DDCC77", "#661100")
MARKERS = "X<>phd8H"
KNOWN_MARKERS = ".,ov^<>12348spP*hH+xXDd|_"  # matplotlib's


def free_look(others: Iterable[Method]) -> tuple[str, str]:
    """A colour and a marker that none of the others has; one of several where all are taken."""
    others = list(others)
    return (
        _free(COLOURS, {method.colour.upper() for method in others}),
        _free(MARKERS, {method.marker for method in others}),
    )


def _free(offered: Sequence[str], taken: set[str]) -> str:
    return next((one for one in offered if one not in taken), offered[len(taken) % len(offered)])


def checked_colour(colour: str) -> str:
    if not (isinstance(colour, str) and re.fullmatch("#[0-9A-Fa-f]{6}", colour)):
        raise PluginError(f"the colour is {colour!r}: write it like #E69F00")
    return colour


def checked_marker(marker: str) -> str:
    if not (isinstance(marker, str) and len(marker) == 1 and marker in KNOWN_MARKERS):
        raise PluginError(f"the marker is {marker!r}: take one of {' '.join(KNOWN_MARKERS)}")
    return marker
