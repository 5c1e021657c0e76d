"""Whether other work on the machine bends the speed-ups that a figure shows.

    python -m benchmarks.load                        # some five minutes on two idle cores

Figure 5's three versions of GradMatch at 50 %, profile demo, each trained as `make fig5` trains it,
alone and beside two processes that do nothing but compute, in turn. A speed-up is the figure's own:
CPU seconds of the run's median epochs against those of full epochs of the same process. Wall
seconds stand beside them. Wanted: within 10 % of each other.

It writes results/published/bench/load.csv, with the load of the machine as each run began: where it
is above 0 alone, there was other work all the time.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from acslib.paper import config, rows, runs
from acslib.paper.records import provenance

FOLDER = Path(__file__).parents[1] / "results" / "published" / "bench"
SETTING, PROFILE = "resnet18-trades-cifar10", "demo"
VERSIONS = {
    "plain": "+granularity@class+warm_start@0",
    "batch-wise": "+warm_start@0",
    "batch-wise + warm start": "",
}
QUICK = "+autoattack_n@0+evaluation_restarts@1+evaluation_steps@1"  # evaluation is not timed here
OTHERS = 2
ROUNDS = 2


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for done in range(ROUNDS):
        for version, varied in VERSIONS.items():
            for others in (0, OTHERS):
                about = {"version": version, "round": done, "others": others}
                found.append(about | apart(varied, others))
                print("  " + ", ".join(f"{k} {v}" for k, v in found[-1].items()), flush=True)
                pd.DataFrame(found).to_csv(FOLDER / "load.csv", index=False)
    print(bent(pd.DataFrame(found)).to_string(float_format="%.3f"))


def apart(varied: str, others: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with beside(others, context), context.Pool(1) as pool:
        return pool.apply(measured, (varied,))


@contextmanager
def beside(others: int, context: Any) -> Iterator[None]:
    """So many busy processes, for as long as this lasts."""
    busy = [context.Process(target=compute_for_ever, daemon=True) for _ in range(others)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.join()


def compute_for_ever() -> None:
    while True:
        sum(range(1000))


def measured(varied: str) -> dict[str, Any]:
    """One run, trained anew, and its speed-up."""
    run = config.resolve(f"{SETTING}.gradmatch{varied}{QUICK}", PROFILE)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as results:
        record = runs.execute(run, 0, "cpu", Path(results))
    numbers = pd.DataFrame([rows.flat(record)])
    return {
        "speedup_x": round(rows.speedup_by_medians(numbers, numbers, len(run.plan)), 4),
        "ceiling_x": round(run.plan.ceiling, 4),
        "seconds": round(record["seconds"]["total"], 3),
        "seconds_wall": round(record["seconds"]["wall"], 3),
        "load": round(load, 1),
        "device": provenance("cpu")["device"],
    }


def bent(table: pd.DataFrame) -> pd.DataFrame:
    """Medians of the rounds, alone and beside others, and their ratio."""
    kinds = table.others.map({0: "alone", OTHERS: f"beside {OTHERS}"})
    medians = table.groupby(["version", kinds], sort=False)[
        ["speedup_x", "seconds", "seconds_wall"]
    ].median()
    wide = medians.unstack()
    for what in ("speedup_x", "seconds", "seconds_wall"):
        wide[what, "ratio"] = wide[what, f"beside {OTHERS}"] / wide[what, "alone"]
    return wide.sort_index(axis=1)


if __name__ == "__main__":
    main()
