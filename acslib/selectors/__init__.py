"""Coreset selection: which samples to train on, and with what weights (eq. 12, Algorithms 2 and 3).

A selector is any callable `f(gradients, budget) -> Coreset`; `gradients` is a LastLayerGradients or
an (n, d) tensor, and the same call on either gives the same coreset. `per_class` and `batch_wise`
apply a selector within classes or to batches. The solvers run in float64 on the CPU whatever the
gradients' type and device; ties, to rounding, go to the lower index.
"""

from acslib.selectors.chance import adaptive_random, random
from acslib.selectors.coreset import Coreset, Gradients, Selector, gradient_error
from acslib.selectors.craig import craig
from acslib.selectors.gradmatch import gradmatch, gram_rows_held
from acslib.selectors.grouped import batch_wise, per_class

__all__ = [
    "Coreset",
    "Gradients",
    "Selector",
    "adaptive_random",
    "batch_wise",
    "craig",
    "gradient_error",
    "gradmatch",
    "gram_rows_held",
    "per_class",
    "random",
]
