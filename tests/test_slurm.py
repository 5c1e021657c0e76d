"""Runs handed to Slurm, on this one machine, by the lines of docs/scaling.md: the same numbers, and
a job whose time is over goes on.

They run where ACS_SLURM=1: the daemons need root, and Debian's slurm-wlm and munge.
"""

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("ACS_SLURM") != "1",
        reason="needs ACS_SLURM=1, root, and Debian's slurm-wlm and munge: tools/slurm_host.sh",
    ),
]
RUN = "resnet18-linf-cifar10.gradmatch+autoattack_n@0+epochs@60+evaluation_steps@2"
CLUSTER = (ROOT / "docs" / "scaling.md").read_text().split("## A cluster")[1].split("\n## ")[0]
BY_MAKE, SUBMIT, SCRIPT, SEVERAL = re.findall(r"```bash\n(.*?)```", CLUSTER, flags=re.DOTALL)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which srun and the rest find a cluster that passes for a large one."""
    folder = tmp_path_factory.mktemp("slurm")
    script = str(ROOT / "tools" / "slurm_host.sh")
    large = os.environ | {"CPUS": "64", "GPUS": "8"}
    started = subprocess.run([script, "start", folder], env=large, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    configuration = shlex.split(started.stdout)[1].partition("=")[2]
    yield environment() | {"SLURM_CONF": configuration}
    subprocess.run([script, "stop", folder], check=True)


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """Results of Table 4 made without Slurm."""
    folder = tmp_path_factory.mktemp("without")
    call("make -j4 table4 PROFILE=smoke -o .venv/.complete", environment(), folder, ROOT)
    return folder / "results"


@pytest.fixture
def checkout(tmp_path):
    """A folder with all of the repository, in which a test may write."""
    for path in (*ROOT.glob("[!.]*"), ROOT / ".venv"):
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def environment():
    """Without what an outer make has set, which an inner one would take for its own."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFL"))}


def call(command, env, folder, cwd):
    """What a line of the shell prints; results go to `folder`/results."""
    env = env | {"ACS_RESULTS": f"{folder}/results", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def instead(text, *changes):
    """A text of the document with other words, each of which must be there."""
    for old, new in changes:
        assert old in text, f"docs/scaling.md no longer says {old}"
        text = text.replace(old, new)
    return text


SMALL = ("PROFILE=full", "PROFILE=smoke")
KEEP_VENV = ("make ", "make -o .venv/.complete ")


def same(first, second):
    """Whether two runs have the same metrics and weights."""
    ours, theirs = (json.loads((run / "record.json").read_text()) for run in (first, second))
    one, other = (load_file(run / "weights.safetensors") for run in (first, second))
    return (
        ours["metrics"] == theirs["metrics"]
        and one.keys() == other.keys()
        and all(torch.equal(one[key], other[key]) for key in one)
    )


def all_same(results, others):
    runs = [record.parent.relative_to(results) for record in results.rglob("record.json")]
    return bool(runs) and all(same(results / run, others / run) for run in runs)


def test_make_on_a_login_node_gives_the_numbers_of_one_without_slurm(slurm, without, checkout):
    line = instead(BY_MAKE, KEEP_VENV, ("table1", "table4"), SMALL, ('"0 1 2"', "0"))
    said = call(line, slurm, checkout / "by", checkout)
    assert re.search(r"srun .*acslib.paper train", said)
    assert all_same(without, checkout / "by" / "results")


def test_an_array_trains_all_that_the_table_needs(slurm, without, checkout):
    (checkout / "run.sbatch").write_text(instead(SCRIPT, ("--profile full", "--profile smoke")))
    smaller = ("table1 --profile full", "table4 --profile smoke")
    call(instead(SUBMIT, smaller, ("sbatch ", "sbatch --wait ")), slurm, checkout / "by", checkout)
    assert all_same(without, checkout / "by" / "results")
    table = "make table4 PROFILE=smoke -o .venv/.complete"
    said = call(table, environment(), checkout / "by", checkout)
    assert "papermill" in said
    assert "acslib.paper train" not in said


def test_a_job_whose_time_is_over_goes_on_after_its_last_epoch(slurm, checkout):
    (checkout / "run.sbatch").write_text(instead(SCRIPT, ("--profile full", "--profile demo")))
    (checkout / "runs.txt").write_text(f"{RUN}\n")
    submit = f"sbatch --parsable --output=log {SUBMIT.splitlines()[1].partition(' ')[2]}"
    job = call(submit, slurm, checkout / "by", checkout).strip()
    folder = checkout / "by" / "results" / "demo" / "runs" / RUN / "seed0"
    wait(lambda: (folder / "checkpoint.safetensors").exists(), "a checkpoint", checkout)
    # what Slurm sends some minutes before the end, to the script alone
    signal = re.search(r"--signal=B:(\w+)@", SCRIPT).group(1)
    call(f"scancel --batch --signal={signal} {job}_1", slurm, checkout, checkout)
    show = f"scontrol show job {job}_1"
    wait(lambda: "Restarts=1" in call(show, slurm, checkout, checkout), "a new start", checkout)
    assert not (folder / "record.json").exists(), "the job was to be stopped before its end"
    wait(lambda: (folder / "record.json").exists(), "a record", checkout)
    log = log_of(checkout)
    assert log.count("speed-up at most") == 2, log
    assert log.count("epoch   0 ") == 1, "the second start does not begin anew\n" + log
    train = f".venv/bin/python -m acslib.paper train {RUN} --profile demo"
    call(train, environment(), checkout / "whole", checkout)
    assert same(folder, checkout / "whole" / "results" / "demo" / "runs" / RUN / "seed0")


def test_a_run_of_several_processes_is_one_job(slurm, checkout):
    line = instead(SEVERAL, KEEP_VENV, SMALL, ("NPROC=8", "NPROC=2"), ("sbatch ", "sbatch --wait "))
    call(line, slurm, checkout / "by", checkout)
    (record,) = (checkout / "by").rglob("record.json")
    assert json.loads(record.read_text())["processes"] == 2


def log_of(folder):
    log = folder / "log"
    return log.read_text() if log.exists() else ""


def wait(for_what, name, folder):
    end = time.monotonic() + 600
    while not for_what():
        assert time.monotonic() < end, f"waited in vain for {name}; the job said: {log_of(folder)}"
        time.sleep(0.1)
