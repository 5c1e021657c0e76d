"""Writers side by side: files are whole at any moment, and whoever writes ends well."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from acslib import data, writing
from acslib.paper import frames
from tools.torture.bench import PROFILE, RUNS, Bench, Work, told, train
from tools.torture.children import Child, broken
from tools.torture.damage import image_folder
from tools.torture.outcomes import Ending, Outcome
from tools.torture.programs import SECONDS_AT_MOST, make, program


def together(bench: Bench) -> Iterator[Outcome]:
    for kind, times, attempt in (
        ("writers of one file, with one process number", 10, one_file),
        ("writers and readers of one table", 10, one_table),
        ("two that train one run", 6, lambda bench: trainings(bench, ["gradmatch"] * 2)),
        ("four that share a warm start", 4, lambda bench: trainings(bench, list(RUNS))),
        ("two that decode one folder of images", 4, one_cache),
    ):
        for number in range(bench.times(times)):
            yield Outcome(kind, str(number), *attempt(bench))
    if bench.share >= 1:  # make takes half a minute
        yield Outcome("two makes in one folder", "0", *makes(bench))


def all_well(children: list[Child]) -> tuple[Ending, str]:
    """What is wrong with the first that did not end well."""
    for ended in [child.wait() for child in children]:
        if bad := broken(ended):
            return bad
        if ended.code:
            return "failure", ended.err[-300:]
    return "well", ""


def one_file(bench: Bench) -> tuple[Ending, str]:
    """Three processes write, and one clears up, as if they had one number on several machines."""
    folder, rounds = bench.folder(), bench.times(200)
    path, contents = folder / "a", [bytes([k]) * 50_000 for k in range(3)]
    writing.write_atomically(path, contents[0])

    def writer(content: bytes) -> Work:
        def write() -> str:
            os.getpid = lambda: 17  # type: ignore[assignment]
            torn = 0
            for _ in range(rounds):
                writing.write_atomically(path, content)
                torn += path.read_bytes() not in contents
            assert not torn, f"{torn} of {rounds} files were torn"
            return ""

        return told(write)

    def clear() -> str:
        for _ in range(rounds):
            writing.clear_stale(folder)
        return ""

    ended = all_well([bench.start(writer(each), folder) for each in contents])
    left = [each.name for each in folder.iterdir()]
    if left != ["a"]:
        return "failure", f"there is {', '.join(left)}"
    return ended


def one_table(bench: Bench) -> tuple[Ending, str]:
    """Two write different tables to one CSV, two read it."""
    folder, rounds = bench.folder(), bench.times(200)
    path = folder / "table.csv"
    made = [pd.DataFrame({"x_pct": range(rows)}) for rows in (3, 300)]
    frames.write_frame(path, made[0])

    def repeated(step: Callable[[], object]) -> Work:
        def repeat() -> str:
            for _ in range(rounds):
                step()
            return ""

        return told(repeat)

    def look() -> None:
        assert len(frames.read_frame(path, ["x_pct"], "delete it")) in (3, 300)

    def writes(table: pd.DataFrame) -> Callable[[], object]:
        return lambda: frames.write_frame(path, table)

    steps = [*map(writes, made), look, look]
    return all_well([bench.start(repeated(step), folder) for step in steps])


def trainings(bench: Bench, methods: list[str]) -> tuple[Ending, str]:
    """Runs that begin within a moment, in one folder of results."""
    results, names = bench.folder(), [RUNS[method] for method in methods]
    children = []
    for name in names:
        children.append(bench.start(train(name), results))
        time.sleep(bench.chance.uniform(0, 0.3))
    ended = all_well(children)
    return ended if ended[0] != "well" else bench.as_undisturbed(results, names)


def one_cache(bench: Bench) -> tuple[Ending, str]:
    """Three processes load one folder of images, into one cache."""
    home = bench.folder()
    folder = image_folder(home / "images", 0)

    def read() -> str:
        os.environ["ACS_CACHE"] = str(home / "cache")
        return data.from_folder(folder).source

    return all_well([bench.start(told(read), home) for _ in range(3)])


def makes(bench: Bench) -> tuple[Ending, str]:
    """Two makes of the same runs, begun together."""
    results: Path = bench.folder()
    going = [program(make(results), results) for _ in range(2)]
    for one in going:
        out, _ = one.communicate(timeout=SECONDS_AT_MOST)
        if one.returncode:
            return "failure", f"PROFILE={PROFILE}: exit code {one.returncode}: {out[-300:]}"
    return bench.as_undisturbed(results, [*RUNS.values()])
