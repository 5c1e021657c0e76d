"""What an installed wheel does in an empty folder: the method works, the experiments say that they
need a checkout.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TINY = """
import torch
from acslib import data, models, schedule, selectors
from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining
from acslib.training import State, Training, fit

images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
own = data.from_arrays(images, labels, images, labels, channel_axis=1)
model = models.build("resnet18", classes=4, channels=1, width=4, depths=(1, 1))
objective, plan = AdversarialTraining(PGD("linf", 0.1, 0.05, 2)), schedule.plan(2, 0.5, 0.0, 1)
how = Training(objective, plan, torch.Generator(), selector=selectors.gradmatch, monitor=0)
state = fit(State(model, torch.optim.SGD(model.parameters(), 0.1)), own, how)
print(__import__("acslib").__file__, len(state.coreset))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files in a folder, built from a copy: a build writes beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "acslib", source / "acslib", ignore=shutil.ignore_patterns("__pyc*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", str(source), *options, "-w", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    (wheel,) = folder.glob("adversarial_coresets-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(installed, *arguments):
    """Run in an empty folder, with the wheel's files before any other acslib."""
    empty = installed.parent / "empty"
    empty.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACS_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=empty,
        env=environment | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_the_method_works(installed):
    done = python(installed, "-c", TINY)
    assert done.stdout.split() == [str(installed / "acslib" / "__init__.py"), "20"], done.stderr
    assert list((installed.parent / "empty").iterdir()) == []


@pytest.mark.parametrize(
    "words", [["run", "resnet18-linf-cifar10.full"], ["list", "table1"], ["runs"], []], ids=str
)
def test_the_experiments_say_that_they_need_a_checkout(installed, words):
    done = python(installed, "-m", "acslib.paper", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("acs: the experiments need a checkout of the project")
    assert done.stderr.count("\n") == 1


def test_so_do_they_where_they_are_imported(installed):
    code = "from acslib.paper import config; config.resolve('resnet18-linf-cifar10.full')"
    done = python(installed, "-c", code)
    assert "need a checkout of the project" in done.stderr.splitlines()[-1]


def test_packages_that_are_missing_are_named():
    """As in a checkout whose environment has the method's packages alone."""
    code = (
        "import sys; sys.modules['click'] = None; from acslib.paper.__main__ import main;"
        "sys.exit(main(['list', 'table1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("acs: click is not installed: run make setup, or pip install")


def test_what_the_command_acs_runs(installed):
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "acs = acslib.paper.__main__:main" in entry.read_text()
