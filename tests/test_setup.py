"""The lock, the Makefile and the script that makes the environment."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from acslib.paper import rules

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = [
    line
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


VARIABLES = (ROOT / "tools" / "variables.mk").read_text()


def make(*arguments: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )


def wanted(extra: str) -> set[Requirement]:
    """What an extra asks for, by way of other extras too."""
    found = set()
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            found |= set().union(*map(wanted, requirement.extras))
        else:
            found.add(requirement)
    return found


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
    direct = set(map(Requirement, PROJECT["dependencies"])) | wanted("lab") | wanted("test")
    for requirement in direct:
        pinned = str(locked[canonicalize_name(requirement.name)].specifier).removeprefix("==")
        assert requirement.specifier.contains(pinned), requirement


def test_the_package_takes_its_users_versions():
    """Ranges, not one version: installed beside a newer torch, it leaves that torch there. Both
    ends of torch's range were tried, and the documents say when.
    """
    asked = {each.name: each.specifier for each in map(Requirement, PROJECT["dependencies"])}
    for name, versions in asked.items():
        assert {part.operator for part in versions} <= {">=", "<"}, name
    oldest = re.search(r"^TORCH \?= (.*)", VARIABLES, re.M)[1]
    assert asked["torch"].contains(oldest)
    assert not asked["torch"].contains("2.5.1")
    assert all(asked["torch"].contains(later) for later in ("2.13.0", "2.14.1", "2.99"))
    documented = (ROOT / "docs" / "reference.md").read_text()
    row = re.search(r"^\| the library beside another torch .*", documented, re.M)[0]
    newest = max(map(Version, re.findall(r"\b\d+\.\d+\.\d+(?= with)", row)))
    assert newest > Version(version("torch"))
    for end in (oldest, newest):
        assert re.search(rf"{re.escape(str(end))} with version \S+ on \d+ \w+ 20\d\d", row)


def test_the_method_asks_for_no_more_than_it_imports():
    """What it imports on use is an extra of its own."""
    files = [path for path in (ROOT / "acslib").rglob("*.py") if "paper" not in path.parts]
    files.remove(ROOT / "acslib" / "_torchvision.py")  # itself imported on use
    imported = set().union(*(top_level_imports(ast.parse(path.read_text())) for path in files))
    distributions = {"PIL": "pillow"}
    third_party = {
        distributions.get(name, name)
        for name in imported - {"acslib"}
        if name not in sys.stdlib_module_names
    }
    assert third_party <= {Requirement(line).name for line in PROJECT["dependencies"]}


def top_level_imports(tree: ast.Module) -> set[str]:
    """Packages imported when the module is, not inside of a function or for types alone."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found


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
    phony = set(re.search(r"^\.PHONY: (.*)", text, re.M)[1].split()) - {"always", "$(ITEMS)"}
    items = {path.stem for path in (ROOT / "params").glob("*.yaml")} - {"settings", "attacks"}
    for target in phony | items:
        assert re.search(rf"^  make {target} +\w", shown, re.M), target
    for variable in names():
        assert re.search(rf"^  .*\b{variable}\b", shown, re.M), variable


# what GNU Make's NEWS names as new after 3.81, which macOS has
LATER = re.compile(
    r"^[^\t#]*?[\w.)]\s*(!=|::?:=)"  # shell and POSIX assignment
    r"|^[^\t#]*&::?(\s|$)"  # grouped targets
    r"|^\s*-?(undefine|load|private)\s"
    r"|^\s*define\s+\S+\s*[:?+]?="
    r"|^\s*(override\s+export|export\s+override)\s"  # several modifiers
    r"|\$[({](file|guile|let|intcmp)\s"
    r"|\.(ONESHELL|RECIPEPREFIX|SHELLFLAGS|SHELLSTATUS|EXTRA_PREREQS|LOADED|NOTINTERMEDIATE|WAIT)\b"
    r"|\b(GNUMAKEFLAGS|MAKE_TERMOUT|MAKE_TERMERR|MAKE_HOST)\b"
    r"|--(output-sync|trace|eval|shuffle)\b",
    re.M,
)


@pytest.mark.parametrize("name", ["Makefile", "tools/variables.mk", "rules"])
def test_make_is_asked_for_nothing_that_version_3_81_lacks(name):
    text = rules.all_rules("smoke", [0]) if name == "rules" else (ROOT / name).read_text()
    assert len(text.splitlines()) > 50
    assert not LATER.search(text), LATER.search(text)[0]


@pytest.mark.parametrize(
    "line",
    [
        *("X != date", "X ::= 1", "X :::= 1", "a b &: c", "undefine X", "private X := 1"),
        *("load mk_temp.so", "define X :=", "override export X", "X := $(file < a)"),
        *(".ONESHELL:", ".RECIPEPREFIX = >", "X := $(let a,b,c)", "MAKEFLAGS += --output-sync"),
    ],
)
def test_what_came_after_version_3_81_is_recognised(line):
    assert LATER.search(f"all:\n\techo\n{line}\n")


@pytest.mark.parametrize(
    ("flags", "dry"),
    [
        (["-n"], True),
        (["-nk", "--no-print-directory"], True),
        ([], False),
        (["-s"], False),
        (["--no-print-directory"], False),
        (["PROFILE=mini"], False),
    ],
)
def test_a_dry_run_is_told_from_flags_that_have_an_n_too(flags, dry, tmp_path):
    file = tmp_path / "Makefile"
    file.write_text(f"include {ROOT}/tools/variables.mk\n$(info dry: $(DRY))\nall:\n")
    assert ("dry: n\n" in make("all", "-f", str(file), *flags).stdout) is dry


def names() -> list[str]:
    """The variables that may be given."""
    return re.search(r"^override NAMES := ([A-Z ]+)", VARIABLES, re.M)[1].split()


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
        ("JOBS=99999999999", 'JOBS is "99999999999": give a whole number from 1 on, at most 9999'),
        ("NPROC=10000", 'NPROC is "10000": give a whole number from 1 on, at most 9999'),
        ("PROFIL=mini", "there is no variable PROFIL: make help lists those that there are"),
        ("seeds=1", "there is no variable seeds: make help"),
        ("ACS_OFLINE=1", "there is no variable ACS_OFLINE: make help"),
        ("SEEDED=x", "there is no variable SEEDED: make help"),
        ("PY=a;b", 'PY is "a;b": give'),
        ("THREADS=abc", 'THREADS is "abc": give a whole number'),
        ("PROFILE=", 'PROFILE is "": give a profile'),
        ("SEED=0 1", 'SEED is "0 1": give one whole number from 0 on'),
        ("DATA=cifar", 'DATA is "cifar": give digits, cifar10, svhn, imagenet12 or imagenet100'),
        ("ACS_RESULTS=my results", 'ACS_RESULTS is "my results": give a folder without spaces'),
    ],
)
def test_a_variable_that_cannot_be_is_one_sentence(given, sentence):
    answer = make("help", given)
    assert answer.returncode != 0
    assert sentence in answer.stderr
    assert answer.stderr.count("\n") == 1


def assigned() -> list[str]:
    """The variables that the Makefile has for itself; what its tests replace is not among them."""
    found = set(re.findall(r"^(?:override )?(\w+) :?\??= ", VARIABLES, re.M))
    kept = {"PY", "NOTEBOOK", "TRAIN", "LPIPS", *names()}
    return sorted(name for name in found - kept if not name.startswith("ACS_"))


@pytest.mark.parametrize("name", [*assigned(), "SHELL"])
def test_a_variable_of_the_makefiles_own_is_nobody_elses(name, tmp_path):
    for value in ("x", name, f"$(shell touch {tmp_path}/pwned)", f"; touch {tmp_path}/pwned"):
        answer = make("help", "run", "-n", f"{name}={value}")
        assert answer.returncode != 0, value
    assert not list(tmp_path.iterdir())


ACS_FOLDERS = ["ACS_RESULTS", "ACS_PARAMS", "ACS_DATA", "ACS_CACHE", "ACS_MIRROR", "ACS_DEVICE"]


@pytest.mark.parametrize("name", [*names(), *ACS_FOLDERS, "ANYTHING"])
@pytest.mark.parametrize("given", ["command line", "environment"])
def test_a_variable_is_data(name, given, tmp_path):
    """Whatever stands in it: neither Make nor a shell runs it, in whichever target uses it."""
    pwned = tmp_path / "pwned"
    targets = ("help", "setup", "run", "lpips-net", "lab", "clean-results", "-k", "-j1")
    for value in ("x'; touch {}; echo '1", "$(shell touch {})", "`touch {}`", '0"\ntouch {}\n"'):
        variable = f"{name}={value.format(pwned)}"
        if given == "command line":
            make(*targets, "PY=true", "-o", ".venv/.complete", variable)
        else:
            make(*targets, "PY=true", "-o", ".venv/.complete", **dict([variable.split("=", 1)]))
        assert not pwned.exists(), value


@pytest.mark.parametrize("name", ["a b", "it's", "~", "$HOME", "a;b", "a#b", "a:b", "ä"])
def test_a_folder_works_or_is_refused_before_anything_is_made(name, tmp_path):
    """As the folder of results, and as that of the checkout itself."""
    answer = make("help", f"ACS_RESULTS={tmp_path}/{name}")
    if answer.returncode:
        assert answer.stderr.count("\n") == 1
        assert f'ACS_RESULTS is "{tmp_path}/{name}": give a folder without' in answer.stderr
    assert (answer.returncode == 0) == (name == "ä")
    assert not list(tmp_path.iterdir())
    checkout = tmp_path / name
    checkout.mkdir()
    for part in ("Makefile", "tools", "params", "acslib", "notebooks"):
        (checkout / part).symlink_to(ROOT / part)
    arguments = (f"PY={sys.executable}", "NOTEBOOK=true", "-o", ".venv/.complete")
    answer = make("theorem1", *arguments, folder=checkout, PYTHONPATH=str(ROOT))
    assert "true notebooks/theorem1.ipynb build/demo/theorem1.ipynb" in answer.stdout, answer.stderr


def test_asking_what_would_be_done_sets_nothing_up(tmp_path):
    for part in ("Makefile", "tools", "params", "acslib", "notebooks"):
        (tmp_path / part).symlink_to(ROOT / part)
    answer = make("-n", "table1", folder=tmp_path)
    assert "run make setup first" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / ".venv").exists()
    assert not (tmp_path / "results").exists()


def test_one_run_is_one_command():
    shown = make(
        "-n", "run", "RUN=a.b", "SEED=3", "PROFILE=mini", "LAUNCH=srun", "THREADS=5"
    ).stdout
    command = " ".join(shown.replace("\\\n", " ").split())
    assert (
        "OMP_NUM_THREADS=5 srun .venv/bin/python -m acslib.paper train 'a.b' --seeds 3"
        " --profile mini" in command
    )


def test_folders_and_the_device_reach_jupyter(tmp_path):
    """Its kernels run in the folder of the notebooks: a relative path would lead elsewhere."""
    (tmp_path / "jupyterlab").mkdir()
    (tmp_path / "jupyterlab" / "__init__.py").touch()
    names = "ACS_RESULTS ACS_DATA ACS_PARAMS ACS_DEVICE"
    prints = f"import os\nfor name in {names.split()}: print(os.environ[name])\n"
    (tmp_path / "jupyterlab" / "__main__.py").write_text(prints)
    answer = make(
        "lab",
        f"PY={sys.executable}",
        "-o",
        ".venv/.complete",
        "-o",
        "build/lessons/student",
        "ACS_RESULTS=mine",
        "ACS_DATA=/images",
        "ACS_PARAMS=examples:/else",
        "DEVICE=cuda:1",
        PYTHONPATH=str(tmp_path),
    )
    wanted = [f"{ROOT}/mine", "/images", f"{ROOT}/examples:/else", "cuda:1"]
    assert answer.stdout.split() == wanted, answer.stderr


def theorem1(results: Path, params: Path, seeds: str, notebook: str = "true") -> bool:
    """Whether `make theorem1` would run its notebook; `notebook` is in the place of papermill."""
    picture = results.parent / "figures" / "demo" / "theorem1.pdf"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.touch()
    answer = make(
        "theorem1",
        f"NOTEBOOK={notebook}",
        f"PY={sys.executable}",
        "-o",
        ".venv/.complete",
        f"SEEDS={seeds}",
        f"ACS_RESULTS={results}/",
        f"ACS_PARAMS={params}",
        PYTHONPATH=str(ROOT),
    )
    assert answer.returncode == 0, answer.stderr
    (results / "demo").mkdir(parents=True, exist_ok=True)
    (results / "demo" / "theorem1.csv").touch()
    time.sleep(0.05)  # longer than a tick of the clock that dates files
    return f"{notebook} notebooks/theorem1.ipynb" in answer.stdout


def test_other_seeds_parameters_and_another_folder_are_gathered_anew(tmp_path):
    results, params = tmp_path / "mine" / "results", tmp_path / "params"
    shutil.copytree(ROOT / "params", params)
    assert theorem1(results, params, "0")
    assert not theorem1(results, params, "0")
    assert theorem1(results, params, "0 1 2")
    assert not theorem1(results, params, "0 1 2")
    assert theorem1(results, params, "0")
    (params / "table1.yaml").touch()
    assert not theorem1(results, params, "0"), "another table's parameters"
    (params / "theorem1.yaml").touch()
    assert theorem1(results, params, "0")
    assert not theorem1(results, params, "0")
    assert (
        f"rm -rf -- {results}/demo {tmp_path}/mine/figures/demo"
        in make("-n", "clean-results", "CONFIRM=yes", f"ACS_RESULTS={results}").stdout
    )


def test_two_makes_in_one_folder_both_end_well(tmp_path):
    slow = tmp_path / "papermill"
    slow.write_text("#!/bin/sh\nsleep 1\n")
    slow.chmod(0o755)
    made = []
    both = [
        threading.Thread(
            target=lambda: made.append(
                theorem1(tmp_path / "results", ROOT / "params", "0", str(slow))
            )
        )
        for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert made == [True, True]
    rules, mark = sorted(path.name for path in (tmp_path / "results" / ".make").iterdir())
    assert re.fullmatch(r"demo-\d+-\d+\.mk", rules)
    assert mark == "demo-theorem1.seeds-0"


def test_what_is_asked_for_may_be_longer_than_a_files_name(tmp_path):
    params = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 12)
    params.mkdir(parents=True)
    (params / "settings.yaml").write_text("settings: {}")
    seeds = " ".join(map(str, range(120)))
    asked = [
        theorem1(tmp_path / "results", params, more) for more in (seeds, seeds, f"{seeds} 120")
    ]
    assert asked == [True, False, True]


# ---- what stands in the way of an environment


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


def test_two_calls_make_one_environment(make_venv, monkeypatch):
    filled = []

    def fill(folder, extra):
        filled.append(folder)
        time.sleep(0.2)
        Path(folder).mkdir()

    monkeypatch.setattr(make_venv, "fill", fill)
    calls = [threading.Thread(target=make_venv.main) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert filled == [".venv"]
    make_venv.fill = lambda folder, extra: filled.append(folder)
    make_venv.main()
    assert filled == [".venv"] * 2, "asked later, as when the lock has changed"


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
