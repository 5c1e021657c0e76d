"""Random draws that a resumed run repeats."""

from __future__ import annotations

import contextlib
import operator
import random
from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np
import torch


def check_seed(seed: object) -> None:
    """Raise ValueError unless torch's generators take it."""
    if not isinstance(seed, SupportsIndex) or not -(2**63) <= operator.index(seed) < 2**64:
        raise ValueError(f"seed is {seed!r}: give a whole number of at most 64 bits")


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within it the global generators of torch, numpy and Python draw what `seed` gives.

    Outside they go on as if nothing had been drawn. Dropout, attacks without a generator and
    augmentations of one's own draw from them.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global one)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
