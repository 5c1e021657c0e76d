"""What an attempt ended in, and the table of all attempts."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Ending = Literal["well", "failure", "traceback", "hang"]
ENDINGS: tuple[Ending, ...] = ("well", "failure", "traceback", "hang")
HEAD = ("part", "what", "attempts", "failures", "tracebacks", "hangs")


class Outcome(NamedTuple):
    """One attempt: `kind` is its row of the table, `case` what was done, `said` what went wrong."""

    kind: str
    case: str
    ending: Ending = "well"
    said: str = ""


def table(attempts: dict[str, Sequence[Outcome]]) -> str:
    """A row for each kind of attempt of each part."""
    rows = [list(HEAD)]
    for part, outcomes in attempts.items():
        for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
            endings = [outcome.ending for outcome in outcomes if outcome.kind == kind]
            counts = [len(endings), *(endings.count(ending) for ending in ENDINGS[1:])]
            rows.append([part, kind, *map(str, counts)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(cell, row, widths, range(len(row)))).rstrip() for row in rows)


def cell(text: str, width: int, column: int) -> str:
    """Words to the left, numbers to the right."""
    return text.ljust(width) if column < 2 else text.rjust(width)


def totals(outcomes: Iterable[Outcome]) -> str:
    """How many attempts there were, and how many ended badly in each way."""
    endings = [outcome.ending for outcome in outcomes]
    failures, tracebacks, hangs = (endings.count(ending) for ending in ENDINGS[1:])
    return (
        f"torture: {len(endings)} attempts, {failures} failures, {tracebacks} tracebacks,"
        f" {hangs} hangs"
    )
