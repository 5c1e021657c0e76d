"""The methods that the paper and we compare: what they select, and how they look in tables.

The one list of methods: whatever is drawn, listed, built or ordered by method reads `METHODS`.
Colours are Okabe and Ito's palette, safe for colour-blind eyes. Each method has a marker as well,
so that print in grey works too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Method:
    """A way to choose what a run trains on.

    selector: builds what selects, (setting, seed) -> selector, by itself or as "module:name", so
    that this list is read without torch; None for full training. printed: the method's value in the
    column `method` of CSVs.
    """

    name: str
    label: str
    colour: str
    marker: str
    printed: str
    selector: str | Callable[..., Any] | None = None

    @property
    def selects(self) -> bool:
        return self.selector is not None


BUILD = "acslib.paper.build"
METHODS = {
    method.name: method
    for method in (
        Method("full", "Full", "#000000", "*", "full"),
        Method("craig", "Adv. CRAIG", "#D55E00", "s", "adv_craig", f"{BUILD}:craig"),
        Method(
            "gradmatch", "Adv. GradMatch", "#0072B2", "o", "adv_gradmatch", f"{BUILD}:gradmatch"
        ),
        Method("random", "Random", "#999999", "v", "random", f"{BUILD}:random"),
        Method(
            "adaptive_random",
            "Adaptive random",
            "#009E73",
            "^",
            "adaptive_random",
            f"{BUILD}:adaptive_random",
        ),
    )
}
