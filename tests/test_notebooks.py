"""Every notebook, end to end on the `smoke` profile: parameters through papermill, execution and
asserts by nbval. First those that train and write CSVs, then those that draw from them.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import alts
import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image
from safetensors.torch import load_file

from acslib import models
from acslib.paper import config, files, notebook, paramfiles, params, runs

ROOT = Path(__file__).parent.parent
HOME = ROOT / "notebooks"
EXAMPLES = ROOT / "examples"  # whose sweep the notebooks for any item make
NOTEBOOKS = sorted(
    path.relative_to(ROOT)
    for path in HOME.rglob("*.ipynb")
    if ".ipynb_checkpoints" not in path.parts and "lessons" not in path.parts
)
FIGURES = [path for path in NOTEBOOKS if path.parent.name == "figures"]
OTHERS = [path for path in NOTEBOOKS if path not in FIGURES]
SETTING = "resnet18-linf-cifar10"
PLAY = ("index", "explore", "own", "run")  # these write no CSV


def call(*arguments, results):
    environment = os.environ | {
        "ACS_RESULTS": str(results / "results"),
        "ACS_PARAMS": str(EXAMPLES),
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


def run_all(notebooks, results):
    """All of them in one call of nbval, a kernel each; raises with what failed."""
    prepared = results / notebooks[0].parent.name
    for path in notebooks:
        given = {"profile": "smoke"} if "profile" in papermill.inspect_notebook(ROOT / path) else {}
        copy = prepared / path.relative_to("notebooks")
        copy.parent.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(ROOT / path, copy, given, prepare_only=True)
        watch(copy)
    how = ("-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env")
    limits = ("--nbval-cell-timeout", "900", "-c", os.devnull)
    ran = call("pytest", *how, *limits, prepared, results=results)
    assert ran.returncode == 0, ran.stdout[-12000:]


def watch(path):
    """Make the notebook keep what it says of its pictures, beside it."""
    found = nbformat.read(path, as_version=4)
    alts.watched(found, path.with_suffix(".alts.json"))
    nbformat.write(found, path)


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def experiments(results):
    """What trains, gathers and writes CSVs has run."""
    run_all(OTHERS, results)
    return results


@pytest.mark.slow
def test_experiments_write_what_figures_read(experiments):
    made = {path.name for path in (experiments / "results" / "smoke").iterdir()}
    wanted = {f"{name}.csv" for name in names(OTHERS) if name not in PLAY}
    assert wanted <= made


@pytest.mark.slow
def test_an_item_without_notebooks_gets_its_table_and_its_figure(experiments):
    """What varies is a column; `test_figures_are_drawn` has its picture."""
    table = pd.read_csv(experiments / "results" / "smoke" / "sweep.csv")
    mine = table[table.method != "full"]
    assert mine.period.tolist() == [2, 2, 4, 4, 8, 8]
    assert mine.coreset_fraction.tolist() == [0.2] * 6
    assert table.racc_pct.notna().all()


@pytest.mark.slow
def test_figures_are_drawn_and_nothing_is_trained(experiments):
    before = stamps(experiments / "results")
    run_all(FIGURES, experiments)
    assert stamps(experiments / "results") == before
    drawn = {path.name for path in (experiments / "figures" / "smoke").iterdir()}
    assert drawn == {
        f"{name}.{kind}" for name in names(FIGURES, *params.BY_THEMSELVES) for kind in KINDS
    }


@pytest.mark.slow
def test_every_picture_of_a_notebook_says_what_is_seen(experiments):
    """However it is shown, by `notebook.show`, at the end of a cell, or under a slider."""
    if not alts.kept(experiments / "figures"):
        run_all(FIGURES, experiments)
    texts = alts.kept(experiments)
    assert len(texts) == len(NOTEBOOKS)
    drawing = [f"figures/{path.stem}" for path in FIGURES]
    for name in (*drawing, "experiments/explore", "experiments/own", "experiments/run"):
        assert texts[name], name
    assert not {name: found for name, told in texts.items() if (found := alts.all_faults(told))}


def executed(name, at, results, **given):
    """The cells of a notebook of `notebooks`, run with these parameters and written to a folder."""
    how = [part for pair in given.items() for part in ("-p", *map(str, pair))]
    written = at / f"{name}.ipynb"
    ran = call("papermill", HOME / f"{name}.ipynb", written, *how, results=results)
    assert ran.returncode == 0, ran.stdout[-12000:]
    return nbformat.read(written, as_version=4).cells


def printed_by(cell):
    """What a cell has printed, or given as words; bars are none."""
    bundles = [out.get("data", {"text/plain": out.get("text", "")}) for out in cell.outputs]
    bars = "application/vnd.jupyter.widget-view+json"
    return "\n".join(one["text/plain"] for one in bundles if bars not in one)


@pytest.mark.slow
def test_the_story_of_full_training_has_no_empty_section(tmp_path):
    """Nothing is selected, and each section says or shows something; each line once."""
    cells = executed("run", tmp_path, tmp_path, run=f"{SETTING}.full", profile="smoke")
    sections, printed = {}, []
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections[cell.source.splitlines()[0]] = []
        elif cell.cell_type == "code" and sections:
            sections[list(sections)[-1]] += [printed_by(cell).strip()]
            printed += printed_by(cell).splitlines()
    assert len(sections) >= 6
    assert not [title for title, said in sections.items() if not any(said)]
    assert len([line for line in printed if line.startswith("data: ")]) == 1


@pytest.mark.slow
def test_own_images_of_a_folder_become_a_robust_network(results, tmp_path):
    """Two classes of any names, bright above and bright below, which a few epochs tell apart."""
    generator = np.random.default_rng(0)
    for name, half in (("sky", slice(0, 8)), ("sea & sand", slice(8, 16))):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for k in range(60):
            pixels = generator.integers(0, 90, (16, 16, 3), dtype=np.uint8)
            pixels[half] += 150
            Image.fromarray(pixels).save(tmp_path / "mine" / name / f"{k}.png")
    saved = tmp_path / "robust.safetensors"
    given = {"folder": tmp_path / "mine", "epochs": 8, "save_to": saved}
    cells = executed("own", tmp_path, results, **given)
    said = "\n".join(printed_by(cell) for cell in cells if cell.cell_type == "code")
    assert "sea & sand, sky" in said
    assert "of 24 test images; chance alone" in said
    right = re.search(r"gets (\d+) of 24 test images right|none of (\d+) images", said)
    assert int(right[1] or right[2]) > 20
    assert load_file(saved)["head.weight"].shape == (2, 512)


KINDS = ("pdf", "png")


def names(notebooks, *more):
    """What notebooks make: what they are called, but those for any item."""
    return {"sweep" if path.stem == "any" else path.stem for path in notebooks} | set(more)


@pytest.mark.slow
def test_a_class_pack_holds_all_that_is_trained(experiments, tmp_path):
    """Unpacked over another folder, no run is trained and no network prepared. The same results
    give the same bytes.
    """
    packs = [tmp_path / "one.zip", tmp_path / "two.zip"]
    for pack in packs:
        made = class_pack(pack, experiments / "results")
        assert made.returncode == 0, made.stdout
    assert packs[0].read_bytes() == packs[1].read_bytes()
    assert packs[0].stat().st_size < 5e6
    with zipfile.ZipFile(packs[0]) as file:
        assert {Path(name).parts[:2] for name in file.namelist()} == {("results", "smoke")}
        file.extractall(tmp_path / "clone")
    results = tmp_path / "clone" / "results"
    before = stamps(results)
    make = ["make", "records", "PROFILE=smoke", f"PY={sys.executable}", "-o", ".venv/.complete"]
    done = subprocess.run(
        [*make, "TRAIN=false", "LPIPS=false", f"ACS_RESULTS={results}"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {path: at for path, at in stamps(results).items() if ".make" not in path.parts} == before


@pytest.mark.slow
def test_a_class_pack_without_a_run_is_refused(tmp_path):
    made = class_pack(tmp_path / "pack.zip", tmp_path)
    assert made.returncode == 1
    assert "seed 0, is not trained: make class-pack PROFILE=smoke" in made.stdout
    assert "Traceback" not in made.stdout
    assert not (tmp_path / "pack.zip").exists()


def class_pack(path, results):
    return subprocess.run(
        [sys.executable, "tools/class_pack.py", "--profile", "smoke", "--output", path],
        cwd=ROOT,
        env=os.environ | {"ACS_RESULTS": str(results), "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_every_item_has_an_experiment_and_every_figure_one_of_its_name(monkeypatch):
    monkeypatch.setenv("ACS_PARAMS", str(EXAMPLES))
    trained = names(path for path in OTHERS if path.parent.name == "experiments")
    assert trained == set(paramfiles.item_names())
    assert names(FIGURES) <= trained


# ---- parameters


@pytest.mark.slow
def test_mistyped_parameter_stops_the_notebook(results):
    """papermill itself only warns about it."""
    ran = call(
        "papermill",
        "notebooks/experiments/table1.ipynb",
        results / "mistyped.ipynb",
        "-r",
        "profil",
        "demo",
        results=results,
    )
    assert ran.returncode != 0
    assert "notebook parameter: 'profil' is not known: did you mean 'profile'?" in ran.stdout


@pytest.mark.slow
def test_a_renamed_parameter_is_refused_in_a_living_kernel_too_in_one_sentence():
    """The second "run all": the first one's `run` is still there, and must not be taken for it."""
    begin = 'from acslib.paper import notebook\nnotebook.begin(globals(), "run", "profile")'
    sources = [
        'run = "a"\nprofile = "demo"',
        begin,
        'other = "a variable of the notebook"\nother.upper()',
        'Run = "b"\nprofile = "demo"',
        begin,
    ]
    book = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    NotebookClient(book, kernel_name="python3", allow_errors=True).execute()
    assert not [out for out in book.cells[1].outputs if out.output_type == "error"]
    error = book.cells[4].outputs[-1]
    assert error.traceback == [
        "parameters: notebook parameter: 'Run' is not known: did you mean 'run'?"
    ]


def begun(*history, known=("run", "rate", "seed"), **values):
    """The notebook's names after `begin`, when the cells `history` stood right before it."""
    given = {"In": ["", *history, "notebook.begin(...)"], **values}
    notebook.begin(given, *known)
    return given


OWN = "run = 'a'  # which\nrate = 0.1\nseed = 0"


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("8/255", 8 / 255), (0.2, 0.2), ("3", 3)]
)
def test_numbers_that_papermill_hands_on_as_text_are_numbers(text, value):
    below = f"# Parameters\nrate = {text!r}\n"
    found = begun(OWN, below, run="a", rate=text, seed=0)["rate"]
    assert found == pytest.approx(value)
    assert not isinstance(found, str)


@pytest.mark.parametrize(
    ("history", "values", "said"),
    [
        ([OWN, "# Parameters\nraet = 1\n"], {"raet": 1}, "'raet' is not known: did you mean"),
        ([OWN.replace("seed", "Seed")], {"Seed": 1}, "'Seed' is not known"),
        (["run = 'a'\nrate = 0.1"], {}, "does not set 'seed'"),
        ([OWN, "# Parameters\nrate = 'fast'\n"], {"rate": "fast"}, "rate is 'fast'"),
    ],
)
def test_a_wrong_parameter_is_refused_each_time(history, values, said):
    given = {"run": "a", "rate": 0.1, "seed": 0, "left": "over from a first run"} | values
    for earlier in ([], [OWN, "notebook.begin(...)", "left = len('over')"]):
        with pytest.raises(notebook.Refused, match=said):
            begun(*earlier, *history, **given)


def test_the_network_of_torchvision_is_taken_where_its_line_is_uncommented():
    """In own.ipynb: what stands below would take its place."""
    cells = json.loads((HOME / "own.ipynb").read_text())["cells"]
    (source,) = (source for cell in cells if "def network(" in (source := "".join(cell["source"])))
    names = {"nn": torch.nn, "models": models}
    exec(source, names)
    assert isinstance(names["network"](3), torch.nn.Sequential)
    exec(source.replace("# network =", "network ="), names)
    network = names["network"](3)
    assert type(network).__name__ == "ResNet"
    assert models.adapt(network)(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_the_notebooks_own_variables_are_no_parameters():
    begun(OWN, "name = 'of a cell that was run before'\nprint(name)", OWN, run="a", rate=1, seed=0)
    begun("print(run)", run="a", rate=1, seed=0)  # the cell was run again, by itself
    notebook.begin({"run": "a"}, "run")  # outside IPython


def test_a_refusal_of_ours_stands_alone_in_a_notebook():
    """IPython asks an exception for the lines that it shows."""
    for kind in (params.ParamsError, files.RecordError):
        assert kind("lr is 9, it must be at most 1")._render_traceback_() == [
            "lr is 9, it must be at most 1"
        ]


# ---- training


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    return config.resolve("resnet18-linf-cifar10.gradmatch", "smoke")


def test_a_finished_run_says_so_and_is_not_trained_again(run, capsys, monkeypatch):
    made = notebook.train_run(run, 0)
    shown = capsys.readouterr()
    assert "evaluation: 100%" in shown.err
    assert shown.out.count("epoch ") == len(run.plan)
    assert shown.out.count(f"data: {made['data']}\n") == 1
    monkeypatch.setattr(runs, "execute", None)
    assert notebook.train_run(run, 0) == made
    told = capsys.readouterr().out
    assert "is trained already" in told
    assert told.count(f"data: {made['data']}\n") == 1


def test_an_interrupted_run_says_what_is_kept(run, monkeypatch):
    def interrupted(run, seed, told):
        told.progress({"epoch": 1, **dict.fromkeys(("phase", "rate", "loss"), 0)} | QUIET)
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "execute", interrupted)
    with pytest.raises(notebook.Interrupted, match="keeps 2 of 4 epochs") as caught:
        notebook.train_run(run, 0, leave=False)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_all_runs_of_an_item_have_the_same_bars():
    """A kernel's bar is an output of its cell, and JupyterLab hides what comes after fifty."""
    sources = [
        "import os, tempfile\nos.environ['ACS_RESULTS'] = tempfile.mkdtemp()",
        "from acslib.paper import notebook\nnotebook.train_missing('table2', 'smoke', [0])",
    ]
    book = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    NotebookClient(book, kernel_name="python3").execute()
    kinds = [list(out.get("data", {"text": 0})) for out in book.cells[1].outputs]
    assert "".join(out.get("text", "") for out in book.cells[1].outputs).startswith("0 of ")
    bars = [kind for kind in kinds if "application/vnd.jupyter.widget-view+json" in kind]
    assert len(bars) == 3


QUIET = {"selection": None, "train_robust_accuracy": 0.5}


# ---- form


def committed(path):
    """A notebook as git has it: one that somebody works on in JupyterLab holds outputs."""
    stored = subprocess.run(["git", "show", f":{path}"], cwd=ROOT, capture_output=True, text=True)
    return json.loads(stored.stdout if stored.returncode == 0 else (ROOT / path).read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_is_kept_tidy(path):
    """No outputs in git, a title first, the parameters second, a dozen or so lines a cell, at most
    thirty cells.
    """
    cells = committed(path)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert "".join(cells[0]["source"]).startswith("# ")
    assert "parameters" in cells[1]["metadata"].get("tags", [])
    assert "notebook.begin(globals(), " in "".join(cells[2]["source"])
    assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 15
    assert len(cells) <= 30


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_a_cell_may_be_run_again(path, monkeypatch):
    """What checks the parameters takes them as it left them: no name of a parameter changes its
    meaning.
    """
    monkeypatch.setenv("ACS_PARAMS", str(EXAMPLES))
    cells = json.loads((ROOT / path).read_text())["cells"]
    first, second = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"][:2]
    known: dict = {"__name__": "__main__"}
    for source in (first, second, second, first, second):
        exec(compile(source, str(path), "exec"), known)


# ---- links


def links(path):
    """Where the links of a notebook's text lead, as files."""
    cells = committed(path)["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    found = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    return [(ROOT / path.parent / target).resolve() for target in found]


def lesson(path):
    """The source of a lesson that `make lessons` writes."""
    return HOME / "lessons" / f"{path.stem}.py"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_links_lead_somewhere(path):
    for target in links(path):
        made = ROOT / "build" / "lessons" / "student" in target.parents
        assert lesson(target).is_file() if made else target.exists(), target


def test_the_index_leads_to_every_notebook_and_lesson_and_they_lead_back():
    index = Path("notebooks/index.ipynb")
    targets = set(links(index))
    others = [path for path in NOTEBOOKS if path != index]
    assert {ROOT / path for path in others} <= targets
    lessons = {path.stem for path in (HOME / "lessons").glob("[0-9]*.py")}
    assert lessons <= {target.stem for target in targets}
    for name in PLAY[1:]:
        assert ROOT / index in links(Path(f"notebooks/{name}.ipynb"))


def test_jupyter_opens_documents_as_pages():
    """Both settings exist in this version: a misspelt one would be ignored without a word."""
    said = json.loads((ROOT / "tools/jupyter/labconfig/default_setting_overrides.json").read_text())
    schemas = Path(sys.prefix) / "share" / "jupyter" / "lab" / "schemas"
    for plugin, values in said.items():
        extension, name = plugin.split(":")
        schema = json.loads((schemas / extension / f"{name}.json").read_text())
        assert set(values) <= set(schema["properties"])
