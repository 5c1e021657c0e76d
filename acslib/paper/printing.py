"""Words, times and tables as the command line prints them; pictures in HTML."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Words in columns."""
    lines = [list(titles), *map(list, rows)] if titles else [list(row) for row in rows]
    if not lines:
        return
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def printed_value(found: Any) -> str:
    """A parameter or result to six digits, - for None."""
    if found is None:
        return "-"
    return f"{found:.6g}" if isinstance(found, float) else str(found)


def counted(number: float, one: str, many: str = "") -> str:
    """How many there are of what is called `one`; several are called `many`, else with an s."""
    return f"{number:.0f} {one if number == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """A time to people's precision."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def html_image(words: str, png: str, **attributes: object) -> str:
    """A PNG in base64 as HTML that says in words what is seen."""
    more = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f'<img alt="{escape(words)}"{more} src="data:image/png;base64,{png.strip()}">'
