"""Random draws that a resumed run repeats."""

from __future__ import annotations

import contextlib
import operator
import random
from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np
import torch

SEEDS_APART = 100_003  # an epoch's draws come from seed * SEEDS_APART + epoch


def check_seed(seed: object) -> None:
    """Raise ValueError unless torch's generators take it."""
    if not isinstance(seed, SupportsIndex) or not -(2**63) <= operator.index(seed) < 2**64:
        raise ValueError(f"seed is {seed!r}: give a whole number of at most 64 bits")


def seed_of(seed: int, epoch: int) -> int:
    """One seed for each epoch of a run, of at most 64 bits."""
    whole = seed * SEEDS_APART + epoch
    return whole if abs(whole) < 2**62 else whole % 2**62


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
