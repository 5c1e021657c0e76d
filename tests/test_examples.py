"""Each file of `examples/`, run as its first lines say, at a small size."""

import dataclasses
import importlib.util
import json
import sys
import types
from pathlib import Path

import pandas as pd
import pyautoattack
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from acslib import models
from acslib.attacks import PGD
from acslib.paper import (
    build,
    cli,
    config,
    curves,
    figures,
    files,
    notebook,
    rows,
    runs,
    selecting,
    table_pictures,
    tables,
)
from acslib.paper.methods import METHODS

EXAMPLES = Path(__file__).parents[1] / "examples"
SETTING = "resnet18-linf-cifar10"


@pytest.fixture
def plugin(use_plugins):
    """plugin(name): as if ACS_PLUGINS named that example; forgotten after the test."""
    return lambda name: use_plugins(EXAMPLES / name)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A profile `small` that runs one setting of Table 1 and Figure 4, and a folder of results."""
    folder = tmp_path / "params"
    (folder / "profiles").mkdir(parents=True)
    (folder / "profiles" / "small.yaml").write_text(
        f"about: x\nextends: smoke\nitems: {{table1: {{settings: [{SETTING}]}}}}"
    )
    monkeypatch.setenv("ACS_PARAMS", f"{EXAMPLES}:{folder}")
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def module(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found
    spec.loader.exec_module(found)
    return found


def test_every_example_is_run_here():
    text = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".yaml"):
            assert f'"{path.stem}' in text, path.name


# ---- a selector


def test_a_selector_of_ones_own_is_in_table_1(plugin, small):
    plugin("largest_gradient.py")
    notebook.train_missing("table1", "small", [0])
    table = rows.gather("table1", "small", [0])
    path = tables.write_table("table1", table)
    written = pd.read_csv(path)
    assert written.method.tolist()[-1] == "largest_gradient"
    assert written.method_label.tolist()[-1] == "Largest gradient"
    assert written.racc_pct.notna().all()
    assert "Largest gradient" in tables.table_text("table1", "small")
    drawn = table_pictures.tradeoff(table)
    assert "Largest gradient" in [text.get_text() for text in drawn.legends[0].texts]
    run = config.resolve(f"{SETTING}.largest_gradient", "small")
    selector = selecting.build_selector(run, 0)
    assert selector.batch_size == run.setting.selection_batch_size


@pytest.mark.slow
def test_a_selector_of_ones_own_is_in_figure_4(plugin, small):
    plugin("largest_gradient.py")
    notebook.train_missing("fig4", "small", [0])
    table = curves.points_by_seed("fig4", "small", [0])
    written = pd.read_csv(curves.write_points("fig4", table))
    mine = written[written.method == "largest_gradient"]
    theirs = written[written.method == "adv_gradmatch"]
    assert mine.groupby("series").size().to_dict() == theirs.groupby("series").size().to_dict()
    assert mine.coreset_fraction.tolist() == theirs.coreset_fraction.tolist()
    left = figures.figure4(table).axes[0]
    assert "Largest gradient" in left.get_legend_handles_labels()[1]


def test_it_selects_the_largest(plugin):
    plugin("largest_gradient.py")
    selector = METHODS["largest_gradient"].selector(None, 0)
    gradients = torch.tensor([[1.0, 0], [0, -3], [2, 0], [0, 0.5]])
    found = selector(gradients, 2)
    assert found.indices.tolist() == [1, 2]
    assert found.weights.tolist() == [2, 2]


# ---- an objective


@pytest.mark.parametrize("name", ["mart", "smoothed"])
def test_an_objective_trains_and_selects_by_its_own_gradients(name, plugin, small):
    plugin(f"{name}.py")
    run = config.resolve(f"{SETTING}.gradmatch+objective@{name}+beta@5", "smoke")
    record = runs.execute(run, 0, "cpu")
    assert record["params"]["objective"] == name
    assert list(record["provenance"]["plugins"]) == [f"{name}.py"]
    assert record["history"][-1]["selection"]["relative_error"] > 0


def test_smoothed_labels_loss_and_gradients(plugin, batch):
    """Against the target written out: 0.01 everywhere, and 0.9 more at the label."""
    plugin("smoothed.py")
    run = config.resolve(f"{SETTING}.full+objective@smoothed", "smoke")
    images, labels = batch[0][:6].double(), batch[1][:6]
    torch.manual_seed(0)
    model = models.build("resnet18", channels=1, width=4, depths=(1, 1)).double().eval()
    objective = build.build_objective(run.setting, 3, torch.Generator(), "cpu")
    moved = objective.perturb(model, images, labels)
    target = torch.full((6, 10), 0.01, dtype=torch.float64)
    target[torch.arange(6), labels] += 0.9
    with torch.no_grad():
        logits, features = model(moved), model.features(moved)
    losses = objective.loss(model, images, labels, moved).detach()
    torch.testing.assert_close(losses, -(target * logits.log_softmax(1)).sum(1))
    found = objective.gradients(model, images, labels, moved).dense()
    errors = logits.softmax(1) - target
    wanted = torch.cat([errors[:, :, None] * features[:, None], errors[:, :, None]], 2).flatten(1)
    torch.testing.assert_close(found, wanted)


def test_marts_loss_and_gradients(plugin, batch):
    """Against eq. (11), written out; and its gradients against autograd through the head."""
    plugin("mart.py")
    run = config.resolve(f"{SETTING}.full+objective@mart+beta@5", "smoke")
    images, labels = (part[:6].double() if part.is_floating_point() else part[:6] for part in batch)
    torch.manual_seed(0)
    model = models.build("resnet18", channels=1, width=4, depths=(1, 1)).double().eval()
    objective = build.build_objective(run.setting, 3, torch.Generator(), "cpu")
    assert isinstance(objective.attack, PGD)
    moved = objective.perturb(model, images, labels)
    found = objective.loss(model, images, labels, moved)
    with torch.no_grad():
        clean, adversarial = model(images).softmax(1), model(moved).softmax(1)
    for i, label in enumerate(labels.tolist()):
        p, q = clean[i], adversarial[i]
        wrong = max(float(q[k]) for k in range(len(q)) if k != label)
        boosted = -q[label].log() - torch.tensor(1 - wrong).log()
        kl = (p * (p / q).log()).sum()
        assert found[i].item() == pytest.approx(float(boosted + 5 * kl * (1 - p[label])), rel=1e-5)
    gradients = objective.gradients(model, images, labels, moved).dense()
    head = model.head
    parts = torch.autograd.grad(found.sum(), [head.weight, head.bias])
    total = torch.cat([parts[0], parts[1][:, None]], 1).flatten()
    assert torch.allclose(gradients.sum(0), total, atol=1e-6)


# ---- weights perturbed between a backward pass and its step


def test_gradients_are_those_at_the_perturbed_weights(batch):
    """Against the perturbation written out: layers move, biases and BatchNorm's numbers do not."""
    images, labels = batch[0].double(), batch[1]

    def model():
        torch.manual_seed(0)
        return models.build("resnet18", channels=1, width=4, depths=(1, 1)).double().train()

    def gradients(net):
        return torch.autograd.grad(cross_entropy(net(images), labels), list(net.parameters()))

    above, net = model(), model()
    first = gradients(above)
    with torch.no_grad():
        for p, g in zip(above.parameters(), first, strict=True):
            if p.ndim > 1:
                p += 0.02 * p.norm() * g / g.norm()

    def compute_gradients():
        net.zero_grad()
        loss = cross_entropy(net(images), labels)
        loss.backward()
        return loss

    compute_gradients()
    module("weight_perturbation").WeightPerturbation(0.02)(net, compute_gradients)
    for p, was, wanted, at in zip(
        net.parameters(), model().parameters(), gradients(above), first, strict=True
    ):
        assert torch.equal(p, was)
        torch.testing.assert_close(p.grad, wanted)
        assert not torch.allclose(p.grad, at)


def test_weight_perturbation_trains(digits):
    few = dataclasses.replace(digits, train=digits.train[slice(0, 200)])
    example = module("weight_perturbation")
    plain, perturbed = (example.train(few, epochs=4, gamma=gamma) for gamma in (0, 0.005))
    assert plain != perturbed
    assert perturbed["robust"] <= perturbed["clean"]


# ---- a folder of images


def test_ones_own_folder_and_network(tmp_path, alone):
    torch.manual_seed(0)
    for name, shade in (("dark", 60), ("light", 200)):
        (tmp_path / "birds" / name).mkdir(parents=True)
        for number in range(20):
            noise = torch.randint(-20, 20, (8, 8, 3)) + shade
            picture = Image.fromarray(noise.to(torch.uint8).numpy())
            picture.save(tmp_path / "birds" / name / f"{number}.png")
    found = module("own_folder").train(str(tmp_path / "birds"), epochs=10, size=8, batch=8)
    assert found["clean"] >= 0.75
    assert found["robust"] <= found["clean"]


# ---- a sweep


def test_what_a_sweep_varies_is_a_column(small, capsys):
    assert cli.main(["list", "sweep", "--profile", "small"]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) == 7
    assert f"{SETTING}.gradmatch+coreset_fraction@0.2+period@2" in names
    notebook.train_missing("sweep", "small", [0])
    table = rows.gather("sweep", "small", [0])
    mine = table[table.method == "adv_gradmatch"]
    assert mine.coreset_fraction.tolist() == [0.2] * 3
    assert mine.period.tolist() == [2, 4, 8]
    full = table[table.method == "full"]
    assert full.coreset_fraction.isna().all()
    assert "How often to select" in tables.title("sweep", table)
    assert len(tables.beside_paper(table)) == 7


# ---- AutoAttack's and RobustBench's own evaluation


def said_to_be(folder, **changes):
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | changes))


@pytest.fixture
def exported(small, tmp_path):
    assert cli.main(["run", f"{SETTING}.full", "--profile", "smoke"]) == 0
    to = tmp_path / "net"
    words = ["export", f"{SETTING}.full", "--profile", "smoke", "--to", str(to)]
    assert cli.main(words) == 0
    return to


def test_autoattacks_own_evaluation(exported, monkeypatch):
    """The package where it is installed, else one with its calls that runs two of the attacks."""

    class AutoAttack:
        def __init__(self, model, norm="Linf", eps=0.3, version="standard", device="cuda"):
            assert (norm, version) == ("Linf", "standard")
            self.attack = pyautoattack.AutoAttack(
                model, norm=norm, eps=eps, version="custom", attacks=["apgd-ce"], device=device
            )

        def run_standard_evaluation(self, x_orig, y_orig, bs=250):
            return self.attack.run_standard_evaluation(x_orig, y_orig, batch_size=bs)[0]

    if importlib.util.find_spec("autoattack") is None:
        stand_in = types.ModuleType("autoattack")
        stand_in.AutoAttack = AutoAttack
        monkeypatch.setitem(sys.modules, "autoattack", stand_in)
    example = module("robustbench_eval")
    model, about = example.exported(exported)
    epsilon = about["evaluated_by"]["epsilon"]
    assert about["evaluated_by"]["norm"] == "linf"
    images = torch.rand(30, 1, 8, 8)
    labels = model(images).argmax(1)
    found = example.autoattack(model, images, labels, "linf", epsilon)
    assert found["clean"] == 1
    assert found["robust"] < 1


def test_robustbenchs_own_evaluation(exported, monkeypatch):
    asked = {}

    def benchmark(
        model, n_examples=10_000, dataset="cifar10", threat_model="Linf", eps=None, device=None
    ):
        asked.update(n=n_examples, dataset=dataset, threat_model=threat_model, eps=eps)
        assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
        return 0.5, 0.25

    stand_in = types.ModuleType("robustbench")
    stand_in.benchmark = benchmark
    monkeypatch.setitem(sys.modules, "robustbench", stand_in)
    example = module("robustbench_eval")
    said_to_be(exported, dataset="cifar10")
    assert example.main(str(exported), "robustbench") == {"clean": 0.5, "robust": 0.25}
    assert asked == {"n": 10_000, "dataset": "cifar10", "threat_model": "Linf", "eps": 0.125}


def test_what_neither_can_judge_is_refused(exported):
    """A network of other images would have been evaluated on CIFAR-10."""
    example, folder = module("robustbench_eval"), str(exported)
    with pytest.raises(ValueError, match="judge is 'robustbnch': write autoattack or robustbench"):
        example.main(folder, "robustbnch")
    with pytest.raises(ValueError, match="trained on digits, and RobustBench brings CIFAR-10"):
        example.main(folder, "robustbench")
    said_to_be(exported, evaluated_by={"norm": "lpips", "epsilon": 0.5})
    for judge in ("autoattack", "robustbench"):
        with pytest.raises(ValueError, match="evaluated under lpips, and both have linf and l2"):
            example.main(folder, judge)
