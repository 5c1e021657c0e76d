"""How many inner products a selection will hold, to be known before anything is trained."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from acslib.gradients import Samples, check_gram
from acslib.selectors.craig import craig
from acslib.selectors.gradmatch import gradmatch, gram_rows_held
from acslib.selectors.grouped import BatchWise, BiasOnly, PerClass, Unweighted


def check_memory(selector: Any, samples: Samples, budget: int) -> None:
    """Raise ValueError where a selection of `budget` of the samples cannot fit in memory.

    It knows this library's selectors and what wraps them; one's own is not asked.
    """
    if isinstance(selector, functools.partial):
        check_memory(selector.func, samples, budget)
    elif isinstance(selector, Unweighted | BiasOnly):
        check_memory(selector.selector, samples, budget)
    elif isinstance(selector, BatchWise):
        groups = len(np.unique(selector.assignment(samples).numpy()))
        share = -(-budget * groups // max(len(samples), 1))
        check_memory(selector.selector, Samples(groups), share)
    elif isinstance(selector, PerClass) and samples.labels is not None:
        largest = int(samples.labels.bincount().max()) if len(samples) else 0
        share = -(-budget * largest // max(len(samples), 1))
        check_memory(selector.selector, Samples(largest), share)
    elif selector is craig:
        check_gram(len(samples), len(samples))
    elif selector is gradmatch:
        check_gram(gram_rows_held(len(samples), budget), len(samples))
