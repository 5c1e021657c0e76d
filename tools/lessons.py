"""Notebooks for students and with answers, made from the sources in `notebooks/lessons/`.

    python tools/lessons.py                   # into build/lessons/student and build/lessons/answers
    python tools/lessons.py --for-marking     # the students' without the folded answers

A source is a Python file in jupytext's percent format. A cell tagged "exercise" holds the answer
and the stub that takes its place:

    def cost(distances, chosen):
        # >>> answer
        return distances[:, chosen].min(1).values.sum()
        # >>> stub
        # return None  # for each sample the nearest chosen one, then the sum
        # <<<

Students get the stub, and the answer folded under the exercise's text. Nothing is executed, and the
same sources give the same bytes.

Links to documents lead from where a notebook is written. Outside the repository there is nothing
that they could lead to: there a notebook names its documents, and its pictures lie beside it.
"""

import argparse
import os
import re
import shutil
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "notebooks" / "lessons"
HELPERS = ("course.py", "checks.py")
BLOCK = re.compile(
    r"^ *# >>> answer\n(?P<answer>.*?)^ *# >>> stub\n(?P<stub>.*?)^ *# <<<(?:\n|\Z)", re.M | re.S
)
HERE = "../.."  # where the repository is, seen from a source: so begin its links to documents
LINK = re.compile(rf"(?P<picture>!?)\[(?P<text>[^]]*)\]\({re.escape(HERE)}/(?P<place>[^)]+)\)")


def sources() -> list[Path]:
    """The lessons in order."""
    return sorted(SOURCES.glob("[0-9][0-9]_*.py"))


def with_answers(code: str) -> str:
    """The cell as it is solved."""
    return BLOCK.sub(lambda block: block["answer"], code).rstrip()


def with_stubs(code: str) -> str:
    """The cell as a student gets it: the stub's lines lose their comment sign."""
    return BLOCK.sub(
        lambda block: re.sub(r"^( *)# ?", r"\1", block["stub"], flags=re.M), code
    ).rstrip()


def is_exercise(cell) -> bool:
    return cell.cell_type == "code" and "exercise" in cell.metadata.get("tags", [])


def notebook(
    source: Path, version: str, *, folded: bool = True, root: str | None = HERE
) -> nbformat.NotebookNode:
    """One lesson. version: "student" or "answers". folded: students may unfold the answers.

    root: the repository, seen from where the notebook will be; None where that is elsewhere.

    Raises ValueError for an exercise without a block, and for a block outside an exercise.
    """
    lesson = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(lesson.cells):
        cell["id"] = f"{source.stem[:2]}-{number:02d}"
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(lambda link: led_from(root, link), cell.source)
        if is_exercise(cell) != ("# >>> answer" in cell.source):
            raise ValueError(
                f"{source.name}, cell {number}: an exercise needs the tag and the lines"
                " '# >>> answer', '# >>> stub', '# <<<'"
            )
        if is_exercise(cell):
            answer = with_answers(cell.source)
            cell.source = answer if version == "answers" else with_stubs(cell.source)
            if version == "student" and folded:
                fold(lesson.cells[number - 1], answer)
    lesson.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    lesson.nbformat, lesson.nbformat_minor = 4, 5
    return lesson


def led_from(root: str | None, link: re.Match) -> str:
    """A link to a document or picture, as it leads from a notebook."""
    if root is not None:
        return f"{link['picture']}[{link['text']}]({root}/{link['place']})"
    if link["picture"]:
        return f"![{link['text']}]({Path(link['place']).name})"
    return f"{link['text']} (`{link['place']}` in the repository)"


def pictures() -> dict[str, Path]:
    """The repository's pictures that lessons show, by name."""
    cells = [cell for source in sources() for cell in notebook(source, "student").cells]
    links = [link for cell in cells for link in LINK.finditer(cell.source)]
    found = [ROOT / link["place"] for link in links if link["picture"]]
    return {path.name: path for path in found}


def root_from(folder: Path) -> str | None:
    """The repository, seen from a folder in it; None for a folder elsewhere."""
    folder = folder.resolve()
    inside = folder.is_relative_to(ROOT.resolve())
    return Path(os.path.relpath(ROOT, folder)).as_posix() if inside else None


def fold(text, answer: str) -> None:
    """Put the answer, folded, at the end of the exercise's text."""
    text.source += (
        f"\n\n<details><summary>Answer</summary>\n\n```python\n{answer}\n```\n\n</details>"
    )


def make(folder: Path, *, folded: bool = True) -> list[Path]:
    """Both versions of every lesson, and beside them the two helpers, outside the repository the
    pictures, too.
    """
    made = []
    for version in ("student", "answers"):
        (folder / version).mkdir(parents=True, exist_ok=True)
        root = root_from(folder / version)
        beside = {name: SOURCES / name for name in HELPERS} | ({} if root else pictures())
        for name, path in beside.items():
            shutil.copyfile(path, folder / version / name)
        for source in sources():
            path = folder / version / f"{source.stem}.ipynb"
            nbformat.write(notebook(source, version, folded=folded, root=root), path)
            made.append(path)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "lessons")
    parser.add_argument(
        "--for-marking", action="store_true", help="leave the folded answers out for students"
    )
    options = parser.parse_args()
    made = make(options.into, folded=not options.for_marking)
    print(f"{len(made)} notebooks in {options.into}/student and {options.into}/answers")


if __name__ == "__main__":
    main()
