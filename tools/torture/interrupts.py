"""Ctrl-C at random moments: one line that says what is kept, and the same command goes on."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from acslib.paper import cli, endings
from tools.torture.bench import PROFILE, RUNS, Bench, Work
from tools.torture.children import Ended, broken
from tools.torture.kills import before_evaluation, half_way
from tools.torture.outcomes import Ending, Outcome

NAME = RUNS["gradmatch"]


def interrupts(bench: Bench) -> Iterator[Outcome]:
    for kind, begin in (
        ("a run", None),
        ("a run that goes on", half_way(bench)),
        ("an evaluation", before_evaluation(bench)),
    ):
        seconds = bench.seconds([NAME], begin)
        for _ in range(bench.times(20)):
            results, moment = bench.folder(begin), bench.chance.uniform(0, seconds)
            ended = interrupted(bench, results, moment)
            yield Outcome(kind, f"after {moment:.2f} s", *judged(bench, ended, results))
            shutil.rmtree(results)


def interrupted(bench: Bench, results: Path, moment: float) -> Ended:
    """How a run ends that is interrupted after so many seconds, or has ended by then."""
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT}
    )  # the child has it from its first line
    try:
        child = bench.start(listening("run", NAME, "--profile", PROFILE), results)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    time.sleep(moment)
    os.kill(child.process, signal.SIGINT)
    return child.wait()


def listening(*words: str) -> Work:
    """A command that hears what came before it began, too."""

    def begin() -> int:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return cli.invoke(list(words))

    return lambda: endings.exit_code(begin)


def judged(bench: Bench, ended: Ended, results: Path) -> tuple[Ending, str]:
    if bad := broken(ended):
        return bad
    if ended.code == 0:
        return bench.as_undisturbed(results, [NAME])
    lines = ended.err.splitlines()
    if (
        ended.code != endings.INTERRUPTED
        or len(lines) != 1
        or not lines[0].startswith("acs: stopped: ")
    ):
        return "failure", f"exit code {ended.code}: {ended.err[-300:]!r}"
    return bench.finish(results, [NAME])
