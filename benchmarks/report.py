"""What benchmarks find, as it is found: lines on the screen, and a JSON and a Markdown file."""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Report:
    """Rows of numbers, by part and name. `folder` None writes no files.

    The files are written anew with every row: what is stopped leaves what it has.
    """

    def __init__(self, title: str, about: dict[str, Any], folder: Path | None = None):
        self.title, self.about, self.folder = title, about, folder
        self.rows: list[dict[str, Any]] = []
        self.started = time.perf_counter()

    def row(self, part: str, name: str, **numbers: Any) -> None:
        self.rows.append({"part": part, "name": name, "numbers": numbers})
        print(f"[{self.seconds():5.0f} s] {part:11s} {name:52s} {in_words(numbers)}", flush=True)
        self.write()

    def check(self, part: str, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """A row of what `measure` gives, or of the error that it ends in: the others still run."""
        try:
            numbers = measure()
        except Exception as error:
            traceback.print_exc(limit=-6)
            numbers = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
        self.row(part, name, **numbers)

    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def failures(self) -> list[str]:
        return [row["name"] for row in self.rows if "failed" in row["numbers"]]

    def write(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"title": self.title, "about": self.about, "rows": self.rows}
        (self.folder / "report.json").write_text(json.dumps(content, indent=1) + "\n")
        (self.folder / "README.md").write_text(self.markdown())

    def markdown(self) -> str:
        lines = [f"# {self.title}", ""]
        lines += [f"- {name}: {shown(value)}" for name, value in self.about.items()]
        parts = dict.fromkeys(row["part"] for row in self.rows)
        for part in parts:
            lines += ["", f"## {part.capitalize()}", "", "| what | found |", "|---|---|"]
            for row in self.rows:
                if row["part"] == part:
                    cells = (row["name"], in_words(row["numbers"]))
                    lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        return "\n".join(lines) + "\n"


def in_words(numbers: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in numbers.items())


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
