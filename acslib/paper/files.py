"""Files of results: written all at once or not at all."""

import contextlib
import errno
import json
import os
from pathlib import Path

RESULTS = Path(os.environ.get("ACS_RESULTS") or Path(__file__).parents[2] / "results")


class RecordError(ValueError):
    """A file of results is missing, damaged, made with other parameters, or could not be written."""


def write_atomically(path: Path, content: bytes) -> None:
    """All of the file or none of it: what stood at `path` stays until the new content is safely on
    disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = (
            "the disk is full: free some space"
            if error.errno == errno.ENOSPC
            else f"{error.strerror}: mend that"
        )
        raise RecordError(
            f"could not write {path}, {reason} and run again, it goes on from the last epoch"
        ) from error


def check_writable(folder: Path) -> None:
    """RecordError now, before any training, if nothing can be written to `folder`."""
    probe = folder / "writable"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, json.dumps(content, indent=1).encode())
