"""`make bench`: everything that is measured on one page, or what is named: `python -m benchmarks
selectors training`.

The page is `build/bench/README.md`; `--publish` writes it to `results/published/bench/` instead.
Each part runs in a process of its own: what one leaves in the allocator changes the page faults,
and so the times, of the next. `python -m benchmarks gpu` tries and measures a GPU; what follows
goes to it, see `gpu --help`.
"""

import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import measured, page

NAMES = ("selectors", "attacks", "training", "before", "processes")
ALONE = "gpu"  # only when it is named, and with options
ROOT = Path(__file__).parents[1]
# threads that wait for each other count as work, and more so on a busy machine
ONE_CORE = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BUILT, PUBLISHED = ROOT / "build" / "bench", ROOT / "results" / "published" / "bench"


def main(arguments: list[str]) -> None:
    if arguments[:1] == [ALONE]:
        code = f"from benchmarks import {ALONE}; {ALONE}.main()"
        sys.exit(subprocess.run([sys.executable, "-c", code, *arguments[1:]]).returncode)
    if {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\nParts: {', '.join(NAMES)}.")
        return
    publish = "--publish" in arguments
    names = [name for name in arguments if name != "--publish"] or NAMES
    for name in names:
        if name not in NAMES:
            known = ", ".join((*NAMES, ALONE))
            sys.exit(f"there is no benchmark {name!r}: choose among {known}, the last one alone")
    if publish and tuple(names) != NAMES:
        sys.exit("what is published is the whole page: leave out the names, or --publish")
    folder = PUBLISHED if publish else BUILT
    make_page(folder, names)
    print(f"the page: {folder / 'README.md'}")


def make_page(folder: Path, names: Sequence[str]) -> None:
    started, load = time.perf_counter(), os.getloadavg()[0]
    torch.set_num_threads(1)
    rates = measured.ceilings()
    rows = [row for name in names for row in apart(name)]
    minutes = (time.perf_counter() - started) / 60
    about = machine() | {"load when it began": f"{load:.1f} jobs", "minutes": f"{minutes:.1f}"}
    page.write(folder, rows, rates, about)


def machine() -> dict[str, Any]:
    from acslib.paper.records import provenance

    found = provenance("cpu")
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return {
        "processor": f"{found['device']}, {os.cpu_count()} cores",
        "versions": versions,
        "commit": found["commit"],
    }


def apart(name: str) -> list[measured.Row]:
    """The rows of one part, measured in a process of its own."""
    print(f"== {name}", flush=True)
    with tempfile.NamedTemporaryFile("r") as file:
        code = f"from benchmarks import __main__; __main__.into({name!r}, {file.name!r})"
        if status := subprocess.run([sys.executable, "-c", code], env=ONE_CORE).returncode:
            sys.exit(status)
        return [measured.Row.from_json(line) for line in file]


def into(name: str, path: str) -> None:
    """Write the rows of one part to a file, and say them."""
    torch.set_num_threads(1)
    with open(path, "w") as file:
        for row in importlib.import_module(f"benchmarks.{name}").rows():
            print(line(row), flush=True)
            file.write(row.to_json() + "\n")


def line(row: measured.Row) -> str:
    ratio = f", {page.spread(row.ratios, '.2f')}x {row.than}" if row.theirs else ""
    note = f"; {row.note}" if row.note else ""
    return f"  {row.name}: {page.seconds(row.seconds)}{ratio}{note}"


if __name__ == "__main__":
    main(sys.argv[1:])
