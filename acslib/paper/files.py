"""Files of results: where they are, and what goes wrong with them, in a sentence."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from acslib import writing

CHECKOUT = Path(__file__).parents[2]  # params/, notebooks/ and results/ lie in it


def _results_folder() -> Path:
    """ACS_RESULTS with ``~`` resolved, else `results/`. Ends the program where `~nobody` is nobody,
    as no result could be found, or be kept where it is looked for.
    """
    named = os.environ.get("ACS_RESULTS")
    if not named:
        return CHECKOUT / "results"
    try:
        return writing.user_path(named, "ACS_RESULTS")
    except ValueError as error:
        print(f"acs: {error}", file=sys.stderr)
        raise SystemExit(2) from None


RESULTS = _results_folder()


def figures_folder(results: Path) -> Path:
    """Where the figures that belong to a folder of results go: beside it."""
    return results.parent / "figures"


TEMPORARY_OF_0_1_0 = re.compile(r"\..*\.(json|safetensors|csv|tex|md|png|pdf)\.[0-9]+")


def results_as_named() -> Path:
    """The folder of results as Make and messages name it."""
    return Path(os.environ.get("ACS_RESULTS") or "results")


def file_digest(content: bytes) -> str:
    """16 hexadecimal digits of a file's SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


class Refusal(ValueError):
    """What whoever gave a value, or a file, can put right. The sentence is all that they need."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the sentence alone."""
        return [str(self)]


class RecordError(Refusal):
    """A file of results is missing, damaged, of other parameters, or could not be written."""


def named_paths(variable: str) -> list[Path]:
    """The absolute paths that a variable like ACS_PARAMS names, separated by colons."""
    words = filter(None, os.environ.get(variable, "").split(":"))
    try:
        return [writing.user_path(word, f"a path of {variable}").absolute() for word in words]
    except ValueError as error:
        raise Refusal(str(error)) from error


def write_file(path: Path, content: bytes) -> None:
    """All of the file or none of it: what stood at `path` stays until the new content is safely on
    disk. What killed writers left beside it goes.
    """
    try:
        writing.write_atomically(path, content)
    except OSError as error:
        raise unwritten(path, error) from error
    clear_leftovers(path.parent)


def unwritten(path: Path, error: OSError) -> RecordError:
    """What to raise where a file or folder could not be written."""
    full = error.errno == errno.ENOSPC
    reason = "the disk is full: free some space" if full else f"{error.strerror}: mend that"
    return RecordError(
        f"could not write {path}, {reason} and run again; a run goes on from its last epoch"
    )


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files whose writers were killed."""
    writing.clear_stale(folder)
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if TEMPORARY_OF_0_1_0.fullmatch(file.name):
                if time.time() - file.stat().st_mtime > writing.SECONDS_A_WRITE_MAY_TAKE:
                    file.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """RecordError now, before any training, if nothing can be written to `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with writing.scratch_folder(folder) as scratch:
            (scratch / "probe").write_bytes(b"\0")
    except OSError as error:
        raise unwritten(folder, error) from error


@contextlib.contextmanager
def locked(folder: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """A lock of a folder, which needs no file that a killed process would leave. Where the file
    system has no locks there is none.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)


def write_json(path: Path, content: dict) -> None:
    """All of the file or none of it, as `write_file`."""
    write_file(path, json.dumps(content, indent=1).encode())
