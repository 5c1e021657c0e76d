"""The site: README, course, results, documents and API, gathered for Sphinx and built.

    python tools/make_site.py               # build/site, which reads without a network
    EXECUTE=no python tools/make_site.py    # the lessons without their outputs: a minute or two

What Sphinx reads is gathered in build/site-source, in the places that the repository has: links
between documents stay as they are. What a document links to comes along: a module of acslib as its
page in the API, a folder as a page that shows its files, any other file as a download. Sphinx's own
settings are in docs/site/conf.py. Its warnings are errors.

The lessons are the students'. Their outputs are kept in build/site-cache: a lesson is executed
again when it has changed, or all are when their helpers or the library have.
"""

import ast
import hashlib
import importlib
import inspect
import io
import os
import posixpath
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias, ModuleType

import lessons
import nbformat

from acslib.paper import page, paramfiles

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
PUBLISHED = ROOT / "results" / "published"
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "results/published/**/*.md",
    "results/*/paper.md",  # what `make paper` has made here
)
# the menu; a page that is not there is left out, and a document that is not listed comes last, in
# the last chapter, or in that of results
CHAPTERS = {
    "Course": ("lessons/index", "docs/teaching"),
    "Results": (
        *("results/published/README", "docs/claims", "docs/study"),
        *("results/published/mini/README", "results/published/demo/README", "results/paper/index"),
        *("results/published/bench/README", "docs/lab-book"),
    ),
    "How it works": (
        *("docs/architecture", "docs/differences", "docs/reference"),
        *("docs/reliability", "docs/scaling", "api/index"),
    ),
    "Taking part": ("examples/index", "CONTRIBUTING", "CHANGELOG"),
}
LINK = re.compile(r"(!?\[(?:\\.|[^]\\])*\])\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
DIAGRAM = re.compile(r"^```mermaid\n.*?^```\n+", re.M | re.S)  # only a script of others draws it
TITLES = {"examples": "Examples", "results/paper": "The paper's tables, as printed"}  # of folders
SHOWN = {".py": "python", ".yaml": "yaml"}  # files whose text the page of a folder shows


def gather(source: Path) -> None:
    """Write all that Sphinx reads."""
    shutil.rmtree(source, ignore_errors=True)
    documents = [path for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern))]
    linked = {target for document in documents for target, _ in links(document)} - set(documents)
    folders = sorted(path for path in linked if path.is_dir() and place_of(path) != "lessons/index")
    pages = [*map(place_of, documents), *map(place_of, folders), "lessons/index", "api/index"]
    for document in documents:
        write(source / f"{place_of(document)}.md", with_links(document) + contents(document, pages))
    for folder in folders:
        write(source / f"{place_of(folder)}.md", folder_page(folder))
    for path in linked | {file for folder in folders for file in folder.iterdir()}:
        if path.is_file() and not place_of(path).startswith("api/"):
            write(source / path.relative_to(ROOT), path.read_bytes())
    for folder in profile_folders():
        write(source / folder.relative_to(ROOT) / "paper.pdf", paper_pdf(folder))
    write_course(source / "lessons")
    write_api(source / "api")


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def place_of(path: Path) -> str:
    """The page, without its ending, that shows a file or folder of the repository."""
    place = path.relative_to(ROOT)
    if path == ROOT / "README.md":
        return "index"
    if path == lessons.SOURCES:
        return "lessons/index"
    if path.is_dir():
        return f"{place}/index"
    if place.parts[0] == "acslib" and path.suffix == ".py":
        return f"api/{module_name(path)}"
    return str(place.with_suffix("") if path.suffix == ".md" else place)


# ---- documents


def links(document: Path) -> Iterator[tuple[Path, re.Match]]:
    """The files and folders of ours that a document links to, and the links."""
    for link in LINK.finditer(document.read_text()):
        yield (document.parent / link[2]).resolve(), link


def with_links(document: Path) -> str:
    """A document whose links lead to the site's pages; diagrams that need a script are left out."""
    text = document.read_text()
    for target, link in links(document):
        text = text.replace(link[0], f"{link[1]}({address(document, target)}{link[3] or ''})")
    if document.parent in profile_folders():
        text = text.replace("\n## ", "\n{download}`All of it as a PDF <paper.pdf>`\n\n## ", 1)
    return DIAGRAM.sub("", text)


def address(document: Path, target: Path) -> str:
    """Where a page's link to a file or folder leads."""
    found = place_of(target)
    ending = {"api": ".rst"}.get(found.split("/")[0], ".md")
    if target.is_file() and target.suffix != ".md" and not found.startswith("api/"):
        ending = ""
    leads = posixpath.relpath(found + ending, posixpath.dirname(place_of(document)) or ".")
    return f"path:{leads}" if target.suffix == ".ipynb" else leads  # a download, not a page


def contents(document: Path, pages: list[str]) -> str:
    """The menu, a group a chapter, for the first page; nothing for others."""
    if place_of(document) != "index":
        return ""
    listed = {name for chapter in CHAPTERS.values() for name in chapter}
    more: dict[str, list[str]] = {chapter: [] for chapter in CHAPTERS}
    for name in pages:
        if name not in listed and name != "index":
            more["Results" if name.startswith("results/") else "Taking part"].append(name)
    chapters = {chapter: (*names, *more[chapter]) for chapter, names in CHAPTERS.items()}
    trees = [
        "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *there, "```"])
        for caption, names in chapters.items()
        if (there := [name for name in names if name in pages])
    ]
    return "\n".join([*trees, ""])


def folder_page(folder: Path) -> str:
    """A folder as a page: the text of its programs and parameters, other files as downloads."""
    name = str(folder.relative_to(ROOT))
    parts = [f"# {TITLES.get(name, name)}"]
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.suffix in SHOWN:
            include = f"```{{literalinclude}} {path.name}\n:language: {SHOWN[path.suffix]}\n```"
            parts += [f"## {path.name}", include]
        else:
            parts.append(f"- {{download}}`{path.name}`")
    return "\n\n".join([*parts, ""])


def profile_folders() -> list[Path]:
    """Where a profile's tables and figures are published; the page of speed is none."""
    return [PUBLISHED / name for name in paramfiles.profiles() if (PUBLISHED / name).is_dir()]


def paper_pdf(folder: Path) -> bytes:
    """A profile's published tables and figures as `make paper` prints them."""
    names, profile = page.items_in_order(), folder.name
    items = [page.entry(name, profile, [0], PUBLISHED, PUBLISHED) for name in names]
    said = (folder / "README.md").read_text().split("\n\n")[1]
    return page.pdf_pages(items, re.sub(r"\\(.)", r"\1", said))


# ---- the course


def write_course(folder: Path) -> None:
    """The students' notebooks with their helpers, an archive of all, and a page before them."""
    helpers = {name: (lessons.SOURCES / name).read_bytes() for name in lessons.HELPERS}
    for name, content in (helpers | notebooks(root="..")).items():
        write(folder / name, content)
    pictures = {name: path.read_bytes() for name, path in lessons.pictures().items()}
    write(folder / "lessons.zip", archive(helpers | notebooks(root=None) | pictures))
    write(folder / "index.md", course_page())


def notebooks(root: str | None) -> dict[str, bytes]:
    """The students' notebooks by their names. root: as `lessons.notebook` has it."""
    made = {source: lessons.notebook(source, "student", root=root) for source in lessons.sources()}
    return {
        f"{source.stem}.ipynb": f"{nbformat.writes(lesson)}\n".encode()
        for source, lesson in made.items()
    }


def archive(files: dict[str, bytes]) -> bytes:
    """A zip archive that is the same for the same files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, held in files.items():
            file.writestr(zipfile.ZipInfo(f"lessons/{name}"), held)
    return content.getvalue()


def course_page() -> str:
    """What the lessons are about, and how to work through them."""
    heads = [(source, lessons.notebook(source, "student").cells[0]) for source in lessons.sources()]
    entries = [f"- [{title(cell)}]({source.stem}.ipynb). {goal(cell)}" for source, cell in heads]
    names = "\n".join(source.stem for source, _ in heads)
    return f"""# The course

From adversarial examples to reading the paper's tables critically, in nine lessons of 45 to 60
minutes. Each asks for predictions before it shows an experiment, and has exercises that check
themselves. The pages show the lessons as they run. Where a notebook has a slider, a page has
pictures of several of its positions.

To work through the lessons, take their notebooks ({{download}}`lessons.zip`) and open them where
`acslib` is installed, or type `make lessons` in a checkout. [Teaching](../docs/teaching.md) has a
plan for three weeks, and what usually goes wrong.

{chr(10).join(entries)}

```{{toctree}}
:hidden:

{names}
```
"""


def title(cell: nbformat.NotebookNode) -> str:
    return cell.source.splitlines()[0].removeprefix("# ")


def goal(cell: nbformat.NotebookNode) -> str:
    """What a lesson's first cell says that one can do afterwards, and the minutes it takes."""
    found = re.search(r"\*\*Afterwards you can\*\*(.*?)\n\n", cell.source, re.S)
    minutes = re.search(r"\*\*Minutes:\*\* (\d+)", cell.source)
    if not found or not minutes:
        raise ValueError(f"the head of {title(cell)!r} lacks goals or minutes")
    return f"Afterwards you can{found[1].replace(chr(10), ' ')} {minutes[1]} minutes."


# ---- the API


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> list[str]:
    """The modules of the library and of the experiments, but for private ones and the commands."""
    paths = sorted((ROOT / "acslib").rglob("*.py"))
    shown = [path for path in paths if not re.match(r"_(?!_init__)|cli\.py", path.name)]
    return list(map(module_name, shown))


def write_api(folder: Path) -> None:
    """A page a module, with everything public in it, and a page before them."""
    names = modules()
    for name in names:
        write(folder / f"{name}.rst", api_page(importlib.import_module(name)))
    write(folder / "index.rst", api_index(names))


def api_index(names: list[str]) -> str:
    """The page before the modules': those of the method, then those of the experiments."""
    parts = [heading("API reference")]
    for caption, paper in (("The method", False), ("The experiments", True)):
        pages = [name for name in names if name.startswith("acslib.paper") == paper]
        tree = [".. toctree::", "   :maxdepth: 1", "", *(f"   {name}" for name in pages)]
        parts += [heading(caption, "-"), "\n".join(tree)]
    return "\n\n".join([*parts, ""])


def heading(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}"


def api_page(module: ModuleType) -> str:
    """A module's docstring and its public names."""
    name = module.__name__
    package, _, last = name.rpartition(".")
    above = getattr(importlib.import_module(package), last) if package else module
    clash = not inspect.ismodule(above)  # `selectors.craig` is a function and a module
    parts = [heading(name), f".. automodule:: {name}" + "\n   :no-index:" * clash]
    parts += [entry(module, public) for public in public_names(module)]
    return "\n\n".join([*parts, ""])


def public_names(module: ModuleType) -> list[str]:
    """What a module's page shows: `__all__` or what it defines, but not what its package shows."""
    if "__all__" in vars(module):
        return list(module.__all__)
    package = sys.modules[module.__name__.rpartition(".")[0]]
    listed = () if package.__name__ == "acslib" else getattr(package, "__all__", ())
    homes = {name: getattr(getattr(package, name), "__module__", None) for name in listed}
    shown = {name for name, home in homes.items() if home == module.__name__}
    return [name for name in definitions(module) if name not in shown and name[0] != "_"]


def definitions(module: ModuleType) -> dict[str, ast.stmt]:
    """The functions, classes and constants of a module, in its order."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def entry(module: ModuleType, name: str) -> str:
    """What documents one name; what `acslib` gives from elsewhere is a link to its place there."""
    value, full = getattr(module, name), f"{module.__name__}.{name}"
    if inspect.ismodule(value):
        return f"- :doc:`{value.__name__}`"
    home = getattr(value, "__module__", "")
    if module.__name__ == "acslib" and home:
        package = importlib.import_module(f"acslib.{home.split('.')[1]}")
        return f"- :py:obj:`{package.__name__}.{name}`"
    if inspect.isclass(value) and not isinstance(value, GenericAlias):  # not `dict[str, Tensor]`
        kind = "exception" if issubclass(value, BaseException) else "class"
        return f".. auto{kind}:: {full}\n   :members:"
    if callable(value) and inspect.isroutine(inspect.unwrap(value)):
        return f".. autofunction:: {full}"
    return constant(module, name)


def constant(module: ModuleType, name: str) -> str:
    """A constant with its value, if that is short, and the comment beside it."""
    directive = f".. py:data:: {name}\n   :module: {module.__name__}"
    value = getattr(module, name)
    if isinstance(value, str | int | float | tuple | dict) and len(repr(value)) < 80:
        directive += f"\n   :value: {value!r}"
    if node := definitions(module).get(name):
        line = inspect.getsource(module).splitlines()[node.lineno - 1]
        comment = re.search(r"  # (?!type:)(.*)", line)
        if comment:
            directive += "\n\n   " + re.sub(r"([`*|_])", r"\\\1", comment[1])
    return directive


# ---- Sphinx


def cache() -> Path:
    """Where the outputs of lessons are kept that ran with these helpers and this library."""
    sources = [
        *sorted((ROOT / "acslib").rglob("*.py")),
        *map(lessons.SOURCES.joinpath, lessons.HELPERS),
    ]
    digest = hashlib.sha256(os.environ.get("ACS_LESSONS", "").encode())
    for source in sources:
        digest.update(source.read_bytes())
    return BUILD / "site-cache" / digest.hexdigest()[:16]


def build(source: Path, output: Path) -> int:
    """Sphinx's exit status: 0 if there was no warning. Everything is read and written anew."""
    shutil.rmtree(output, ignore_errors=True)
    mode = "off" if os.environ.get("EXECUTE") == "no" else "cache"
    settings = {"nb_execution_mode": mode, "nb_execution_cache_path": cache()}
    defined = [f"--define={name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--fresh-env", "--quiet"]
    folders = ["--conf-dir", ROOT / "docs" / "site", "--doctree-dir", BUILD / "site-doctrees"]
    return subprocess.call([*command, *defined, *folders, source, output])


def main() -> int:
    gather(BUILD / "site-source")
    status = build(BUILD / "site-source", BUILD / "site")
    if not status:
        print(f"{BUILD.name}/site/index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
