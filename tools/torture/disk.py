"""A full disk, at any write: a sentence that says so, and the same command goes on once there is
room. Where this may mount a small disk (Linux, as root), it really is full.
"""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from acslib import writing
from tools.torture.bench import RUNS, Bench, Work, train
from tools.torture.children import Ended, broken, refused
from tools.torture.kills import count_writes
from tools.torture.outcomes import Ending, Outcome

NAME = RUNS["gradmatch"]
KILOBYTES = (4, 12, 20, 28, 36, 44, 60, 76, 92, 108)  # the run needs a little more


def disk(bench: Bench) -> Iterator[Outcome]:
    yield from at_every_write(bench, "full at every write (the error alone)")
    yield from too_long(bench, "no file above a size (RLIMIT_FSIZE)")
    if can_mount(bench.scratch / "mounted"):
        for kilobytes in bench.some(KILOBYTES):
            yield Outcome("a disk of a few kB (tmpfs)", f"{kilobytes} kB", *small(bench, kilobytes))


def judged(bench: Bench, ended: Ended, results: Path, said: str) -> tuple[Ending, str]:
    """Refused with that reason, and finished afterwards."""
    if bad := broken(ended):
        return bad
    if ended.code == 0:
        return bench.as_undisturbed(results, [NAME])
    refusal = refused(ended, said)
    return refusal if refusal[0] != "well" else bench.finish(results, [NAME])


# ---- without a small disk


def at_every_write(bench: Bench, kind: str) -> Iterator[Outcome]:
    """The error of a full disk, raised where the system would."""
    writes = count_writes(bench, train(NAME))
    for number in bench.some(range(1, writes + 1)):
        results = bench.folder()
        ended = bench.ended(full_at(number), results)
        yield Outcome(kind, f"write {number}", *judged(bench, ended, results, "the disk is full"))
        shutil.rmtree(results)


def full_at(number: int) -> Work:
    def work() -> int:
        flush, seen = writing._flush_to_disk, []

        def full(path: Path) -> None:
            seen.append(path)
            if len(seen) >= number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            flush(path)

        writing._flush_to_disk = full
        return train(NAME)()

    return work


def too_long(bench: Bench, kind: str) -> Iterator[Outcome]:
    """No file may have more bytes than so many."""
    for size in bench.some((2000, 5000, 10_000, 20_000, 40_000)):
        results = bench.folder()

        def limited(size: int = size) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            return train(NAME)()

        ended = bench.ended(limited, results)
        yield Outcome(kind, f"{size} bytes", *judged(bench, ended, results, "could not write"))
        shutil.rmtree(results)


# ---- with one


def can_mount(place: Path) -> bool:
    try:
        with mounted(place, 64):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def mounted(place: Path, kilobytes: int) -> Iterator[None]:
    """A disk in memory of so many kB. OSError where nobody may mount one."""
    place.mkdir(exist_ok=True)
    try:
        mount(f"size={kilobytes}k", place)
        yield
    finally:
        subprocess.run(["umount", str(place)], capture_output=True)


def mount(options: str, place: Path) -> None:
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if subprocess.run(words, capture_output=True).returncode:
        raise OSError("only root on Linux may mount")


def small(bench: Bench, kilobytes: int) -> tuple[Ending, str]:
    """The results on a disk that is too small, and then large enough."""
    place = bench.scratch / "mounted"
    with mounted(place, kilobytes):
        ended = bench.ended(train(NAME), place)
        if ended.code == 2:
            remount = ["mount", "-o", "remount,size=64m", str(place)]
            subprocess.run(remount, capture_output=True, check=True)
        return judged(bench, ended, place, "the disk is full")
