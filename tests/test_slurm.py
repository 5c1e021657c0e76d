"""Runs handed to Slurm, on this one machine: the same numbers.

They run where ACS_SLURM=1: the daemons need root, and Debian's slurm-wlm and munge.
"""

import json
import os
import shlex
import subprocess
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
