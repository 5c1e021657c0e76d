"""How many inner products a selection will hold, to be known before anything is trained."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from acslib.gradients import LastLayerGradients, Samples
from acslib.selectors.gradmatch import check_pursuit, gradmatch
from acslib.selectors.grouped import BatchWise, BiasOnly, PerClass, Unweighted


def check_memory(
    selector: Any,
    samples: Samples,
    budget: int,
    gradients: LastLayerGradients,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Raise ValueError where a selection of `budget` of the samples cannot fit in memory.

    gradients: those of a few, which tell how long they are. options: what the selector will be
    called with besides. It knows this library's selectors and what wraps them; one's own is not
    asked, and CRAIG fits at any size.
    """
    n = len(samples)
    if isinstance(selector, functools.partial):
        given = {**selector.keywords, **options}
        check_memory(selector.func, samples, budget, gradients, given)
    elif isinstance(selector, Unweighted):
        check_memory(selector.selector, samples, budget, gradients)
    elif isinstance(selector, BiasOnly):
        check_memory(selector.selector, samples, budget, gradients.bias_only())
    elif isinstance(selector, BatchWise):
        groups = len(np.unique(selector.assignment(samples).numpy()))
        share = -(-budget * groups // max(n, 1))
        check_memory(selector.selector, Samples(groups), share, gradients)
    elif isinstance(selector, PerClass) and samples.labels is not None:
        largest = int(samples.labels.bincount().max()) if n else 0
        share = -(-budget * largest // max(n, 1))
        check_memory(selector.selector, Samples(largest), share, gradients)
    elif selector is gradmatch:
        ridge, sampled = options.get("ridge", 0.0), bool(options.get("epsilon", 0.0))
        check_pursuit((n, gradients.shape[1]), budget, ridge, sampled)
