"""The plan of Algorithm 1: which epochs are full, skipped, or on a coreset, and what it costs.

Epochs count from 0. With kappa_epochs = floor(kappa * E) and T_warm = round(kappa_epochs * k), the
paper's figures and times fit three phases: full data up to T_warm, nothing up to kappa_epochs, the
coreset after that. Its cost, (T_warm + (E - kappa_epochs) k) / E, is k for every kappa up to
rounding: kappa moves when, not how much, is trained.
"""

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, SupportsIndex, get_args

Phase = Literal["full", "skip", "coreset"]
ScheduleName = Literal["three_phase", "literal", "no_skip"]  # how the warm start is read
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
MOST_EPOCHS = 1_000_000  # a plan is made whole, and a thousand million epochs would fill the memory


@dataclass(frozen=True)
class Epoch:
    """What an epoch is for. select: it begins with the selection of a coreset."""

    index: int
    phase: Phase
    select: bool = False


@dataclass(frozen=True)
class Plan:
    """The epochs of a run. `cost` is in epochs of full training, as a fraction of `len(plan)`."""

    epochs: tuple[Epoch, ...]
    coreset_fraction: float

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, index: int) -> Epoch:
        return self.epochs[index]

    @property
    def cost(self) -> float:
        price = {"full": 1.0, "skip": 0.0, "coreset": self.coreset_fraction}
        return sum(price[epoch.phase] for epoch in self.epochs) / len(self.epochs)

    @property
    def ceiling(self) -> float:
        """The largest speed-up that this plan allows: 1 / cost, if selections were free."""
        return 1 / self.cost if self.cost else math.inf

    @property
    def selections(self) -> int:
        return sum(epoch.select for epoch in self.epochs)


def coreset_size(fraction: float, n: int) -> int:
    """k of n samples, rounded up."""
    return math.ceil(fraction * n - 1e-9)  # 0.07 * 100 is 7.000000000000001


def check_epochs(epochs: object) -> None:
    """Raise ValueError unless it is a number of epochs."""
    if not isinstance(epochs, SupportsIndex) or operator.index(epochs) < 1:
        raise ValueError(f"epochs is {epochs!r}: at least 1 is needed, a whole number")
    if operator.index(epochs) > MOST_EPOCHS:
        raise ValueError(f"epochs is {epochs!r}: take at most {MOST_EPOCHS}")


def full(epochs: int) -> Plan:
    """Every epoch on all the data."""
    check_epochs(epochs)
    return Plan(tuple(Epoch(i, "full") for i in range(epochs)), 1.0)


def plan(
    epochs: int, coreset_fraction: float, warm_start: float, period: int, kind: str = "three_phase"
) -> Plan:
    """The plan of Algorithm 1.

    `coreset_fraction` is k in (0, 1], `warm_start` is kappa in [0, 1], `period` is T >= 1 epochs
    between selections. `kind`: "three_phase" (ours, see above; a selection on entering the coreset
    phase and whenever T divides the epoch), "literal" (Algorithm 1 as printed: an epoch that
    neither warms up nor selects is not trained) or "no_skip" (the coreset phase starts at T_warm).
    Raises ValueError on anything out of range.
    """
    check_epochs(epochs)
    if not 0 < coreset_fraction <= 1:
        raise ValueError(
            f"coreset_fraction is {coreset_fraction}: it must be above 0 and at most 1"
        )
    if not 0 <= warm_start <= 1:
        raise ValueError(
            f"warm_start is {warm_start}: it is a fraction of the epochs, between 0 and 1"
        )
    if not isinstance(period, SupportsIndex) or operator.index(period) < 1:
        raise ValueError(f"period is {period}: a selection every 1 epoch is the most there can be")
    if kind not in SCHEDULES:
        raise ValueError(f"schedule is {kind!r}: choose one of {', '.join(SCHEDULES)}")
    kappa_epochs = math.floor(warm_start * epochs + 1e-9)
    warm = round(kappa_epochs * coreset_fraction)
    if kind == "literal":
        return Plan(
            tuple(_literal(i, warm, kappa_epochs, period) for i in range(epochs)), coreset_fraction
        )
    start = warm if kind == "no_skip" else kappa_epochs
    return Plan(tuple(_phased(i, warm, start, period) for i in range(epochs)), coreset_fraction)


def _phased(index: int, warm: int, start: int, period: int) -> Epoch:
    if index < warm:
        return Epoch(index, "full")
    if index < start:
        return Epoch(index, "skip")
    return Epoch(index, "coreset", select=index == start or index % period == 0)


def _literal(index: int, warm: int, kappa_epochs: int, period: int) -> Epoch:
    t = index + 1  # Algorithm 1 counts from 1
    if t <= warm:
        return Epoch(index, "full")
    if t >= kappa_epochs and t % period == 0:
        return Epoch(index, "coreset", select=True)
    return Epoch(index, "skip")
