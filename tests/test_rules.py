"""The rules that Make includes: what is made from what."""

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from acslib.paper import config, fingerprints, items, paramfiles, params, rules

RULE = re.compile(r"^([^\t\n:#][^:\n]*): ([^\n]*)((?:\n\t[^\n]*)*)", re.M)


def notebook(path: Path, *cells: str, parameters: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tagged = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": parameters}
    plain = [{"cell_type": "code", "metadata": {}, "source": source} for source in cells]
    path.write_text(json.dumps({"cells": [tagged, *plain]}))


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a table's two notebooks and some modules, beside our own parameters."""
    modules = {
        "__init__": "",
        "schedule": "",
        "training": "",
        "objectives": "",
        "data/__init__": "from acslib.data.sets import (\n    Dataset,\n)",
        "data/sets": "from acslib import schedule",
        "paper/__init__": "",
        "paper/rows": "from acslib import data\ndef f():\n    from acslib.paper import kept",
        "paper/kept": "import acslib.paper.rows as in_a_circle",
        "paper/figures": "from acslib.paper.rows import gather",
        "paper/unused": "from acslib import training",
        "paper/printed": "",
    }
    for name, source in modules.items():
        path = tmp_path / "acslib" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (tmp_path / "results" / "paper").mkdir(parents=True)
    (tmp_path / "results" / "paper" / "table9.csv").write_text("")
    notebook(
        tmp_path / "notebooks/experiments/table4.ipynb",
        "%matplotlib inline\nfrom acslib.paper import rows",
        parameters='profile = "demo"\nseeds = "0"',
    )
    notebook(
        tmp_path / "notebooks/figures/table4.ipynb",
        "from acslib.paper import figures",
        parameters='profile = "demo"',
    )
    monkeypatch.setattr(rules, "ROOT", tmp_path)
    monkeypatch.setenv("ACS_RESULTS", "results")
    return tmp_path


def parsed(seeds=(0,)) -> dict[str, tuple[list[str], str]]:
    """{target: (prerequisites, recipe)} of the rules that have a recipe."""
    found = RULE.findall(rules.all_rules("smoke", seeds))
    with_recipe = [(target, before.split(), recipe) for target, before, recipe in found if recipe]
    assert max(Counter(target for target, _, _ in with_recipe).values()) == 1
    return {target: (before, recipe) for target, before, recipe in with_recipe}


def test_a_table_depends_on_what_it_is_gathered_with(checkout):
    before, recipe = parsed()["results/smoke/table4.csv"]
    modules = [name for name in before if name.startswith("acslib")]
    assert before[0] == "notebooks/experiments/table4.ipynb"
    of_the_method = ["__init__", "data/__init__", "data/sets"]
    of_the_experiments = ["paper/__init__", "paper/kept", "paper/rows"]
    used = [*of_the_method, *of_the_experiments, "schedule"]
    assert modules == [f"acslib/{name}.py" for name in used]
    assert "results/paper/table9.csv" not in before, "none of its modules reads printed numbers"
    parameters = {Path(name).name for name in before if name.endswith(".yaml")}
    assert parameters >= {"settings.yaml", "attacks.yaml", "table4.yaml", "smoke.yaml"}
    assert "table1.yaml" not in parameters
    runs = [name for name in before if name.endswith("record.json")]
    assert len(runs) == len(items.table_runs("table4", "smoke"))
    assert "-r profile smoke -r seeds 0" in recipe


def test_a_table_depends_on_the_printed_numbers_that_it_is_compared_with(checkout):
    (checkout / "acslib/paper/rows.py").write_text("from acslib.paper import printed")
    assert "results/paper/table9.csv" in parsed()["results/smoke/table4.csv"][0]


@pytest.mark.parametrize(
    ("source", "used"),
    [
        ("from acslib import schedule, data as d", ["data/__init__", "data/sets", "schedule"]),
        ("from acslib import fit", ["training"]),
        ("import acslib\nacslib.fit(1)", ["training"]),
        ("import os, acslib.schedule", ["schedule"]),
        ("import acslib\nacslib.objectives.Trades", ["objectives"]),
        ("from acslib.data.sets import Dataset", ["data/__init__", "data/sets", "schedule"]),
        ("if True:\n    from acslib import schedule", ["schedule"]),
        ("from acslib import (\n    training,  # why\n    schedule,\n)", ["schedule", "training"]),
        ("important = 'acslib.training'", None),
    ],
)
def test_every_way_to_import_a_module_is_seen(checkout, source, used):
    expected = [] if used is None else [f"acslib/{name}.py" for name in ["__init__", *used]]
    assert rules.modules(source) == [Path(name) for name in expected]


def test_the_imports_of_every_source_are_found_as_a_parser_finds_them():
    for path in (rules.ROOT / "acslib").rglob("*.py"):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        of_ours = [name for name in names if name.split(".")[0] == "acslib"]
        needed = {file for name in of_ours for file in rules.files_of_module(name)}
        assert needed <= rules.imported(path.read_text()), path


@pytest.mark.parametrize("item", ["table1", "fig1"])
def test_whatever_a_notebook_loads_is_a_prerequisite(item):
    """All that Python has loaded of the library after the notebook's own imports."""
    source = rules.code(Path(f"notebooks/experiments/{item}.ipynb"))
    imports = [line for line in source.splitlines() if re.match("(from|import) ", line)]
    shown = (
        "import sys; print(*[module.__file__ for name, module in sys.modules.items()"
        " if name.split('.')[0] == 'acslib'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*imports, shown])],
        cwd=rules.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {rules.in_checkout(Path(name)) for name in done.stdout.split()}
    assert Path("acslib/paper/rows.py") in loaded
    assert loaded <= set(rules.modules(source))


def test_a_figure_depends_on_its_table_and_on_how_it_looks(checkout):
    before, recipe = parsed()["figures/smoke/table4.pdf"]
    assert before[0] == "notebooks/figures/table4.ipynb"
    assert {"results/smoke/table4.csv", "acslib/paper/figures.py"} < set(before)
    assert "acslib/paper/unused.py" not in before
    assert not [name for name in before if name.endswith((".json", ".yaml"))]
    assert recipe.rstrip().endswith("-r profile smoke"), "its notebook knows no seeds"


def test_how_a_figure_looks_is_no_prerequisite_of_a_csv():
    """Nor is any module with a figure in it, but where one notebook measures and draws."""
    drawing = {
        path.relative_to(rules.ROOT).as_posix()
        for path in (rules.ROOT / "acslib").rglob("*.py")
        if re.search(r"-> Figure:|\baxis: Axes", path.read_text())
    }
    assert {"acslib/paper/life_pictures.py", "acslib/paper/table_pictures.py"} < drawing
    made = parsed()
    tables = {name: set(needed) for name, (needed, _) in made.items() if name.endswith(".csv")}
    assert len(tables) > 10
    for name, needed in tables.items():
        assert "acslib/paper/style.py" not in needed
        if not name.endswith(("time.csv", "theorem1.csv")):
            assert not needed & drawing, name
    figures = [set(needed) for name, (needed, _) in made.items() if name.endswith(".pdf")]
    assert all("acslib/paper/style.py" in needed for needed in figures)


def test_an_item_of_ones_own_is_made_by_the_notebooks_for_any(checkout, monkeypatch):
    (checkout / "own").mkdir()
    text = "title: x\nruns: [{settings: [resnet18-fat-cifar10], methods: [full]}]"
    (checkout / "own" / "mine.yaml").write_text(text)
    monkeypatch.setenv("ACS_PARAMS", str(checkout / "own"))
    for kind in ("experiments", "figures"):
        path = checkout / "notebooks" / kind / "any.ipynb"
        parameters = 'item = "sweep"\nprofile = "demo"'
        notebook(path, "from acslib.paper import figures", parameters=parameters)
    made = parsed()
    before, recipe = made["results/smoke/mine.csv"]
    assert before[0] == "notebooks/experiments/any.ipynb"
    assert "own/mine.yaml" in before
    assert "build/smoke/experiments/mine.ipynb -r profile smoke -r item mine" in recipe
    before, recipe = made["figures/smoke/mine.pdf"]
    assert before[:2] == ["notebooks/figures/any.ipynb", "acslib/__init__.py"]
    assert "build/smoke/figures/mine.ipynb -r profile smoke -r item mine" in recipe
    assert made["results/smoke/table4.csv"][0][0] == "notebooks/experiments/table4.ipynb"


def test_a_file_of_ones_own_is_a_prerequisite_of_tables_and_figures(
    checkout, monkeypatch, use_plugins
):
    path = checkout / "mine.py"
    path.write_text(
        "from acslib.paper import register\nregister.method('mine', print, items=['table4'])"
    )
    use_plugins(path)
    made = parsed()
    run = next(name for name in made if ".mine" in name)
    assert run in made["results/smoke/table4.csv"][0]
    for target in ("results/smoke/table4.csv", "figures/smoke/table4.pdf"):
        assert "mine.py" in made[target][0]
    assert made["table4"]
    (checkout / run).parent.mkdir(parents=True)
    (checkout / run).write_text("{}")
    monkeypatch.chdir(checkout)
    assert "grep -s" in " ".join(parsed()[run][0])


def test_a_table_is_made_again_with_and_without_files_of_ones_own(
    checkout, monkeypatch, use_plugins
):
    """Each time, though none of them is newer than the table: other methods were asked for."""

    def mark():
        before, recipe = parsed()["results/smoke/table4.csv"]
        (found,) = re.findall(r"wildcard ([^\s)]+)\)", " ".join(before))
        assert recipe.endswith(f"touch {found}")
        return found

    def plugin(name, content):
        path = checkout / name
        path.write_text(f"from acslib.paper import register\n{content}")
        return path

    first = plugin("one.py", "register.method('mine', print, items=['table4'])")
    second = plugin("two.py", "register.method('other', print, items=['table4'])")
    marks = [mark()]
    for path in (first, second):
        use_plugins(path)
        marks.append(mark())
    for label in ("A", "B"):
        settings = checkout / label / "settings.yaml"
        settings.parent.mkdir()
        settings.write_text(f"settings: {{{label}: {{extends: resnet18-linf-cifar10}}}}")
        monkeypatch.setenv("ACS_PARAMS", str(settings.parent))
        marks.append(mark())
    assert len(set(marks)) == len(marks)
    monkeypatch.delenv("ACS_PARAMS")
    use_plugins(first)
    assert mark() == marks[1]
    use_plugins()
    assert mark() == marks[0] == "results/.make/smoke-table4.seeds-0"


def test_each_run_and_seed_has_a_record_that_other_files_do_not_make_again(checkout):
    made = {name: rule for name, rule in parsed((0, 7)).items() if name.endswith("record.json")}
    names = {name for item in paramfiles.item_names() for name in items.table_runs(item, "smoke")}
    assert len(made) == 2 * len(names)
    for name in names:
        before, recipe = made[f"results/smoke/runs/{name}/seed7/record.json"]
        assert before[0] == "|", "only what must be there first"
        assert "--seeds 7 --profile smoke" in recipe
        perceptual = config.resolve(name, "smoke").setting.norm == "lpips"
        assert any("/lpips-" in path for path in before) == perceptual


def test_what_lpips_looks_through_is_made_once(checkout):
    networks = [name for name in parsed((0, 1)) if "/lpips-" in name]
    assert networks == ["results/.make/lpips-digits"]


def test_a_record_of_other_parameters_is_asked_for_again(checkout, monkeypatch, tmp_path):
    name = "resnet18-linf-cifar10.full"
    path = tmp_path / "mine" / "smoke" / "runs" / name / "seed0" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    monkeypatch.setenv("ACS_RESULTS", str(tmp_path / "mine"))
    fingerprint = fingerprints.fingerprint(config.resolve(name, "smoke"))
    wanted = f"{path}: $(if $(shell grep -s {fingerprint} {path}),,always) |"
    assert wanted in rules.all_rules("smoke", [0])
    path.unlink()
    assert wanted not in rules.all_rules("smoke", [0])


@pytest.mark.parametrize("name", ["a b", "it's", "$(shell x)", "a;b", "a:b", "a\nb", "50%", "*"])
def test_what_make_would_misread_is_refused(name):
    with pytest.raises(params.ParamsError, match="Make cannot name"):
        rules.in_make([Path("results") / name])


def test_a_file_of_rules_is_written_whole(checkout):
    path = checkout / "results" / ".make" / "smoke.mk"
    rules.write_rules(path, "smoke", [0])
    assert path.read_text() == rules.all_rules("smoke", [0])
    assert list(path.parent.iterdir()) == [path]


def trained_seeds(text: str) -> dict[str, set[int]]:
    """{run: seeds} of all runs that Make can train by these rules."""
    found: dict[str, set[int]] = {}
    for run, seed in re.findall(r"runs/(\S+)/seed(\d+)/record.json:", text):
        found.setdefault(run, set()).add(int(seed))
    return found


def test_table_5_is_an_average_of_five_runs_in_full(monkeypatch):
    """As the paper says; whoever names seeds gets these, and other tables have one."""
    monkeypatch.setenv("ACS_RESULTS", "results")
    made = trained_seeds(rules.all_rules("full"))
    of_table_5 = set(items.table_runs("table5", "full"))
    assert {frozenset(made[run]) for run in of_table_5} == {frozenset(range(5))}
    assert {frozenset(made[run]) for run in set(made) - of_table_5} == {frozenset({0})}
    for asked in ([3], [0, 2]):
        named = trained_seeds(rules.all_rules("full", asked))
        assert {frozenset(seeds) for seeds in named.values()} == {frozenset(asked)}
    for profile in ("mini", "demo", "smoke"):
        assert rules.all_rules(profile) == rules.all_rules(profile, [0])


def test_a_profile_says_how_many_seeds_an_item_has(tmp_path, monkeypatch):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mine.yaml").write_text(
        "extends: smoke\nitems:\n  table3: {seeds: 2}\n"
    )
    monkeypatch.setenv("ACS_PARAMS", str(tmp_path))
    assert items.wanted_seeds("table3", "mine", None) == [0, 1]
    assert items.wanted_seeds("table1", "mine", None) == [0]
    assert items.wanted_seeds("table3", "mine", [7]) == [7]
    (tmp_path / "profiles" / "none.yaml").write_text("items:\n  table3: {seeds: 0}\n")
    with pytest.raises(params.ParamsError, match="seeds is 0, it should be greater than or equal"):
        items.wanted_seeds("table3", "none", None)
