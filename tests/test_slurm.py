"""Runs handed to Slurm, on this one machine: the same numbers, and a requeued job goes on.

They run where ACS_SLURM=1: the daemons need root, and Debian's slurm-wlm and munge.
"""

import json
import os
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
RUN = "resnet18-linf-cifar10.gradmatch+autoattack_n@0+epochs@40+evaluation_steps@2"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which srun and the rest find the cluster."""
    folder = tmp_path_factory.mktemp("slurm")
    script = str(ROOT / "tools" / "slurm_host.sh")
    started = subprocess.run([script, "start", folder], capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    configuration = shlex.split(started.stdout)[1].partition("=")[2]
    yield environment() | {"SLURM_CONF": configuration}
    subprocess.run([script, "stop", folder], check=True)


def environment():
    """Without what an outer make has set, which an inner one would take for its own."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFL"))}


def call(command, env):
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def weights(folder):
    return load_file(folder / "weights.safetensors")


def same(first, second):
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_table_by_srun_has_the_numbers_of_one_without(slurm, tmp_path):
    common = ["make", "-j4", "table4", "PROFILE=smoke", "-o", ".venv/.complete"]
    call([*common, f"ACS_RESULTS={tmp_path}/here/results"], environment())
    by_srun = [*common, "LAUNCH=srun -n1 -c1", f"ACS_RESULTS={tmp_path}/there/results"]
    assert "srun -n1 -c1" in call(by_srun, slurm)
    here = sorted((tmp_path / "here").rglob("record.json"))
    assert here
    for record in here:
        there = tmp_path / "there" / record.relative_to(tmp_path / "here")
        ours, theirs = json.loads(record.read_text()), json.loads(there.read_text())
        assert ours["metrics"] == theirs["metrics"]
        assert same(record.parent, there.parent)


def test_a_requeued_job_goes_on_after_its_last_epoch(slurm, tmp_path):
    train = f"{ROOT}/.venv/bin/python -m acslib.paper train {RUN} --profile demo"
    results = {"ACS_RESULTS": str(tmp_path / "results"), "OMP_NUM_THREADS": "1"}
    options = ["--parsable", "--requeue", "-n1", "-c1", f"--output={tmp_path}/log"]
    submit = ["sbatch", *options, "--open-mode=append", f"--wrap=exec {train}"]
    job = call(submit, slurm | results).strip()
    folder = tmp_path / "results" / "demo" / "runs" / RUN / "seed0"
    wait(lambda: (folder / "checkpoint.safetensors").exists(), "a checkpoint", tmp_path)
    call(["scontrol", "requeue", job], slurm)
    assert not (folder / "record.json").exists(), "the job was to be stopped before its end"
    # Slurm lets two minutes pass before it starts a job again
    wait(lambda: (folder / "record.json").exists(), "a record", tmp_path)
    log = (tmp_path / "log").read_text()
    assert log.count("speed-up at most") == 2, log
    assert log.count("epoch   0 ") == 1, "the second start does not begin anew\n" + log
    whole = environment() | {"ACS_RESULTS": str(tmp_path / "whole"), "OMP_NUM_THREADS": "1"}
    call(shlex.split(train), whole)
    assert same(folder, tmp_path / "whole" / "demo" / "runs" / RUN / "seed0")


def wait(for_what, name, folder):
    end = time.monotonic() + 600
    while not for_what():
        log = folder / "log"
        said = log.read_text() if log.exists() else "nothing"
        assert time.monotonic() < end, f"waited in vain for {name}; the job said: {said}"
        time.sleep(0.1)
