"""Files of results: written all at once or not at all."""

import contextlib
import errno
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

RESULTS = Path(os.environ.get("ACS_RESULTS") or Path(__file__).parents[2] / "results")
HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"
TEMPORARY = re.compile(r"\..*\.(?P<host>[A-Za-z0-9-]+)\.(?P<process>[0-9]+)\.[0-9a-f]{16}\.part")
OLD_TEMPORARY = re.compile(r"\..*\.(json|safetensors|csv|tex|md|png|pdf)\.[0-9]+")  # of 0.1.0
DAY = 24 * 3600  # seconds, after which a temporary file of another machine is nobody's any more


class RecordError(ValueError):
    """A file of results is missing, damaged, of other parameters, or could not be written."""


def write_atomically(path: Path, content: bytes) -> None:
    """All of the file or none of it: what stood at `path` stays until the new content is safely on
    disk. What killed writers left beside it goes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent)
        with temporary(path) as beside, beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(beside, path)
    except OSError as error:
        reason = (
            "the disk is full: free some space"
            if error.errno == errno.ENOSPC
            else f"{error.strerror}: mend that"
        )
        raise RecordError(
            f"could not write {path}, {reason} and run again, it goes on from the last epoch"
        ) from error


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` that no other writer has, on any machine; gone at the end."""
    token = secrets.token_hex(8)
    beside = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{token}.part")
    try:
        yield beside
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files whose writers were killed."""
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if is_leftover(file):
                file.unlink(missing_ok=True)


def is_leftover(file: Path) -> bool:
    """Whether this is a temporary file that nobody writes any more.

    Its process is dead or, where that cannot be known, it has not changed for a day.
    """
    named = TEMPORARY.fullmatch(file.name)
    if named and named["host"] == HOST and not _alive(int(named["process"])):
        return True
    old = named or OLD_TEMPORARY.fullmatch(file.name)
    return bool(old) and time.time() - file.stat().st_mtime > DAY


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # another user's
    return True


def check_writable(folder: Path) -> None:
    """RecordError now, before any training, if nothing can be written to `folder`."""
    probe = folder / "writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary(probe) as beside:
            beside.write_bytes(b"\0")
    except OSError as error:
        raise RecordError(
            f"could not write to {folder}, {error.strerror}: mend that and run again"
        ) from error


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, json.dumps(content, indent=1).encode())
