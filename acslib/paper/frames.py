"""CSVs of results: written whole or not at all, and checked when they are read back.

Beside `table1.csv` its SHA-256 is kept in `table1.csv.sha256`, as `sha256sum -c` reads it. A CSV
without one is read as it is, if its shape is right: version 0.1.0 wrote none, and published CSVs
are git's to check.
"""

import csv
import fcntl
import hashlib
import io
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from acslib.paper import files
from acslib.writing import reason

# columns of names and digests, which may look like numbers or like nothing: `2`, `1e5`, `nan`
WORDS = dict.fromkeys(
    (
        *("table", "model", "objective", "dataset", "method", "method_label", "setting", "run"),
        *("profile", "data", "network", "device", "precision", "torch", "commit", "weights", "arm"),
    ),
    str,
)
# how the names of columns with numbers end
UNITS = ("_pct", "_min", "_s", "_x", "_255", "_epochs", "_n", "_images")


def write_frame(path: Path, table: pd.DataFrame) -> Path:
    """Write a CSV atomically, and its checksum; gives the CSV's path."""
    content = table.to_csv(index=False).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(path.parent):  # or another writer's CSV could stand beside this checksum
            # killed here, it leaves a CSV without a checksum: no whole one is ever refused
            checksum_file(path).unlink(missing_ok=True)
            files.write_file(path, content)
            files.write_file(checksum_file(path), checksum_line(path, content).encode())
    except OSError as error:
        raise files.unwritten(path, error) from error
    return path


def checksum_file(path: Path) -> Path:
    """Where a CSV's SHA-256 stands."""
    return path.with_name(f"{path.name}.sha256")


def checksum_line(path: Path, content: bytes) -> str:
    """A line as `sha256sum` writes it."""
    return f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"


def read_frame(path: Path, needed: Collection[str], way_out: str) -> pd.DataFrame:
    """A CSV with at least the columns `needed`.

    Raises RecordError, with the file's name and `way_out`, for one that is missing, cut off, not
    what its checksum is of, no table, or without those columns, and for words where its columns
    have numbers.
    """
    if not path.is_file():
        raise files.RecordError(f"there is no {path}: {way_out}")
    try:
        content = read_checked(path)
        text = content.decode()
        check_shape(text)
        table = pd.read_csv(io.StringIO(text), dtype=WORDS, keep_default_na=False, na_values=[""])
        check_columns(table, needed)
    except (ValueError, csv.Error, OSError) as error:
        raise files.RecordError(f"{path} is damaged ({reason(error)}): {way_out}") from None
    return table


def read_checked(path: Path) -> bytes:
    """What a file holds. ValueError if that is not what the checksum beside it is of."""
    with files.locked(path.parent, fcntl.LOCK_SH):
        content, beside = path.read_bytes(), checksum_file(path)
        known = beside.read_bytes() if beside.is_file() else None
    if known not in (None, checksum_line(path, content).encode()):
        raise ValueError(f"its SHA-256 is not the one in {beside.name}")
    return content


def check_shape(text: str) -> None:
    """ValueError unless every line has as many cells as the first, and the last one ends."""
    header, *rows = list(csv.reader(io.StringIO(text), strict=True)) or [[]]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise ValueError(f"the column {twice[0]!r} is there twice")
    if not rows:
        raise ValueError("it has no rows")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, the first {len(header)}")
    if not text.endswith("\n"):
        raise ValueError("its last line is cut off")


def check_columns(table: pd.DataFrame, needed: Collection[str]) -> None:
    """ValueError for a column that is not there, and for words in a column of numbers."""
    if missing := sorted(set(needed) - set(table)):
        raise ValueError(f"it has no column {', '.join(missing)}")
    for name in table:
        if name.endswith(UNITS) and not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"its column {name} holds words, numbers are needed")
