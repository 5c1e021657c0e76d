"""Two processes train what one does: exactly, in float64 and without chance."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acslib import parallel

SCRIPT = """
import dataclasses, sys
import torch
from acslib import data, parallel, schedule, selectors
from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining, Trades
from acslib.training import State, Training, fit
from networks import Smooth

if len(sys.argv) > 3:
    parallel.join("cpu")

model = Smooth()
digits = data.load("digits", train_limit=203)
digits = dataclasses.replace(digits, padding=0)
pgd = PGD("linf", 0.1, 0.05, 2, random_start=False)

def attack(model, images, labels):
    # from the image itself TRADES' first gradient is zero, and its sign that of a rounding error
    return pgd(model, (images + 0.05).clamp(0, 1), labels)

objective = Trades(attack) if sys.argv[1] == "trades" else AdversarialTraining(attack)
how = Training(objective, schedule.plan(6, 0.5, 0.5, 2), torch.Generator(), batch_size=32,
               selector=selectors.gradmatch, half_half=sys.argv[1] == "half", monitor=0)
optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
state = fit(State(model, optimiser), digits, how)
if parallel.rank() == 0:
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in state.history]
    torch.save([[p.detach() for p in model.parameters()], rows], sys.argv[2])
# in one piece, since both processes write to one pipe
sys.stdout.write(f"process {parallel.rank()} of {parallel.processes()} done\\n")
"""
ROOT = Path(__file__).parents[1]
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),
]


def run(command):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linf", "trades", "half"])
def test_two_processes_train_what_one_does(tmp_path, kind):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    alone, together = tmp_path / "alone.pt", tmp_path / "together.pt"
    run([sys.executable, str(script), kind, str(alone)])
    said = run([*TORCHRUN, str(script), kind, str(together), "gloo"])
    assert "process 0 of 2 done" in said
    assert "process 1 of 2 done" in said
    (ours, rows), (theirs, others) = torch.load(alone), torch.load(together)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        assert row.get("train_robust_accuracy") == other.get("train_robust_accuracy")
        assert row.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-10)
        if row["selection"]:
            error = other["selection"]["relative_error"]
            assert row["selection"]["relative_error"] == pytest.approx(error, rel=1e-8)


EVALUATION = """
import sys
import torch
from acslib import data, parallel
from acslib.attacks import PGD
from acslib.paper import measures
from networks import Smooth

if len(sys.argv) > 2:
    parallel.join("cpu")

model, test = Smooth(), data.load("digits", test_limit=203).test
attack = PGD("linf", 0.05, 0.02, 4, random_start=False)
masks = [
    measures.withstood(model, test.float_images()[:n], test.labels[:n], attack, 50, model)
    for n in (1, 203)
]
torch.save(masks, f"{sys.argv[1]}{parallel.rank()}")
"""


@pytest.mark.slow
def test_two_processes_evaluate_what_one_does(tmp_path):
    """Both have the whole mask, in the images' order, also where there is one image for two."""
    script = tmp_path / "evaluate.py"
    script.write_text(EVALUATION)
    run([sys.executable, str(script), str(tmp_path / "alone")])
    run([*TORCHRUN, str(script), str(tmp_path / "together"), "gloo"])
    one, all_of_them = torch.load(tmp_path / "alone0")
    assert len(one) == 1
    assert 0 < all_of_them.sum() < len(all_of_them) == 203
    for name in ("together0", "together1"):
        ours, theirs = torch.load(tmp_path / name)
        assert torch.equal(ours, one)
        assert torch.equal(theirs, all_of_them)


@given(seed=st.integers(0, 2**63), ranks=st.sets(st.integers(0, 63), min_size=2, max_size=2))
def test_processes_draw_different_numbers(seed, ranks):
    """On CPUs a generator looks at the low 32 bits of its seed."""
    drawn = []
    for rank in ranks:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parallel, "rank", lambda rank=rank: rank)
            generator = torch.Generator().manual_seed(parallel.own_seed(seed))
        drawn.append(torch.rand(4, generator=generator))
    assert not torch.equal(*drawn)


def test_several_processes_that_nobody_has_started_are_refused(monkeypatch):
    for name in parallel.STARTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE is '2' without RANK, LOCAL_RANK.*: start"):
        parallel.join("cpu")
    monkeypatch.setenv("WORLD_SIZE", " ")
    assert parallel.join("cpu") == "cpu"
