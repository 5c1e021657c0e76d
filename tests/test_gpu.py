"""What a GPU will be tried by, tried on a CPU; and what the pages say until there was one."""

import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from networks import Smooth
from torch import nn

from acslib import devices, folding, measuring, memory, models, protocols, selectors
from acslib.attacks import PGD
from acslib.divergence import Diverged
from acslib.objectives import AdversarialTraining, Trades
from acslib.paper.operations import Looks
from acslib.schedule import full, plan
from acslib.training import State, Training, fit

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_first_contact_goes_through_on_a_cpu(tmp_path):
    """All of it, in small: every part has rows, nothing fails, and both files are written."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu", "--device", "cpu", "--tiny", "--to", tmp_path],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACS_RESULTS": str(tmp_path / "results")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "cpu" / "report.json").read_text())
    parts = {row["part"] for row in report["rows"]}
    asked = "ceilings numbers attacks objectives selection runs throughput waits profile"
    assert parts == set(asked.split())
    assert not [row for row in report["rows"] if "failed" in row["numbers"]]
    rates = [
        row["numbers"].get("images_per_s") for row in report["rows"] if row["part"] == "throughput"
    ]
    assert sum(rate is not None and rate > 0 for rate in rates) >= 10
    page = (tmp_path / "cpu" / "README.md").read_text()
    assert all(f"## {part.capitalize()}" in page for part in parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_it_says_so_and_publishes_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode
    assert "there is no GPU here" in done.stderr


@pytest.mark.parametrize("page", ["docs/scaling.md", "results/published/README.md"])
def test_pages_lead_to_every_card_that_was_tried(page):
    cards = list((ROOT / "results" / "published" / "gpu").glob("*/report.json"))
    assert cards
    text = (ROOT / page).read_text()
    assert all(f"gpu/{card.parent.name}/README.md" in text for card in cards)


def test_what_the_page_says_of_the_card_is_in_its_report():
    (card,) = (ROOT / "results" / "published" / "gpu").glob("nvidia-h100*/report.json")
    text = (ROOT / "docs" / "scaling.md").read_text()
    seconds = {
        row["name"]: row["numbers"]["seconds"]
        for row in json.loads(card.read_text())["rows"]
        if row["part"] == "selection"
    }
    for name, said in {
        "gradmatch, batch-wise, half": "took {:.2f} s",
        "gradmatch, by classes, a tenth": "and {:.1f} s",
        "craig, by classes, a tenth": "CRAIG {:.1f} s",
    }.items():
        assert said.format(seconds[name]) in " ".join(text.split())


def test_looks_are_found_where_they_are():
    """Numbers, masks and counts are looks; arithmetic and an index by numbers are none."""
    values = torch.arange(4.0)
    with Looks() as none:
        values[torch.tensor([1, 2])].add(1).sum().isfinite()
        torch.where(values > 1, values, 0)
    assert not none.places
    with Looks() as looks:
        float(values.sum())
        values[values > 1]
        values.nonzero()
        bool(values.isfinite().all())
    assert sum(looks.places.values()) == 4


# ---- what a step does, seen on the CPU


def a_training(mode="train", precision="float32", **options):
    generator = torch.Generator()
    attack = PGD("linf", 0.1, 0.05, 4, generator=generator)
    return Training(
        AdversarialTraining(attack),
        full(2),
        generator,
        batch_size=16,
        attack_mode=mode,
        precision=precision,
        monitor=0,
        **options,
    )


def a_state():
    torch.manual_seed(0)
    model = models.build("resnet18", channels=1, width=8, depths=(1, 1))
    return State(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))


@pytest.fixture(scope="module")
def few(digits):
    return dataclasses.replace(digits, train=digits.train[slice(0, 64)])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_training_step_looks_once(few, mode):
    """Whether all gradients of the attack were finite; all else waits for the epoch's end."""

    def looks(n):
        part = dataclasses.replace(few, train=few.train[slice(0, n)])
        with Looks() as found:
            fit(a_state(), part, dataclasses.replace(a_training(mode), plan=full(1)))
        return sum(found.places.values())

    assert looks(64) - looks(32) == 2  # two steps more


def test_a_batch_that_has_changed_is_looked_at_again(tiny, batch):
    """And so is everything else than the very tensors that somebody vouched for."""
    images, labels = batch
    attack = PGD("linf", 0.1, 0.05, 1)
    wide = images.clone()
    with protocols.looked_at(wide, labels, 10):
        attack(tiny, wide.double(), labels)
        with pytest.raises(ValueError, match=r"images span \[0, 2\]"):
            protocols.check_images(wide * 2)
        wide.mul_(2)
        with pytest.raises(ValueError, match=r"images span \[0, 2\]"):
            protocols.check_images(wide)
        with pytest.raises(ValueError, match="the model has 5 classes"):
            protocols.checked_labels(labels, len(labels), 5)
    with pytest.raises(ValueError, match=r"images span \[0, 2\]"):
        protocols.check_images(wide)


@pytest.mark.parametrize(("mode", "precision"), [("eval", "float32"), ("train", "bfloat16")])
def test_one_twin_is_kept_and_gives_what_a_new_one_does(few, mode, precision, monkeypatch):
    """Over steps: the same module, the same weights in the end, bit for bit."""
    made = []
    keep = folding._keep
    monkeypatch.setattr(folding, "_keep", lambda *given: made.append(1) or keep(*given))
    ours = fit(a_state(), few, a_training(mode, precision))
    assert len(made) == 1
    monkeypatch.setattr(folding, "_kept_for", lambda *given: None)
    anew = fit(a_state(), few, a_training(mode, precision))
    assert len(made) == 1 + 2 * 4
    for one, other in zip(ours.model.parameters(), anew.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [row["loss"] for row in ours.history] == [row["loss"] for row in anew.history]


def test_what_goes_wrong_after_a_loss_that_is_no_number_is_blamed_on_it(few):
    """An attack of one's own may refuse a network that says NaN, before the epoch's end."""
    calls = []

    def attack(model, images, labels):
        calls.append(1)
        if len(calls) > 4 and model(images).isnan().any():  # one call tries the attack
            raise ValueError("no numbers")
        return images

    how = dataclasses.replace(
        a_training(), objective=AdversarialTraining(attack), learning_rate=1e30, plan=full(3)
    )
    with pytest.raises(Diverged, match=r"the loss became .* in epoch 0: lower lr"):
        fit(a_state(), few, how)


def test_gradients_that_are_no_numbers_are_climbed_with_care(batch):
    """A network with a root at 0: as before, whoever has no gradient goes at random."""
    images, labels = batch

    class Root(nn.Module):
        def forward(self, x):
            return ((x.flatten(1)[:, :10] - x.flatten(1)[:, :10].detach()).abs()).sqrt()

    attack = PGD("linf", 0.1, 0.05, 2, generator=torch.Generator().manual_seed(0))
    found = attack(Root(), images, labels)
    assert found.isfinite().all()
    assert float((found - images).abs().max()) <= 0.1 + 1e-6


# ---- what a GPU is told


def flags():
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    exact = torch.are_deterministic_algorithms_enabled()
    return conv.allow_tf32, matmul.allow_tf32, conv.benchmark, exact


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, (False, False, False, False)),
        ({"precision": "tf32", "search": True}, (True, True, True, False)),
        ({"precision": "bfloat16", "search": True}, (False, False, True, False)),
        ({"search": True, "deterministic": True}, (False, False, False, True)),
    ],
)
def test_a_gpu_is_told_what_it_may_and_everything_is_put_back(given, told, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = flags()
    with devices.computing("cuda", **given):
        assert flags() == told
    assert flags() == before
    with devices.computing("cpu", **given):
        assert flags() == before
    precision, exact = given.get("precision", "float32"), given.get("deterministic", False)
    found = devices.recorded("cuda", precision, exact)
    assert found == {"tf32": told[0], "cudnn_benchmark": not told[3], "deterministic": told[3]}
    assert devices.recorded("cpu", precision, exact) == {}


def test_the_devices_clock_is_read_once_an_epoch(monkeypatch):
    """Each part gets the device's milliseconds between its two marks."""
    now, waited = [0.0], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = now[0]

        def synchronize(self):
            waited.append(self.at)

        def elapsed_time(self, other):
            return 1000 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    log = measuring.EpochLog(full(1).epochs[0], 0.1, torch.device("cpu"))
    log.device = torch.device("cuda")
    for part, seconds in (("attack", 2.0), ("update", 1.0), ("attack", 4.0)):
        with log.time(part):
            now[0] += seconds
    assert not waited
    row = log.row([])
    assert len(waited) == 1
    assert (row["seconds_attack"], row["seconds_update"], row["seconds_wall"]) == (6, 1, 7)


# ---- batches in parts


@pytest.mark.parametrize("micro_batch", [1, 7, 15])
@pytest.mark.parametrize("kind", ["linf", "trades", "half", "again"])
def test_a_batch_in_parts_trains_what_a_whole_one_does(few, micro_batch, kind):
    pgd = PGD("linf", 0.1, 0.05, 2, random_start=False)

    def attack(model, images, labels):  # from the image itself TRADES' first gradient is zero
        return pgd(model, (images + 0.05).clamp(0, 1), labels)

    objective = Trades(attack) if kind == "trades" else AdversarialTraining(attack)

    def trained(parts):
        how = Training(
            objective,
            plan(4, 0.5, 0.5, 2),
            torch.Generator(),
            selector=selectors.Random(0),
            batch_size=16,
            half_half=kind == "half",
            gradient_clip=0.01 if kind == "again" else None,
            before_step=(lambda model, again: again()) if kind == "again" else None,
            monitor=0,
            micro_batch=parts,
        )
        model = Smooth()
        return fit(State(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)), few, how)

    whole, parts = trained(None), trained(micro_batch)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    for row, other in zip(whole.history, parts.history, strict=True):
        assert row.get("train_robust_accuracy") == other.get("train_robust_accuracy")
        assert row.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-10)


def test_no_part_is_larger_than_asked(few):
    seen = []

    class Watched(AdversarialTraining):
        def loss(self, model, images, labels, adversarial=None):
            seen.append(len(images))
            return super().loss(model, images, labels, adversarial)

    how = a_training(micro_batch=5)
    how = dataclasses.replace(how, objective=Watched(how.objective.attack), plan=full(1))
    fit(a_state(), few, how)
    assert seen[-16:] == [4] * 16
    with pytest.raises(ValueError, match="micro_batch is 0: give a whole number of at least 1"):
        a_training(micro_batch=0)


def test_what_cannot_fit_is_told_before_training(few, monkeypatch):
    """By the bytes that autograd keeps for each image, however many it is tried on."""
    model, how = a_state().model, a_training()
    images, labels = few.train.float_images(), few.train.labels
    few_bytes, each = (
        memory.of_an_update(how.objective, model.eval(), images[:n], labels[:n]) for n in (4, 32)
    )
    assert few_bytes == pytest.approx(each, rel=0.01)
    assert each > 8 * 64 * 4  # at least the stem's output
    card = types.SimpleNamespace(total_memory=48.5 * each)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    gpu = torch.device("cuda")
    memory.check_fits(each, dataclasses.replace(how, batch_size=48), gpu)
    large = dataclasses.replace(how, batch_size=64)
    with pytest.raises(ValueError, match=r"64 images at once keep .* set micro_batch to 24 or"):
        memory.check_fits(each, large, gpu)
    memory.check_fits(each, dataclasses.replace(large, micro_batch=24), gpu)
    memory.check_fits(each, dataclasses.replace(large, precision="bfloat16"), gpu)
