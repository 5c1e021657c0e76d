"""Files, written all at once or not at all.

`write_atomically` and `replacing` are the one way in which this project writes a file that another
process may read. Several writers do not disturb each other, on one machine or on a shared folder.
"""

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

SECONDS_A_WRITE_MAY_TAKE = 24 * 3600  # then its temporary file is taken for a dead process's


def user_path(path: str | Path, what: str) -> Path:
    """A path as its user wrote it, with ``~`` resolved. Raises ValueError where `what`, which is
    the path's name in a sentence, is of a user that there is not.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{what} is {str(path)!r}, and there is no such user: give the whole path"
        ) from error


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """All of the file or none of it: what stood at `path` stays until the new content is on disk.

    `content` is the bytes, or a function that writes them to an open file. Folders on the way to
    `path` are made. Raises OSError, and whatever `content` raises; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file in the folder of `path`, which takes the place of `path` at the end.

    For writers that want a path. Whatever interrupts them leaves `path` as it was. Raises OSError.
    """
    temporary = path.parent / _temporary_name()
    try:
        temporary.touch(exist_ok=False)
        permissions = temporary.stat().st_mode
        yield temporary
        with contextlib.suppress(OSError):  # some file systems have no permissions to set
            temporary.chmod(permissions)
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, removed at the end. Raises OSError."""
    temporary = folder / _temporary_name()
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_stale(folder: Path) -> None:
    """Removes the temporary files and folders that killed processes have left in `folder`.

    One is stale if its process on this machine has ended, or if nobody has touched it for a day.
    Never raises: clearing up is no reason to stop.
    """
    for path in folder.glob(".acs-*.part"):
        with contextlib.suppress(OSError):
            if _is_stale(path):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """An error in a few words on one line; one of the system's without its number and the path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _temporary_name() -> str:
    """Unique to this machine, this process and this call, however folders are shared."""
    return f".acs-{machine()}-{os.getpid()}-{secrets.token_hex(4)}.part"


@functools.cache
def machine() -> str:
    """Where process numbers mean what they mean here: one boot of a machine, one container."""
    where = [platform.node(), str(uuid.getnode())]
    with contextlib.suppress(OSError):  # Linux only
        where.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        where.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(" ".join(where).encode()).hexdigest()[:12]


def _is_stale(temporary: Path) -> bool:
    if time.time() - temporary.lstat().st_mtime > SECONDS_A_WRITE_MAY_TAKE:
        return True
    name = re.fullmatch(r"\.acs-([0-9a-f]+)-([0-9]+)-[0-9a-f]+\.part", temporary.name)
    return name is not None and name[1] == machine() and not _runs(int(name[2]))


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
