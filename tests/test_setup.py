"""The lock, the Makefile and the script that makes the environment."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import time
import tomllib
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [
    line
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def make(*arguments: str) -> subprocess.CompletedProcess:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def make_venv(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("make_venv", ROOT / "tools" / "make_venv.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    return module


# ---- the lock


def test_lock_pins_everything_and_names_no_index_or_build():
    for line in LOCK:
        assert re.fullmatch(r'[\w.-]+==[\w.]+( ; python_version [<=>]+ "3\.\d+")?', line), line


def test_lock_holds_every_direct_dependency():
    locked = {canonicalize_name(Requirement(line).name): Requirement(line) for line in LOCK}
    extras = PROJECT["optional-dependencies"]
    for wanted in map(Requirement, PROJECT["dependencies"] + extras["lab"] + extras["test"]):
        pinned = str(locked[canonicalize_name(wanted.name)].specifier).removeprefix("==")
        assert wanted.specifier.contains(pinned), wanted


def test_what_is_installed_is_what_is_locked():
    for requirement in map(Requirement, LOCK):
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(version(requirement.name)), requirement


def test_conda_takes_the_same_versions():
    assert "-r requirements.txt" in (ROOT / "environment.yml").read_text()


# ---- the Makefile


def test_help_lists_every_target_and_variable():
    text = (ROOT / "Makefile").read_text()
    shown = make("help").stdout
    phony = set(re.search(r"^\.PHONY: (.*)", text, re.M)[1].split()) - {"$(TABLES)", "$(FIGURES)"}
    items = re.findall(r"^(?:TABLES|FIGURES) := (.*)", text, re.M)
    for target in phony.union(*(line.split() for line in items)):
        assert re.search(rf"^  make {target} +\w", shown, re.M), target
    for variable in re.findall(r"^(\w+) \?=", text, re.M):
        assert re.search(rf"^  .*\b{variable}\b", shown, re.M), variable


def test_clean_spares_results_and_clean_results_asks():
    assert "results" not in make("-n", "clean").stdout
    refused = make("clean-results")
    assert refused.returncode != 0
    assert "add CONFIRM=yes" in refused.stdout
    for kept in ("paper", "published"):
        assert make("clean-results", "CONFIRM=yes", f"PROFILE={kept}").returncode != 0


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("JOBS=0", 'JOBS is "0": give a whole number from 1 on'),
        ("THREADS=abc", 'THREADS is "abc": give a whole number'),
        ("PROFILE=", 'PROFILE is "": give a profile'),
        ("SEED=0 1", 'SEED is "0 1": give one whole number from 0 on'),
        ("DATA=cifar", 'DATA is "cifar": give digits, cifar10, svhn, imagenet12 or imagenet100'),
        (
            "ACS_RESULTS=my results",
            'ACS_RESULTS is "my results": Make needs a folder without spaces',
        ),
    ],
)
def test_a_variable_that_cannot_be_is_one_sentence(given, sentence):
    answer = make("help", given)
    assert answer.returncode != 0
    assert sentence in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_one_run_is_one_command():
    shown = make(
        "-n", "run", "RUN=a.b", "SEED=3", "PROFILE=mini", "LAUNCH=srun", "THREADS=5"
    ).stdout
    command = " ".join(shown.replace("\\\n", " ").split())
    assert (
        "OMP_NUM_THREADS=5 srun .venv/bin/python -m acslib.paper train a.b --seeds 3 --profile mini"
        in command
    )


def test_folders_and_the_device_reach_jupyter():
    """Its kernels run in the folder of the notebooks, where a relative path would lead elsewhere."""
    answer = make(
        "lab",
        "PY=sh -c 'printenv ACS_RESULTS ACS_DATA ACS_DEVICE'",
        "-o",
        ".venv/.complete",
        "ACS_RESULTS=mine",
        "ACS_DATA=/images",
        "DEVICE=cuda:1",
    )
    assert answer.stdout.split() == [f"{ROOT}/mine", "/images", "cuda:1"], answer.stderr


# ---- what stands in the way of an environment


def test_other_seeds_parameters_and_another_folder_are_gathered_anew(tmp_path):
    """Real calls of make, with `true` in the place of Python: what it would gather is what it
    prints.
    """
    results, folder = tmp_path / "mine" / "results", tmp_path / "params"
    shutil.copytree(ROOT / "params", folder)

    def gathers(seeds):
        answer = make(
            "table4",
            "PY=true",
            "-o",
            ".venv/.complete",
            f"SEEDS={seeds}",
            f"ACS_RESULTS={results}/",
            f"ACS_PARAMS={folder}",
        )
        assert answer.returncode == 0, answer.stderr
        (results / "demo").mkdir(exist_ok=True)
        (results / "demo" / "table4.csv").touch()
        return f'-r seeds "{seeds}"' in answer.stdout

    assert gathers("0")
    assert not gathers("0")
    assert gathers("0 1 2")
    assert not gathers("0 1 2")
    assert gathers("0")
    time.sleep(0.05)  # longer than a tick of the clock that dates files
    (folder / "table4.yaml").touch()
    assert gathers("0")
    assert not gathers("0")
    assert (
        f"rm -rf {results}/demo {tmp_path}/mine/figures/demo"
        in make("-n", "clean-results", "CONFIRM=yes", f"ACS_RESULTS={results}").stdout
    )


def test_too_old_python_says_so_in_its_own_syntax(make_venv, monkeypatch):
    ast.parse((ROOT / "tools" / "make_venv.py").read_text(), feature_version=(3, 4))
    monkeypatch.setattr(make_venv.sys, "version_info", (3, 8, 18))
    with pytest.raises(
        SystemExit, match=r"Python 3\.8 .* is too old, 3\.11 or newer is needed: run make PYTHON="
    ):
        make_venv.check_python()


def test_full_disk_is_noticed_before_anything_is_installed(make_venv, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(make_venv.shutil, "disk_usage", lambda _: usage(10e9, 9e9, 1e9))
    with pytest.raises(
        SystemExit, match=r"1\.0 GB are free here and 4 are needed: free some space"
    ):
        make_venv.main()


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "Failed to establish a new connection: [Errno 111] Connection refused",
            "no package index answers",
        ),
        (
            "ERROR: Could not find a version that satisfies x==1 (from versions: none)",
            "no package index answers",
        ),
        ("ERROR: No matching distribution found for x==1", "lacks one of these versions"),
        ("ERROR: something else", "see the end of build/setup.log"),
    ],
)
def test_what_pip_says_becomes_one_sentence(make_venv, log, sentence):
    Path(make_venv.LOG).write_text(log)
    assert sentence in make_venv.explain()
    assert "run make again" in make_venv.explain()
    assert "\n" not in make_venv.explain()


def test_continuous_integration_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test </dev/null" in script.read_text()
