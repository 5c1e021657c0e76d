"""Archives and pickles, read so that nothing in them can do anything.

An archive is read into memory, never unpacked onto the disk.
"""

import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import numpy as np

from acslib.data.files import DataError
from acslib.writing import reason

UNPACKED_BYTES_AT_MOST = 1 << 30  # five times CIFAR-10


def read_archive(archive: Path) -> dict[str, bytes]:
    """The regular files of a .zip, .tar, .tgz, .tar.gz or .tar.xz, by name.

    Nothing is written to disk. Raises DataError if the archive is damaged, unpacks to more than
    `UNPACKED_BYTES_AT_MOST`, holds links or devices, a name twice, or a name that would lie outside
    of its folder.
    """
    read = _zipped if archive.suffix == ".zip" else _tarred
    files: dict[str, bytes] = {}
    try:
        for name, content in read(archive):
            _check_member(archive, name, name in files)
            files[name] = content
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
        *(OSError, UnicodeError, RuntimeError, struct.error),  # of archives odder than damaged
    ) as error:
        raise DataError(f"{archive} is damaged ({reason(error)}): fetch it again") from error
    return files


def _check_member(archive: Path, name: str, known: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts
    if outside or not path.parts or ":" in path.parts[0]:
        raise DataError(f"{archive} has {name!r}, outside of its folder: do not use it")
    if known:
        raise DataError(f"{archive} has {name!r} twice: do not use it")


def _zipped(archive: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as file:
        members = [member for member in file.infolist() if not member.is_dir()]
        _check_size(archive, sum(member.file_size for member in members))
        for member in members:
            kind = member.external_attr >> 16 & 0o170000
            if kind not in (0, 0o100000):
                raise DataError(
                    f"{archive} has {member.filename!r}, no regular file: do not use it"
                )
            yield member.filename, file.read(member)


def _tarred(archive: Path) -> Iterator[tuple[str, bytes]]:
    with (
        _unpacked(archive) as plain,
        tarfile.open(fileobj=cast(BinaryIO, _AtMost(archive, plain)), mode="r|") as tar,
    ):
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg():
                raise DataError(f"{archive} has {member.name!r}, no regular file: do not use it")
            _check_size(archive, member.size)
            content = tar.extractfile(member)
            assert content is not None  # it is a regular file
            yield member.name, content.read()


def _unpacked(archive: Path) -> BinaryIO:
    if archive.suffix in (".tgz", ".gz"):
        return cast(BinaryIO, gzip.open(archive))
    return cast(BinaryIO, lzma.open(archive) if archive.suffix == ".xz" else archive.open("rb"))


class _AtMost:
    """A file that refuses to be read beyond the limit, whatever its headers promise."""

    def __init__(self, archive: Path, file: BinaryIO) -> None:
        self.archive, self.file, self.read_so_far = archive, file, 0

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.read_so_far += len(content)
        _check_size(self.archive, self.read_so_far)
        return content


def _check_size(archive: Path, size: int) -> None:
    if size > UNPACKED_BYTES_AT_MOST:
        raise DataError(
            f"{archive} unpacks to more than {UNPACKED_BYTES_AT_MOST} bytes: do not use it"
        )


# -------------------------------------------------------------------------------------------------
# pickles


class _ArrayUnpickler(pickle.Unpickler):
    """Can make numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.empty(0).__reduce__()[0]
        parts = {
            ("numpy.core.multiarray", "_reconstruct"): reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): reconstruct,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in parts:
            raise DataError(f"a pickle of arrays asks for {module}.{name}: do not use it")
        return parts[module, name]


def read_pickle(content: bytes, where: Path | str) -> Any:
    """Numbers, words, lists, dictionaries and numpy arrays, as Python 2 or 3 has pickled them.

    A pickle with anything else in it is refused before it can do it. Raises DataError.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # damaged pickles end in whatever their bytes ask for
        raise DataError(
            f"{where} is incomplete or damaged ({reason(error)}): fetch it again"
        ) from error
