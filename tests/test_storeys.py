"""Two storeys: the method knows nothing of the experiments, and loads no more than it needs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "acslib" / "paper"
METHOD = [path for path in (ROOT / "acslib").rglob("*.py") if PAPER not in path.parents]
HEAVY = ("pandas", "matplotlib", "pydantic", "yaml", "sklearn")


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of the texts that only say what something is."""
    found = set()
    for node in ast.walk(tree):
        first = getattr(node, "body", None)
        first = first[0] if isinstance(first, list) and first else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            found.add(id(first.value))
    return found


# the package in a text. One that is put together when it runs is seen by what is loaded, below
TEXT = re.compile(r"\bacslib\.paper\b|\bimport paper\b|^\.+paper\b")


def names_paper(tree: ast.AST) -> bool:
    """Whether a source imports `acslib.paper`, however it is spelt: as a name, from its package, or
    as a text that is looked up or run.
    """
    said = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "__import__":
            names = ["acslib.paper"] if "'paper'" in ast.unparse(node) else []
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
        ):
            names = ["acslib.paper"] if TEXT.search(node.value) else []
        else:
            continue
        if any(f"{name}.".startswith(("acslib.paper.", ".paper.", "..paper.")) for name in names):
            return True
    return False


@pytest.mark.parametrize("path", METHOD, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_method_does_not_import_the_experiments(path):
    assert not names_paper(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "import acslib.paper",
        "import os, acslib.paper.rows as rows",
        "from acslib import paper",
        "from acslib.paper import rows",
        "from acslib.paper.rows import gather",
        "from . import paper",
        "from .paper import rows",
        "from ..paper.rows import gather",
        "def late():\n    from acslib.paper import rows",
        "importlib.import_module('acslib.paper')",
        "__import__('acslib.paper.rows')",
        "import_module('.paper', 'acslib')",
        "pkgutil.resolve_name('acslib.paper:rows')",
        "__import__('acslib', fromlist=['paper'])",
        "exec('from acslib.paper import rows')",
    ],
)
def test_every_spelling_of_an_import_is_found(source):
    assert names_paper(ast.parse(source))


def loaded(code: str) -> set[str]:
    """The packages that a fresh Python has loaded after this code; `acslib.paper` is one."""
    names = "{'.'.join(name.split('.')[: 1 + name.startswith('acslib.paper')])"
    code += f"; import sys; print('loaded', *{names} for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_the_method_loads_nothing_of_the_experiments():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in METHOD]
    modules = [name.removesuffix(".__init__") for name in names if name != "acslib._torchvision"]
    found = loaded(f"import {', '.join(modules)}")
    assert "torch" in found
    assert "acslib.paper" not in found
    # numba reads a configuration of its own with yaml, where that is installed
    assert not found.intersection(HEAVY) - ({"yaml"} if "numba" in found else set())


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "table1", "--profile", "demo"],
        ["rules", "--profile", "demo"],
        ["train", "nothing.craig"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_only_asks_does_not_load_torch(arguments):
    """It answers at once; `train` where it refuses."""
    code = f"from acslib.paper.__main__ import main; main({arguments})"
    found = loaded(code)
    assert not found & {"torch", "pandas", "matplotlib", "numba"}


@pytest.mark.parametrize(
    ("method", "slow"),
    [
        ("gradmatch", ("scipy.optimize", "scipy.io")),
        ("craig", ("scipy.optimize", "scipy.io")),
        ("adaptive_random", ("numba",)),
    ],
)
def test_a_run_loads_only_what_it_needs(method, slow, tmp_path, monkeypatch):
    """Two seconds of every start: torch's compiler, scikit-learn, pandas, scipy, numba."""
    monkeypatch.setenv("ACS_RESULTS", str(tmp_path))
    code = (
        "from acslib.paper.cli import acs; import sys;"
        f"acs(['run', 'resnet18-linf-cifar10.{method}', '--profile', 'smoke'],"
        " standalone_mode=False);"
        "print('slow', *[name for name in"
        f" ('torch._dynamo', 'sklearn', 'pandas', 'matplotlib', *{slow})"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert list(tmp_path.rglob("record.json"))
    assert done.stdout.splitlines()[-1] == "slow"


def test_acslib_itself_loads_no_torch():
    """Its names are looked up when they are asked for."""
    assert "torch" not in loaded("import acslib")
    assert "torch" in loaded("import acslib; acslib.training.fit")


def assigned(node: ast.stmt) -> list[str]:
    """What a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = getattr(node, "targets", [])
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    parts = [part for target in targets for part in getattr(target, "elts", [target])]
    return [part.id for part in parts if isinstance(part, ast.Name)]


def defined() -> dict[str, list[Path]]:
    """Public names of all modules, and where each is defined."""
    found: dict[str, list[Path]] = {}
    for path in (ROOT / "acslib").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            for name in assigned(node):
                if not name.startswith("_"):
                    found.setdefault(name, []).append(path)
    return found


def imported() -> set[str]:
    """The names that one module takes from another."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "acslib").rglob("*.py")]
    froms = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in froms for alias in node.names}


def test_a_name_means_one_thing():
    """What reads the same in two modules is taken for the same: functions, types, and constants
    that are taken by name. `main` is what a command calls.

    A constant that is only written behind its module's name, as `autoattack.NORMS`, is that one's.
    """
    twice = {name for name, places in defined().items() if len(places) > 1}
    assert {name for name in twice if not name.isupper() or name in imported()} == {"main"}


def test_no_function_is_called_like_a_module():
    """But one that its module is made for, and that is imported instead of it."""
    modules = {path.stem: path for path in (ROOT / "acslib").rglob("*.py")}
    alike = set(defined()).intersection(modules)
    assert alike == {"craig", "gradmatch", "build"}


def test_the_map_has_every_module_once_and_no_other():
    """`docs/architecture.md`, in the row of the folder that it is in."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", text.partition("## Every module")[2], re.M)
    named: dict[str, list[str]] = {}
    storey = ""
    for first, modules in rows:
        if found := re.fullmatch(r"in `(acslib/\S*)`", first):
            storey = found[1]
        elif first != "---":
            inside = re.fullmatch(r"`(\w+/)`", first)
            named.setdefault(storey + (inside[1] if inside else ""), []).extend(
                re.findall(r"`(\w+)`", modules)
            )
    there: dict[str, list[str]] = {}
    for path in (ROOT / "acslib").rglob("*.py"):
        if path.stem != "__init__":
            folder = f"{path.parent.relative_to(ROOT)}/"
            there.setdefault(folder, []).append(path.stem)
    assert {folder: sorted(names) for folder, names in named.items()} == {
        folder: sorted(names) for folder, names in there.items()
    }
