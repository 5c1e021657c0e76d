"""SIGKILL, at every write and at random moments, to every kind of run. Afterwards the same command
is given again, and the run must end as if nothing had been.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import acslib.data.files
from acslib import writing
from tools.torture.bench import PROFILE, RUNS, Bench, Work, run_folder, train
from tools.torture.outcomes import Ending, Outcome

# of a write: the temporary file is there, half of it is, all of it is, it has its name
STAGES = ("begun", "half", "whole", "named")
When = Callable[[int, Path], bool]


def kills(bench: Bench) -> Iterator[Outcome]:
    full, selects = RUNS["full"], RUNS["gradmatch"]
    yield from at_every_write(bench, "train, at every write", train(full), full)
    yield from at_every_write(bench, "select, at every write", train(selects), selects)
    warm = train(selects, 0, "--warm-only")
    yield from at_every_write(bench, "warm start, at every write", warm, selects)
    yield from at_random(bench, "train, at random", bench.times(20), [full])
    yield from at_random(bench, "select, at random", bench.times(20), [selects])
    yield from at_random(bench, "shared warm starts, at random", bench.times(20), [*RUNS.values()])
    trained, evaluated = half_way(bench), before_evaluation(bench)
    yield from at_random(bench, "resume, at random", bench.times(20), [selects], trained)
    yield from at_random(bench, "evaluate, at random", bench.times(20), [selects], evaluated)
    again = evaluated_otherwise(bench)
    yield from at_random(bench, "evaluate anew, at random", bench.times(10), [selects], again)


# ---- at every write


def at_every_write(bench: Bench, kind: str, work: Work, name: str) -> Iterator[Outcome]:
    """Killed once in each stage of each write, then finished."""
    writes = count_writes(bench, work)
    cases = [(number, stage) for number in range(1, writes + 1) for stage in STAGES]
    for number, stage in bench.some(cases):
        results, case = bench.folder(), f"write {number} of {writes}, {stage}"
        ended = bench.ended(dying(work, lambda count, path, n=number: count == n, stage), results)
        if not ended.killed:
            yield Outcome(kind, case, "failure", f"not killed, but {ended.code}: {ended.err}")
            continue
        yield Outcome(kind, case, *bench.finish(results, [name]))
        shutil.rmtree(results)


def count_writes(bench: Bench, work: Work) -> int:
    """How often a file is written when nobody disturbs it."""
    said = bench.scratch / "writes"

    def counted() -> int:
        seen = []
        watch(lambda number, path, stage: seen.append(number))
        code = work()
        said.write_text(str(max(seen)))
        return code

    assert bench.ended(counted, bench.folder()).code == 0
    return int(said.read_text())


def dying(work: Work, when: When, stage: str) -> Work:
    """Work that is killed in a stage of a write, which `when` chooses by its number and path."""

    def killed() -> int:
        def die(number: int, path: Path, now: str) -> None:
            if now == stage and when(number, path):
                os.kill(os.getpid(), signal.SIGKILL)

        watch(die)
        return work()

    return killed


def watch(told: Callable[[int, Path, str], object]) -> None:
    """Have each write of this process told, in every stage: its number from 1 on, and its path."""
    replacing, number = writing.replacing, 0

    @contextlib.contextmanager
    def watched(path: Path) -> Iterator[Path]:
        nonlocal number
        number += 1
        mine = number
        with replacing(path) as temporary:
            told(mine, path, "begun")
            yield temporary
            content = temporary.read_bytes()
            os.truncate(temporary, len(content) // 2)
            told(mine, path, "half")
            temporary.write_bytes(content)
            told(mine, path, "whole")
        told(mine, path, "named")

    writing.replacing = acslib.data.files.replacing = watched


# ---- at random moments


def at_random(
    bench: Bench, kind: str, times: int, names: Sequence[str], begin: Path | None = None
) -> Iterator[Outcome]:
    """Runs side by side, of which one or all are killed, up to three times before they may end."""
    seconds = bench.seconds(names, begin)

    def disturb(results: Path) -> int:
        going = [bench.start(train(name), results) for name in names]
        time.sleep(bench.chance.uniform(0, seconds))
        for child in going if bench.chance.random() < 0.5 else [bench.chance.choice(going)]:
            child.kill()
        ended = [child.wait() for child in going]
        for one in ended:
            assert one.killed or one.code == 0, one.err
        return sum(one.killed for one in ended)

    finish = partial(bench.finish, names=names)
    yield from disturbed(bench, kind, times, disturb, finish, begin)


def disturbed(
    bench: Bench,
    kind: str,
    times: int,
    disturb: Callable[[Path], int],
    finish: Callable[[Path], tuple[Ending, str]],
    begin: Path | None = None,
) -> Iterator[Outcome]:
    """At least so many kills: a folder is disturbed up to three times, then finished and looked at.

    `disturb` gives how many it has killed.
    """
    done = tries = 0
    while done < times and tries < 10 * times:
        results, killed, tries = bench.folder(begin), 0, tries + 1
        try:
            for _ in range(bench.chance.randint(1, 3) if bench.share >= 1 else 1):
                killed += disturb(results)
            ending, said = finish(results)
        except AssertionError as error:  # one that was left alone did not end well
            ending, said = "failure", str(error)[-300:]
        case = f"kill {done + 1} to {done + killed}"
        yield from [Outcome(kind, case)] * (killed - (ending == "well"))
        if killed or ending != "well":
            yield Outcome(kind, case, ending, said)
        done += killed
        shutil.rmtree(results)
    if done < times:
        yield Outcome(kind, "", "failure", f"only {done} of {times} kills came in time")


def half_way(bench: Bench, seed: int = 0) -> Path:
    """Results with a run that was killed after a few epochs."""
    seen = []

    def third(number: int, path: Path) -> bool:
        seen.extend([number] * (path.name == "checkpoint.safetensors"))
        return len(seen) == 3

    return killed_at(bench, third, seed)


def before_evaluation(bench: Bench) -> Path:
    """Results with a run that was killed when its training was over."""
    return killed_at(bench, lambda number, path: path.name == "weights.safetensors")


def evaluated_otherwise(bench: Bench) -> Path:
    """Results with a run that was finished before a parameter of its evaluation was another one."""
    path = bench.params / "profiles" / f"{PROFILE}.yaml"
    now = path.read_text()
    path.write_text(now.replace("evaluation_steps: 3", "evaluation_steps: 20"))
    try:
        return bench.undisturbed([RUNS["gradmatch"]])
    finally:
        path.write_text(now)


def killed_at(bench: Bench, when: When, seed: int = 0) -> Path:
    results = bench.folder()
    name = RUNS["gradmatch"]
    ended = bench.ended(dying(train(name, seed), when, "begun"), results)
    assert ended.killed, ended.err
    assert (run_folder(results, name, seed) / "checkpoint.safetensors").exists()
    return results
