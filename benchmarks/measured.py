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
    """What one core does at most: operations or bytes a second, by round.

    Operations by the faster of a matrix product and a convolution: on some processors torch
    multiplies matrices of float32 by half of the instructions that it convolves by.
    """
    found = {}
    for name in CEILINGS[:-1]:
        ways = {"product": product(getattr(torch, name))}
        if name != "float64":  # in which torch has no fast convolution
            ways["convolution"] = convolution(getattr(torch, name))
        taken, _ = in_turn({way: work for way, (work, _) in ways.items()}, rounds, first=1)
        rates = [[ways[way][1] / spent for spent in each] for way, each in taken.items()]
        found[name] = max(rates, key=statistics.median)
    source = torch.zeros(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    taken, _ = in_turn({"copy": lambda: target.copy_(source)}, rounds, first=1)
    return found | {"copy": [2 * COPIED / spent for spent in taken["copy"]]}


def product(dtype: torch.dtype) -> tuple[Callable[[], Any], float]:
    """A matrix product, and its operations."""
    left, right = (torch.randn(SQUARE, SQUARE).to(dtype) for _ in range(2))
    return lambda: torch.mm(left, right), 2 * SQUARE**3


def convolution(
    dtype: torch.dtype, batch: int = 32, channels: int = 256, side: int = 16
) -> tuple[Callable[[], Any], float]:
    """A 3x3 convolution, as ResNets have them, and its operations."""
    images = torch.randn(batch, channels, side, side).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3).to(dtype, memory_format=torch.channels_last)
    operations = 2 * batch * side**2 * channels**2 * 9
    return lambda: torch.nn.functional.conv2d(images, weight, padding=1), operations
