"""What sample-wise selection costs by the number of samples n and the budget k: seconds and memory.

    python -m benchmarks.scaling_selection            # the plot: less than ten minutes on one core
    python -m benchmarks.scaling_selection --whole    # all of CIFAR-10's and ImageNet-100's size

Factors are like a ResNet-18's on CIFAR-10, 10 classes and 512 features, d = 5,130, in float32. Each
measurement has a process of its own. Seconds are CPU seconds of one thread. Memory is the peak
beyond the factors, which the process holds already. The objective is the exact greedy's: L(S) of
Algorithm 2 for CRAIG, the relative error of eq. (12) for GradMatch. Slopes are exponents, fitted by
least squares to logarithms.

It writes results/published/bench/selection.csv and selection.png; --whole adds its rows to the file
as they are there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from acslib.paper.records import provenance
from acslib.selectors import craig, gradmatch
from benchmarks.selectors import network_like

FOLDER = Path(__file__).parents[1] / "results" / "published" / "bench"
SELECTORS = {"CRAIG": craig, "GradMatch": gradmatch}
# all inner products held; none held; each step looks at a random part (epsilon = 0.1)
WAYS = ("in memory", "streamed", "stochastic")
EPSILON = 0.1
CIFAR, IMAGENET = (10, 512), (100, 2048)  # classes and features
BY_N = (1250, 2500, 5000, 10_000)
SHARE = 0.1  # k / n where n varies
BY_K = (250, 500, 1000, 2000)  # where n is FIXED
FIXED = 8000
WHOLE = [  # selector, way, n, k, shape
    ("GradMatch", "stochastic", 50_000, 1_000, CIFAR),
    ("GradMatch", "streamed", 50_000, 1_000, CIFAR),
    ("CRAIG", "stochastic", 50_000, 5_000, CIFAR),
    ("CRAIG", "streamed", 50_000, 5_000, CIFAR),
    ("GradMatch", "stochastic", 126_000, 500, IMAGENET),
    ("GradMatch", "streamed", 126_000, 20, IMAGENET),
    ("CRAIG", "stochastic", 12_600, 6_300, IMAGENET),
]
COLOURS = {"CRAIG": "#D55E00", "GradMatch": "#0072B2"}
LINES = {"in memory": "-", "streamed": "--", "stochastic": ":"}
PANELS = {"seconds": "CPU seconds, one thread", "gigabytes": "peak GB beyond the factors"}
MARKS = {"in memory": "o", "streamed": "s", "stochastic": "^"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="CIFAR-10 and ImageNet-100")
    whole = parser.parse_args(sys.argv[1:]).whole
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "selection.csv"
    before = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["varied"])
    rows = before[(before.varied != "whole") ^ (not whole)].to_dict("records")
    for varied, *case in wanted(whole):
        rows.append({"varied": varied} | apart(*case))
        print("  " + ", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        pd.DataFrame(rows).to_csv(path, index=False)
    table = pd.DataFrame(rows)
    draw(table).savefig(FOLDER / "selection.png", dpi=150)
    print(slopes(table).to_string(index=False))


def wanted(whole: bool) -> Iterator[tuple[Any, ...]]:
    if whole:
        yield from (("whole", *case) for case in WHOLE)
        return
    for name in SELECTORS:
        for way in WAYS:
            for n in BY_N:
                yield "n", name, way, n, int(SHARE * n), CIFAR
            for k in BY_K:
                yield "k", name, way, FIXED, k, CIFAR


def apart(*case: Any) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, case)


def measured(name: str, way: str, n: int, k: int, shape: tuple[int, int]) -> dict[str, Any]:
    """One selection, with the load of the machine when it began."""
    torch.set_num_threads(1)
    gradients = network_like(n, *shape)
    select = SELECTORS[name]
    options = {"epsilon": EPSILON} if way == "stochastic" else {}
    few = gradients[:20]
    with held_nothing(way):
        select(few, 10, **options)  # compiles
        held, load = memory("VmRSS"), os.getloadavg()[0]
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started, wall = time.process_time(), time.perf_counter()
        coreset = select(gradients, k, **options)
        seconds, wall = time.process_time() - started, time.perf_counter() - wall
    return {
        "selector": name,
        "way": way,
        "n": n,
        "k": k,
        "d": gradients.shape[1],
        "chosen": len(coreset),
        "reason": coreset.reason,
        "seconds": round(seconds, 3),
        "seconds_wall": round(wall, 3),
        "gigabytes": round(memory("VmHWM") - held, 4),
        "factors_gigabytes": round(4e-9 * n * sum(shape), 4),
        "objective": float(coreset.trace[-1]),
        "load": round(load, 1),
        "device": provenance("cpu")["device"],
    }


@contextmanager
def held_nothing(way: str) -> Iterator[None]:
    """Inner products are not held, at sizes too that would do without streaming."""
    with ExitStack() as stack:
        for name in SELECTORS if way == "streamed" else ():
            module = sys.modules[f"acslib.selectors.{name.lower()}"]
            stack.enter_context(mock.patch.object(module, "GRAM_ELEMENTS", 0))
        yield


def memory(field: str) -> float:
    """A field of /proc/self/status, in gigabytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024e-9 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}: this needs Linux")


def slopes(table: pd.DataFrame) -> pd.DataFrame:
    """The exponents of n and of k in seconds and in memory, one row a selector and way."""
    found = []
    for (name, way, varied), rows in table[table.varied != "whole"].groupby(
        ["selector", "way", "varied"], sort=False
    ):
        about = {"selector": name, "way": way, "varied": varied}
        found.append(about | {what: slope(rows[varied], rows[what]) for what in PANELS})
    return pd.DataFrame(found)


def slope(x: pd.Series, y: pd.Series) -> float:
    return round(float(np.polyfit(np.log(x), np.log(y), 1)[0]), 2)


def draw(table: pd.DataFrame) -> Figure:
    """Seconds and memory, against n with k = SHARE n, and against k with n = FIXED."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    columns = {"n": f"n, with k = n / {1 / SHARE:.0f}", "k": f"k, with n = {FIXED:,}"}
    for row, (what, label) in zip(axes, PANELS.items(), strict=True):
        for axis, (varied, said) in zip(row, columns.items(), strict=True):
            part = table[table.varied == varied]
            for (name, way), points in part.groupby(["selector", "way"], sort=False):
                axis.loglog(
                    points[varied],
                    points[what],
                    LINES[way],
                    marker=MARKS[way],
                    color=COLOURS[name],
                    label=f"{name}, {way}: {varied}^{slope(points[varied], points[what])}",
                )
            axis.set_xlabel(said)
            axis.set_ylabel(label)
            axis.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    main()
