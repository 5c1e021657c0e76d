"""A training whose losses or weights are no longer finite: told when an epoch ends, or before that
where something else breaks by it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from acslib import measuring

if TYPE_CHECKING:
    from acslib.training import State


class Diverged(ValueError):
    """The loss, a weight or a gradient stopped being a number."""


@contextlib.contextmanager
def blamed_on_losses(state: State, log: measuring.EpochLog) -> Iterator[None]:
    """Losses are looked at when an epoch ends. What goes wrong before, once they or the weights are
    not finite, goes wrong because of that.
    """
    try:
        yield
    except ValueError as error:
        try:
            check_losses(state, log.own_losses())
            check_weights(state)
        except Diverged as reason:
            raise reason from error
        raise


def check_losses(state: State, losses: Sequence[float]) -> None:
    """Raise Diverged unless every batch's loss is finite."""
    for value in losses:
        if not math.isfinite(value):
            raise diverged(f"the loss became {value} in epoch {state.epoch}", state)


def check_weights(state: State) -> None:
    """Raise Diverged unless every weight and statistic is finite."""
    values = state.model.state_dict().values()
    if not torch.stack([value.isfinite().all() for value in values]).all():
        raise diverged(f"the weights are no longer finite after epoch {state.epoch}", state)


def diverged(what: str, state: State) -> Diverged:
    """The error that says what is not finite, with the learning rate and the way out."""
    rate = float(state.optimiser.param_groups[0]["lr"])
    return Diverged(f"{what}: lower lr (now {rate:g}) and train again")
