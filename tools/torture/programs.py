"""SIGKILL to whole programs with all that they have started: a Python of its own, make with two
jobs, a notebook with its kernel. The same command then ends as if nothing had been.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil

from tools.torture.bench import PROFILE, ROOT, RUNS, Bench, command, run_folder
from tools.torture.kills import disturbed
from tools.torture.outcomes import Ending, Outcome

SECONDS_AT_MOST = 1200  # of any of them


def programs(bench: Bench) -> Iterator[Outcome]:
    yield from commands(bench, "a Python of its own, at random", bench.times(6))
    if bench.share >= 1:  # these take longer to begin
        yield from makes(bench, "make -j, at random", 5)
        yield from notebooks(bench, "notebook, at random", 4)


def commands(bench: Bench, kind: str, times: int) -> Iterator[Outcome]:
    """The command as a person gives it, in a Python of its own."""
    name = RUNS["gradmatch"]
    arguments = command("run", name, "--profile", PROFILE)
    finish = partial(bench.finish, names=[name])
    yield from killed_groups(bench, kind, times, lambda results: arguments, finish)


def makes(bench: Bench, kind: str, times: int) -> Iterator[Outcome]:
    """make with two jobs: it and all that it has started."""

    def finish(results: Path) -> tuple[Ending, str]:
        if said := finished(make(results), bench, results):
            return "failure", said
        return bench.as_undisturbed(results, [*RUNS.values()])

    yield from killed_groups(bench, kind, times, make, finish)


def make(results: Path) -> list[str]:
    """All runs, by make."""
    targets = [str(run_folder(results, name) / "record.json") for name in RUNS.values()]
    return ["make", "-o", ".venv/.complete", "JOBS=2", f"PROFILE={PROFILE}", *targets]


def notebooks(bench: Bench, kind: str, times: int) -> Iterator[Outcome]:
    """The notebook of one run, with its kernel."""
    name = RUNS["gradmatch"]

    def notebook(results: Path) -> list[str]:
        given = {"run": name, "profile": PROFILE}
        parameters = [word for pair in given.items() for word in ("-r", *pair)]
        papermill = [sys.executable, "-m", "papermill", "--no-progress-bar", "--cwd", "notebooks"]
        return [*papermill, "notebooks/run.ipynb", str(results) + ".ipynb", *parameters]

    def finish(results: Path) -> tuple[Ending, str]:
        if said := finished(notebook(results), bench, results):
            return "failure", said
        return bench.as_undisturbed(results, [name])

    yield from killed_groups(bench, kind, times, notebook, finish)


def killed_groups(
    bench: Bench,
    kind: str,
    times: int,
    arguments: Callable[[Path], list[str]],
    finish: Callable[[Path], tuple[Ending, str]],
) -> Iterator[Outcome]:
    """Other programs, killed at random moments with all that they have started."""
    begun = time.monotonic()
    results = bench.folder()
    said = finished(arguments(results), bench, results)
    if said:
        yield Outcome(kind, "undisturbed", "failure", said)
        return
    seconds = time.monotonic() - begun

    def disturb(results: Path) -> int:
        going = program(arguments(results), results)
        time.sleep(bench.chance.uniform(0.1, 0.9) * seconds)
        family = [psutil.Process(going.pid), *psutil.Process(going.pid).children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        going.communicate()
        psutil.wait_procs(family, 10)
        return int(going.returncode == -signal.SIGKILL)

    yield from disturbed(bench, kind, times, disturb, finish)


def finished(arguments: list[str], bench: Bench, results: Path) -> str:
    """Let a program end; what went wrong, or nothing."""
    going = program(arguments, results)
    try:
        out, _ = going.communicate(timeout=SECONDS_AT_MOST)
    except subprocess.TimeoutExpired:
        going.kill()
        return f"{arguments[0]} hangs"
    return "" if going.returncode == 0 else f"exit code {going.returncode}: {out[-300:]}"


def program(arguments: list[str], results: Path) -> subprocess.Popen:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=kept | {"ACS_RESULTS": str(results)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
