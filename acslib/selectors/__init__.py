"""Coreset selection: which samples to train on, and with what weights (eq. 12).

A selector is any callable `f(gradients, budget) -> Coreset`. `gradients` is a LastLayerGradients or
an (n, d) tensor, and the same call on either gives the same coreset.

- `gradmatch` (Algorithm 3) and `craig` (Algorithm 2), each with a plain version in its file;
- `el2n`, `entropy`, `hardest`, `easiest`, which score each sample by itself;
- `Random(seed)` and `AdaptiveRandom(seed)`, which see no gradients;
- `BatchWise(selector, batch_size, seed)`, `PerClass(selector)`, `Unweighted(selector)` and
  `BiasOnly(selector)`, which are made of a selector.

The solvers run in float64 on the CPU, in one thread, whatever the gradients' type and device. Ties,
to rounding, go to the lower index.
"""

from acslib.selectors.chance import AdaptiveRandom, Random, random
from acslib.selectors.coreset import (
    Coreset,
    Gradients,
    Selector,
    check_coreset,
    gradient_error,
    most_returned,
    needed_fields,
    needs_gradients,
)
from acslib.selectors.craig import craig, plain_craig
from acslib.selectors.gradmatch import gradmatch, gram_rows_held, plain_gradmatch, rank_limit
from acslib.selectors.grouped import (
    BatchWise,
    BiasOnly,
    PerClass,
    Unweighted,
    batch_wise,
    per_class,
)
from acslib.selectors.kernels import compile_kernels
from acslib.selectors.scores import Score, easiest, el2n, entropy, hardest, input_gradient_norms

__all__ = [
    "AdaptiveRandom",
    "BatchWise",
    "BiasOnly",
    "Coreset",
    "Gradients",
    "PerClass",
    "Random",
    "Score",
    "Selector",
    "Unweighted",
    "batch_wise",
    "check_coreset",
    "compile_kernels",
    "craig",
    "easiest",
    "el2n",
    "entropy",
    "gradient_error",
    "gradmatch",
    "gram_rows_held",
    "hardest",
    "input_gradient_norms",
    "most_returned",
    "needed_fields",
    "needs_gradients",
    "per_class",
    "plain_craig",
    "plain_gradmatch",
    "random",
    "rank_limit",
]
