"""`python -m tools.torture`: see the package. Ends in a table, and a line of totals."""

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.torture.outcomes import Outcome, table, totals

PARTS = (
    "fuzz",
    "hostile",
    "damage",
    "disk",
    "offline",
    "together",
    "kills",
    "interrupts",
    "programs",
)
SAMPLE = 0.02  # of a part, as the ordinary tests try it
ALONE = ("ACS_PLUGINS", "ACS_DATA", "ACS_MIRROR", "ACS_DEVICE", "ACS_RESULTS", "WORLD_SIZE")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    for name in ALONE:
        os.environ.pop(name, None)
    for name in ("OMP_NUM_THREADS", "ACS_THREADS", "ACS_PROCESSES", "ACS_OFFLINE"):
        os.environ[name] = "1"
    os.environ |= {"ACS_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # a GPU may not be forked
    begun, attempts = time.monotonic(), {}
    from tools.torture.bench import Bench  # torch is loaded once its threads are set

    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        bench = Bench(Path(scratch), arguments.seed, SAMPLE if arguments.sample else 1.0)
        for part in arguments.part or PARTS:
            bench.begin(part)
            function = getattr(importlib.import_module(f"tools.torture.{part}"), part)
            attempts[part] = told(part, function(bench))
    return report(attempts, arguments.seed, time.monotonic() - begun)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.torture", description=__doc__)
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="only this one; may be given several times"
    )
    parser.add_argument("--sample", action="store_true", help="a small share of each part")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn; default 0")
    return parser.parse_args(argv)


def told(part: str, outcomes_of_it: Iterable[Outcome]) -> list[Outcome]:
    """All attempts of a part; its failures are told as they come."""
    begun, outcomes = time.monotonic(), []
    for outcome in outcomes_of_it:
        outcomes.append(outcome)
        if outcome.ending != "well":
            print(f"{part}: {outcome.kind}: {outcome.case[:300]}: {outcome.ending}: {outcome.said}")
    print(f"{part}: {len(outcomes)} attempts, {time.monotonic() - begun:.0f} s", flush=True)
    return outcomes


def report(attempts: dict[str, list[Outcome]], seed: int, seconds: float) -> int:
    """Print the table and the totals; gives the exit code."""
    every = [outcome for outcomes in attempts.values() for outcome in outcomes]
    print(f"\n{table(attempts)}\n\n{totals(every)}; seed {seed}, {seconds:.0f} s")
    return int(not every or any(outcome.ending != "well" for outcome in every))


if __name__ == "__main__":
    sys.exit(main())
