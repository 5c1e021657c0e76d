"""What a benchmark finds: rounds of seconds, a peer's beside them, and the floor under them.

A floor is what a kernel must do at least, by its algorithm, at what this machine can do at most:
operations over the rate of a matrix product, bytes over the rate of a copy.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Ceilings = Mapping[str, float]  # of `CEILINGS`, operations or bytes a second
CEILINGS = ("float64", "float32", "bfloat16", "copy")
SQUARE = 1536  # rows of the matrices: long enough for the full rate, and some 20 ms
COPIED = 1 << 28  # bytes: more than any cache holds


@dataclass(frozen=True)
class Work:
    """Floating-point operations in a type of numbers, of which a product and a sum are two; bytes
    that are read or written.
    """

    operations: float = 0
    dtype: str = "float32"
    bytes: float = 0

    def floor(self, ceilings: Ceilings) -> float:
        """Seconds."""
        return max(self.operations / ceilings[self.dtype], self.bytes / ceilings["copy"])


@dataclass(frozen=True)
class Row:
    """One kernel: its seconds in each round, and those of `than` in the same rounds."""

    part: str
    name: str
    seconds: Sequence[float]
    than: str = ""
    theirs: Sequence[float] = field(default_factory=list)
    work: Work | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ratios(self) -> list[float]:
        """How many times faster than the peer, round by round."""
        pairs = zip(self.theirs, self.seconds, strict=True) if self.theirs else ()
        return [theirs / ours for theirs, ours in pairs]

    def share(self, ceilings: Ceilings) -> float | None:
        """Of the time, what the floor explains."""
        return self.work and self.work.floor(ceilings) / self.median

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Row":
        found = json.loads(line)
        return cls(**found | {"work": found["work"] and Work(**found["work"])})


def in_turn(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    first: int = 0,
    clock: Callable[[], float] = time.process_time,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way in each round, and its last answer. Who begins changes; `first` rounds
    do not count.

    The processor's seconds, which other work on the machine hardly lengthens, where no other clock
    is given.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers = {}
    for turn in range(first + rounds):
        for name in ways if turn % 2 else reversed(ways):
            started = clock()
            answers[name] = ways[name]()
            seconds[name].append(clock() - started)
    return {name: taken[first:] for name, taken in seconds.items()}, answers


def ceilings(rounds: int = 9) -> dict[str, list[float]]:
    """What one core does at most: operations or bytes a second, by round."""
    found = {}
    for name in CEILINGS[:-1]:
        dtype = getattr(torch, name)
        left, right = (torch.randn(SQUARE, SQUARE).to(dtype) for _ in range(2))
        ways = {name: lambda left=left, right=right: torch.mm(left, right)}
        found |= {
            name: [2 * SQUARE**3 / taken for taken in in_turn(ways, rounds, first=1)[0][name]]
        }
    source = torch.zeros(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    taken, _ = in_turn({"copy": lambda: target.copy_(source)}, rounds, first=1)
    return found | {"copy": [2 * COPIED / spent for spent in taken["copy"]]}
