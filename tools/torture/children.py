"""Processes that may be killed: forked, so that each has everything imported already."""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

from tools.torture.outcomes import Ending

MEGABYTES_AT_MOST = 2500
SECONDS_AT_MOST = 120  # for what takes a few; longer is a hang
BROKEN = 70  # the exit code of a child that ended in an exception
numbers = count()


class Ended(NamedTuple):
    """How a child has ended: its exit code, negative for a signal, None for one that hung."""

    code: int | None
    out: str
    err: str
    seconds: float
    megabytes: int = 0  # at most, of memory

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Child:
    """A process that does `work` and exits with what that gives. What it prints goes to files."""

    def __init__(self, work: Callable[[], int], scratch: Path) -> None:
        self.path = scratch / f"child-{next(numbers)}"
        sys.stdout.flush()
        sys.stderr.flush()
        self.begun = time.monotonic()
        self.process = os.fork()
        if self.process == 0:
            live(work, self.path)

    def kill(self) -> None:
        """SIGKILL, unless it has ended by itself."""
        os.kill(self.process, signal.SIGKILL)  # nobody has waited for it: the number is its own

    def wait(self, at_most: float = SECONDS_AT_MOST) -> Ended:
        """How it ends, or has ended; one that takes longer than `at_most` seconds is killed."""
        hung = False
        while True:
            process, status, usage = os.wait4(self.process, os.WNOHANG)
            if process:
                break
            if not hung and time.monotonic() - self.begun > at_most:
                hung = True
                self.kill()
            time.sleep(0.002)
        seconds = time.monotonic() - self.begun
        out, err = (self.text(kind) for kind in ("out", "err"))
        code = None if hung else os.waitstatus_to_exitcode(status)
        return Ended(code, out, err, seconds, usage.ru_maxrss // 1024)

    def text(self, kind: str) -> str:
        """What it has printed. The file goes."""
        path = self.path.with_suffix(f".{kind}")
        if not path.exists():  # killed before it had one
            return ""
        content = path.read_text(encoding="utf-8", errors="backslashreplace")
        path.unlink()
        return content


def live(work: Callable[[], int], path: Path) -> None:
    """What a child does until its end."""
    code = BROKEN
    try:
        for stream, kind in ((1, "out"), (2, "err")):
            file = os.open(path.with_suffix(f".{kind}"), os.O_WRONLY | os.O_CREAT)
            os.dup2(file, stream)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def within_memory(work: Callable[[], int]) -> Callable[[], int]:
    """Work that gets MemoryError before it takes all that the machine has."""

    def limited() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2 * MEGABYTES_AT_MOST * 1024**2
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return work()

    return limited


# ---- judging


def refused(ended: Ended, *names: str) -> tuple[Ending, str]:
    """Whether a command has refused in one plain line that has all of `names` in it."""
    bad = broken(ended)
    if bad:
        return bad
    lines = ended.err.splitlines()
    if ended.code != 2 or len(lines) != 1:
        return "failure", f"exit code {ended.code}, {len(lines)} lines: {ended.err[-300:]!r}"
    return plain(lines[0], *names)


def plain(line: str, *names: str) -> tuple[Ending, str]:
    """Whether a line is what people are told."""
    odd = [
        word for word in ("object at 0x", "pydantic", "<class ", "Error:", "[Errno") if word in line
    ]
    if not line.startswith("acs: ") or odd or len(line) > 2000:
        return "failure", f"is no plain sentence: {line[:300]!r}"
    missing = [name for name in names if name not in line]
    if missing:
        return "failure", f"does not name {missing[0]}: {line[:300]!r}"
    return "well", ""


def too_large(ended: Ended) -> tuple[Ending, str] | None:
    """More memory than anything small may take."""
    if ended.megabytes <= MEGABYTES_AT_MOST:
        return None
    return "failure", f"took {ended.megabytes} MB"


def broken(ended: Ended) -> tuple[Ending, str] | None:
    """A hang or a traceback, with its last line."""
    if ended.code is None:
        return "hang", f"no end after {ended.seconds:.0f} s"
    if "Traceback (most recent call last)" in ended.err or ended.code == BROKEN:
        return "traceback", (ended.err.strip().splitlines() or ["exit code 70"])[-1][:300]
    return None
