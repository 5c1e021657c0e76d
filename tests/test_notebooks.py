"""Every notebook, end to end on the `smoke` profile: parameters through papermill, execution and
asserts by nbval.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(path.relative_to(ROOT) for path in (ROOT / "notebooks").rglob("*.ipynb"))


def call(*arguments, results):
    environment = os.environ | {
        "ACS_RESULTS": str(results / "results"),
        "OMP_NUM_THREADS": "1",
        "ACS_OFFLINE": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """One folder for all notebooks: what one has trained, another need not."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=str)
def test_runs_on_the_smoke_profile(notebook, results):
    prepared = results / notebook.name
    parameters = ["-r", "profile", "smoke"] if has_profile(notebook) else []
    made = call("papermill", "--prepare-only", notebook, prepared, *parameters, results=results)
    assert made.returncode == 0, made.stdout
    ran = call(
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout",
        "900",
        "-c",
        os.devnull,
        prepared,
        results=results,
    )
    assert ran.returncode == 0, ran.stdout[-6000:]


@pytest.mark.slow
def test_mistyped_parameter_stops_the_notebook(results):
    """papermill itself only warns about it."""
    ran = call(
        "papermill",
        "notebooks/table1.ipynb",
        results / "mistyped.ipynb",
        "-r",
        "profil",
        "demo",
        results=results,
    )
    assert ran.returncode != 0
    assert "notebook parameter: 'profil' is not known: did you mean 'profile'?" in ran.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=str)
def test_is_kept_tidy(notebook):
    """No outputs in git, a title first, a dozen or so lines a cell, thirty cells or so."""
    cells = json.loads((ROOT / notebook).read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert "".join(cells[0]["source"]).startswith("# ")
    assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 15
    assert len(cells) <= 40


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=str)
def test_a_cell_may_be_run_again(notebook):
    """What checks the parameters takes them as it left them: no name of a parameter changes its
    meaning.
    """
    cells = json.loads((ROOT / notebook).read_text())["cells"]
    first, second = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"][:2]
    names: dict = {"__name__": "__main__"}
    for source in (first, second, second, first, second):
        exec(compile(source, str(notebook), "exec"), names)


def has_profile(notebook):
    cells = json.loads((ROOT / notebook).read_text())["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return any("profile =" in "".join(cell["source"]) for cell in tagged)
