"""A run from name to record: resumed after a real SIGKILL, and every way in which its files can be
wrong.
"""

import errno
import json
import lzma
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from acslib import evaluation, writing
from acslib.gradients import LastLayerGradients, Samples
from acslib.paper import (
    __main__,
    build,
    checkpoints,
    config,
    costs,
    files,
    fingerprints,
    inventory,
    masks,
    measures,
    record_fields,
    records,
    runs,
    selecting,
    threads,
    threats,
)
from acslib.paper.methods import METHODS
from acslib.paper.settings import OBJECTIVES
from acslib.selectors import needs_gradients
from acslib.selectors.memory import check_memory
from acslib.training import State, adversarial_gradients

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
NAME = "resnet18-linf-cifar10.gradmatch+epochs@6+steps@3+evaluation_steps@5+autoattack_n@0"


@pytest.fixture
def run():
    return config.resolve(NAME, "demo")


def start(folder, name=NAME):
    environment = os.environ | {"ACS_RESULTS": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "acslib.paper", "train", name],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts():
    """Whoever runs the tests in the background of a shell has them ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_killed_and_resumed_ends_in_the_same_weights(tmp_path, run):
    """SIGKILL in the middle of training, then the same command again: bit for bit the weights of an
    unkilled run.
    """
    whole = start(tmp_path / "whole")
    _, said = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    killed, checkpoint = start(tmp_path / "killed"), records.run_folder(run, 0, tmp_path / "killed")
    deadline = time.time() + 120
    while not (checkpoint / "checkpoint.safetensors").exists() and time.time() < deadline:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not (checkpoint / "record.json").exists()
    again = start(tmp_path / "killed")
    log, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    assert "epoch   0" not in log
    first = load_file(records.run_folder(run, 0, tmp_path / "whole") / "weights.safetensors")
    second = load_file(checkpoint / "weights.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    one, two = (records.finished_record(run, 0, tmp_path / side) for side in ("whole", "killed"))
    assert one["metrics"] == two["metrics"]
    assert [row["phase"] for row in two["history"]] == ["full"] * 2 + ["skip"] + ["coreset"] * 3


@pytest.mark.parametrize(
    ("method", "varied"),
    [
        ("craig", "period@1"),
        ("random", "period@1"),
        ("adaptive_random", "period@1"),
        ("gradmatch", "period@4"),
        ("gradmatch", "memory_format@contiguous+period@1"),
        ("craig", "period@4+precision@bfloat16"),
    ],
)
def test_interrupted_between_selections(method, varied, tmp_path):
    """Whatever a method draws at its next selection does not depend on whether the run was stopped
    before it.
    """
    run = config.resolve(
        f"resnet18-linf-cifar10.{method}+epochs@6+{varied}+steps@1+train_limit@200"
        "+autoattack_n@0+evaluation_steps@1",
        "demo",
    )

    def stop(row):
        if row["epoch"] == 5:
            raise KeyboardInterrupt

    whole = runs.execute(run, 0, "cpu", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run, 0, "cpu", tmp_path / "stopped", told=runs.Told(progress=stop))
    again = runs.execute(run, 0, "cpu", tmp_path / "stopped")
    assert [row["loss"] for row in again["history"] if "loss" in row] == [
        row["loss"] for row in whole["history"] if "loss" in row
    ]
    first, second = (
        load_file(records.run_folder(run, 0, tmp_path / side) / "weights.safetensors")
        for side in ("whole", "stopped")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_adaptive_random_is_drawn_afresh_and_random_is_not():
    for method, fresh in (("random", False), ("adaptive_random", True)):
        run = config.resolve(f"resnet18-linf-cifar10.{method}", "demo")
        select = selecting.build_selector(run, 0)
        draws = [select(Samples(100, epoch=epoch), 10).indices for epoch in (5, 6, 5)]
        assert torch.equal(draws[0], draws[2])
        assert torch.equal(draws[0], draws[1]) is not fresh


def test_other_parameters_of_the_evaluation_evaluate_again_and_train_nothing(tmp_path, monkeypatch):
    """The training's history, weights and seconds stay; another rate is refused as ever."""
    name = "resnet18-linf-cifar10.full+epochs@1+train_limit@100+autoattack_n@0"
    before = config.resolve(name, "demo", {"evaluation_steps": 1})
    first = runs.execute(before, 0, "cpu", tmp_path)
    stronger = {"evaluation_steps": 20, "evaluation_epsilon": 0.3}
    now = config.resolve(name, "demo", stronger)
    assert records.finished_record(now, 0, tmp_path) is None
    heard = []
    with monkeypatch.context() as patch:
        patch.setattr(runs, "fit", lambda *_: 1 / 0)
        again = runs.execute(now, 0, "cpu", tmp_path, told=runs.Told(announce=heard.append))
    assert heard == ["the evaluation's parameters have changed: evaluated again, not trained"]
    assert again["history"] == first["history"]
    assert again["metrics"]["acc"] == first["metrics"]["acc"]
    assert again["metrics"]["racc"] < first["metrics"]["racc"]
    assert masks.unpacked(again["masks"]["racc"]).mean() == pytest.approx(again["metrics"]["racc"])
    assert again["params"]["evaluation_steps"] == 20
    assert records.finished_record(now, 0, tmp_path) == again
    # as if it had been evaluated so at once
    whole = runs.execute(now, 0, "cpu", tmp_path / "at once")
    assert again["metrics"] == whole["metrics"]
    assert again["masks"] == whole["masks"]
    with pytest.raises(files.RecordError, match="other parameters"):
        runs.execute(config.resolve(name, "demo", {"lr": 0.5} | stronger), 0, "cpu", tmp_path)


def test_the_papers_pgd_on_the_first_images_and_pgd_20_on_all(finished, tmp_path, run, monkeypatch):
    calls = []

    def heard(model, images, labels, attack, *args):
        found = robust_accuracy(model, images, labels, attack, *args)
        calls.append((len(images), attack.steps, attack.restarts, found[0]))
        return found

    robust_accuracy = evaluation.robust_accuracy
    monkeypatch.setattr(measures.evaluation, "robust_accuracy", heard)
    folder = shutil.copytree(finished[0], tmp_path / "results")
    some = config.resolve(NAME, "demo", {"evaluation_n": 40})
    record = runs.execute(some, 0, "cpu", folder)
    metrics, n = record["metrics"], finished[1]["metrics"]["n"]
    assert (metrics["evaluation_n"], metrics["n"]) == (40, n)
    assert calls == [
        (40, some.setting.evaluation_steps, some.setting.evaluation_restarts, metrics["racc"]),
        (n, 20, 1, metrics["pgd20"]),
    ]
    lengths = {name: len(masks.unpacked(mask)) for name, mask in record["masks"].items()}
    assert lengths == {"acc": n, "racc": 40, "pgd20": n}
    as_many = config.resolve(NAME, "demo", {"evaluation_n": n})
    assert "pgd20" not in runs.execute(as_many, 0, "cpu", folder)["metrics"]


@pytest.mark.parametrize(
    ("name", "changes", "same"),
    [
        (NAME, {"test_limit": 500}, True),
        (NAME, {"test_limit": 1500}, False),
        (NAME, {"test_limit": None}, False),
        ("resnet50-fastlpa-cifar10.full", {"test_limit": None}, True),
    ],
)
def test_first_images_make_no_other_run_where_there_are_no_more(name, changes, same):
    alike = [
        fingerprints.fingerprint(config.resolve(name, "demo", {**changes, "evaluation_n": n}))
        for n in (None, 1000)
    ]
    assert (alike[0] == alike[1]) is same


def test_without_its_weights_a_run_that_is_to_be_evaluated_again_is_trained_again(tmp_path):
    name = "resnet18-linf-cifar10.full+epochs@1+train_limit@100+autoattack_n@0"
    first = runs.execute(config.resolve(name, "demo", {"evaluation_steps": 1}), 0, "cpu", tmp_path)
    now = config.resolve(name, "demo", {"evaluation_steps": 2})
    (records.run_folder(now, 0, tmp_path) / "weights.safetensors").unlink()
    rows = []
    again = runs.execute(now, 0, "cpu", tmp_path, told=runs.Told(progress=rows.append))
    assert len(rows) == 1
    assert again["metrics"]["acc"] == first["metrics"]["acc"]


def test_a_mistake_in_the_evaluation_costs_no_training(tmp_path, monkeypatch):
    """What was trained is evaluated with the corrected value; another rate is another training."""
    name = "resnet18-linf-cifar10.full+epochs@1+train_limit@100+autoattack_n@0"
    mistaken = config.resolve(name, "demo", {"evaluation_steps": 1})
    with monkeypatch.context() as patch:
        patch.setattr(runs, "evaluate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runs.execute(mistaken, 0, "cpu", tmp_path)
    with pytest.raises(files.RecordError, match="other parameters"):
        runs.execute(config.resolve(name, "demo", {"lr": 0.5}), 0, "cpu", tmp_path)
    with pytest.raises(files.RecordError, match="other data"):
        runs.execute(config.resolve(name, "demo", {"train_limit": 90}), 0, "cpu", tmp_path)
    rows = []
    mended = config.resolve(name, "demo", {"evaluation_steps": 2})
    record = runs.execute(mended, 0, "cpu", tmp_path, told=runs.Told(progress=rows.append))
    assert 0 <= record["metrics"]["racc"] <= 1
    assert rows == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    run = config.resolve(NAME, "demo")
    return folder, runs.execute(run, 0, "cpu", folder)


def test_record_says_what_made_it(finished, run):
    _, record = finished
    assert record["run"] == run.name
    assert record["seconds"]["total"] == pytest.approx(
        sum(record["seconds"][part] for part in ("select", "attack", "update"))
    )
    assert 0 < record["metrics"]["racc"] <= record["metrics"]["acc"] <= 1
    assert "digits" in record["data"]
    assert record["provenance"]["versions"]["torch"].startswith("2.13")
    selection = next(row["selection"] for row in record["history"] if row["selection"])
    assert selection["error"] > 0
    assert {"relative_error", "random_relative_error", "size", "reason"} <= selection.keys()


def test_a_finished_run_is_not_trained_again(finished, run):
    folder, record = finished
    trained = []
    assert runs.execute(run, 0, "cpu", folder, told=runs.Told(progress=trained.append)) == record
    assert not trained


def test_weights_can_be_loaded(finished, run):
    folder, record = finished
    model, dataset = runs.load_trained(run, 0, "cpu", folder)
    right = (model(dataset.test.float_images()).argmax(1) == dataset.test.labels).float().mean()
    assert float(right) == pytest.approx(record["metrics"]["acc"])


def a_record(run, seed=0):
    """The least that a record has."""
    seconds = {"select": 0.0, "attack": 1.0, "update": 1.0}
    row = {"epoch": 0, "phase": "full", "selection": None}
    return {
        "format": records.FORMAT,
        "run": run.name,
        "seed": seed,
        "fingerprint": fingerprints.fingerprint(run),
        "params": run.setting.model_dump(mode="json"),
        "data": "digits",
        "metrics": {"acc": 0.9, "n": 200},
        "seconds": seconds | {"total": 2.0},
        "history": [row | {f"seconds_{part}": value for part, value in seconds.items()}],
        "provenance": {},
    }


def copied(finished, tmp_path, run):
    """A finished record as version 0.1.0 wrote it, without a checksum, and where it belongs."""
    record = json.loads(json.dumps(finished[1]))
    del record["sha256"]
    path = records.run_folder(run, 0, tmp_path) / "record.json"
    return record, path


def test_record_from_another_version(finished, tmp_path, run):
    record, path = copied(finished, tmp_path, run)
    files.write_json(path, record | {"format": 0})
    with pytest.raises(
        files.RecordError, match="format 0, this version reads 1: move the results folder away"
    ):
        runs.execute(run, 0, "cpu", tmp_path)


def test_record_made_with_other_parameters(finished, tmp_path, run):
    record, path = copied(finished, tmp_path, run)
    record["params"]["lr"] = 0.5
    files.write_json(path, record | {"fingerprint": "else"})
    with pytest.raises(files.RecordError, match=r"other parameters \(lr 0.5, now 0.2\)"):
        runs.execute(run, 0, "cpu", tmp_path)


def test_records_stay_valid_when_a_parameter_is_added():
    """Digests of runs as they were before `only_correct`, `lr_warmup` and `gradient_clip` were
    parameters.
    """
    known = {
        "resnet18-linf-cifar10.full": "15347abee2fe0715",
        "resnet50-fastlpa-cifar10.gradmatch": "b5cf37329129c1fb",
    }
    before = {  # what the full profile said then
        "resnet18-linf-cifar10.full": {},
        "resnet50-fastlpa-cifar10.gradmatch": {
            "only_correct": False,
            "lr_warmup": 0,
            "gradient_clip": None,
            "stem": "cifar",
            "threats_n": 1000,
            "color_jitter": 0,
            "rotation": 0,
        },
    }
    for name, digest in known.items():
        assert fingerprints.fingerprint(config.resolve(name, "full", before[name])) == digest
    name = "resnet50-fastlpa-cifar10.gradmatch"
    changed = config.resolve(name, "full", before[name] | {"only_correct": True})
    assert fingerprints.fingerprint(changed) != known["resnet50-fastlpa-cifar10.gradmatch"]


def test_a_parameter_that_the_objective_does_not_look_at_makes_no_other_run(
    finished, tmp_path, run
):
    """Also where a record counts it, as version 0.1.0 did, whose default was eq. (4)."""
    assert (run.setting.objective, run.setting.trades_form) == ("adversarial", "kl")
    record, path = copied(finished, tmp_path, run)
    made = []
    for form in ("ce", "kl"):
        old = config.resolve(run.name, run.profile, {"trades_form": form})
        assert fingerprints.fingerprint(old) == fingerprints.fingerprint(run)
        made.append(fingerprints.fingerprint_before(old, threads.Workers()))
        record["params"]["trades_form"] = form
        files.write_json(path, record | {"fingerprint": made[-1]})
        assert records.finished_record(run, 0, tmp_path)["fingerprint"] == made[-1]
    assert made[0] != made[1]
    record["params"] |= {"trades_form": "ce", "lr": 0.5}
    files.write_json(path, record | {"fingerprint": "else"})
    with pytest.raises(files.RecordError, match=r"other parameters \(lr 0.5, now 0.2\)"):
        records.finished_record(run, 0, tmp_path)


def test_a_parameter_that_the_objective_looks_at_makes_another_run(monkeypatch):
    def found(objective):
        name = f"resnet18-linf-cifar10.full+objective@{objective}"
        forms = [{"trades_form": form, "beta": beta} for form in ("ce", "kl") for beta in (6, 1)]
        return {fingerprints.fingerprint(config.resolve(name, "smoke", form)) for form in forms}

    assert len(found("adversarial")) == 1
    assert len(found("trades")) == 4
    monkeypatch.setitem(OBJECTIVES.own, "mine", lambda setting, attack: None)
    assert len(found("mine")) == 4, "one's own may look at all parameters"


def test_what_the_authors_code_adds_to_fast_lpa_reaches_training():
    added = {"lr_warmup": 5, "gradient_clip": 1}
    for overrides, expected in (
        ({}, (0, None)),
        (added, (5, 1.0)),
        (added | {"epoch_factor": 0.5}, (2, 1.0)),
    ):
        run = config.resolve("resnet50-fastlpa-cifar10.full", "demo", overrides)
        how = build.training_of(run, 0, "cpu")
        assert (how.lr_warmup, how.gradient_clip) == expected


def test_only_correct_reaches_the_attack():
    for only_correct in (False, True):
        run = config.resolve(
            "resnet50-fastlpa-cifar10.full", "demo", {"only_correct": only_correct}
        )
        objective = build.build_objective(run.setting, 3, torch.Generator(), "cpu")
        assert objective.attack.only_correct is only_correct


def test_a_record_that_lost_a_part(finished, tmp_path, run):
    record, path = copied(finished, tmp_path, run)
    files.write_json(path, {key: value for key, value in record.items() if key != "fingerprint"})
    with pytest.raises(
        files.RecordError, match=r"is damaged \(no fingerprint\): delete it and run again"
    ):
        runs.execute(run, 0, "cpu", tmp_path)


@pytest.mark.parametrize(
    ("run", "n", "message"),
    [
        ("gradmatch+granularity@sample", 126_000, "63000 x 63000 inner products take 32 GB"),
        ("gradmatch+granularity@sample+ridge@1", 50_000, "25000 x 25000 inner products take 5 GB"),
        ("gradmatch+granularity@sample", 50_000, None),
        ("gradmatch+granularity@sample+ridge@1+gradient_layer@bias", 40_000, None),
        ("craig+granularity@sample", 126_000, None),
        ("craig+granularity@sample+selection_epsilon@0.1", 126_000, None),
    ],
)
def test_sample_wise_selection_that_cannot_fit_is_refused_before_training(run, n, message):
    """Half of the samples. Without a ridge, GradMatch weights at most as many as d."""
    run = config.resolve(f"resnet18-linf-cifar10.{run}", "demo")
    classes, width = (100, 2048) if n == 126_000 else (10, 512)
    few = LastLayerGradients(torch.zeros(2, classes), torch.zeros(2, width))
    selector = selecting.build_selector(run, 0)
    if message is None:
        check_memory(selector, Samples(n), n // 2, few)
        return
    with pytest.raises(ValueError, match=f"{message}.*the limit is 4 GB: select per class or"):
        check_memory(selector, Samples(n), n // 2, few)


def test_what_was_selected_is_kept(finished, tmp_path, run):
    folder, record = finished
    coresets = checkpoints.load_coresets(run, 0, folder)
    logged = {
        row["epoch"]: row["selection"]["size"] for row in record["history"] if row["selection"]
    }
    assert {epoch: len(coreset) for epoch, coreset in coresets.items()} == logged
    with pytest.raises(files.RecordError, match="coreset-.* is not there: move .* and train"):
        checkpoints.load_coresets(run, 0, tmp_path)


def test_lost_weights_are_told_with_the_way_out(finished, tmp_path, run):
    record, path = copied(finished, tmp_path, run)
    with pytest.raises(files.RecordError, match=r"there is no .*weights.safetensors: train"):
        runs.load_trained(run, 0, "cpu", tmp_path)
    files.write_json(path, record)
    with pytest.raises(
        files.RecordError, match=r"weights.safetensors: delete .*, which has lost it, and train"
    ):
        runs.load_trained(run, 0, "cpu", tmp_path)


def test_a_folder_that_cannot_be_written_is_noticed_before_training(tmp_path, run):
    (tmp_path / "file").write_text("in the way")
    trained = []
    with pytest.raises(files.RecordError, match="could not write .*mend that and run again"):
        runs.execute(run, 0, "cpu", tmp_path / "file", told=runs.Told(progress=trained.append))
    assert not trained


def test_a_record_of_other_parameters_is_asked_for_again_by_make(tmp_path, monkeypatch, capsys):
    """So that editing a parameter is told, rather than an old table shown; until the right record
    is there.
    """
    monkeypatch.setenv("ACS_RESULTS", str(tmp_path))
    run = config.resolve("resnet18-fat-cifar10.full", "smoke")
    path = records.run_folder(run, 0, tmp_path) / "record.json"
    kept = a_record(run)

    def asked() -> bool:
        made = subprocess.run(
            ["make", "-f", str(tmp_path / "rules.mk"), str(path)], capture_output=True, text=True
        )
        assert made.returncode == 0, made.stderr
        return "asked" in made.stdout

    for fingerprint, stale in ((fingerprints.fingerprint(run), False), ("else", True)):
        files.write_json(path, kept | {"fingerprint": fingerprint})
        assert __main__.main(["rules", "--profile", "smoke"]) == 0
        rules = capsys.readouterr().out
        (tmp_path / "rules.mk").write_text(f"{rules}\n{path}:\n\t@echo asked\n.PHONY: always\n")
        assert asked() is stale
    files.write_json(path, kept | {"fingerprint": fingerprints.fingerprint(run)})
    assert not asked()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "fig9"], "no table or figure 'fig9'"),
        (["list", "settings"], "no table or figure 'settings'"),
        (["show", "fig1"], "fig1.pdf: make fig1 PROFILE=demo makes it"),
        (["show", "table1"], "damaged"),
        (["show", "table2"], "it has no column"),
        (["list", "table1", "--seeds", "0 0"], "one of them is there twice"),
    ],
)
def test_tables_that_are_not_there(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setenv("ACS_RESULTS", str(tmp_path / "results"))
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "table1.csv").touch()
    (tmp_path / "demo" / "table2.csv").write_text("a,b\n1,2\n")
    assert __main__.main(arguments) == 2
    answer = capsys.readouterr().err
    assert message in answer
    assert answer.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": {}}, "no metrics.acc; no metrics.n"),
        ({"metrics": {"acc": 1.5, "n": 200}}, "metrics.acc is 1.5"),
        ({"history": []}, "history is .*at least 1 item"),
        ({"history": [5]}, "history.0 is 5"),
        ({"seconds": 3}, "seconds is 3"),
        ({"provenance": None}, "provenance is None"),
        ({"metric": {}}, "metric is {}: this version knows no such field"),
        ({"metrics": {"acc": 0.9, "n": 2, "rac": 0.5}}, "metrics.rac is 0.5: this version knows"),
        ({"plan": {"costs": 1}}, "no plan.cost.*"),
        ({"provenance": {"versions": {"torch": 2}}}, "provenance.versions.torch is 2"),
    ],
)
def test_a_record_of_another_shape(change, said, tmp_path, run):
    path = records.run_folder(run, 0, tmp_path) / "record.json"
    files.write_json(path, a_record(run) | change)
    with pytest.raises(files.RecordError, match=f"is damaged .*{said}.*: delete it and run again"):
        records.finished_record(run, 0, tmp_path)


def test_a_record_of_another_run_or_seed(tmp_path, run):
    path = records.run_folder(run, 0, tmp_path) / "record.json"
    files.write_json(path, a_record(run, seed=3))
    with pytest.raises(files.RecordError, match="is of .*, seed 3: move .* away"):
        records.finished_record(run, 0, tmp_path)


def test_whoever_reads_a_record_of_another_run_or_seed_is_told(tmp_path, run, monkeypatch):
    """`acs compare`, `acs runs` and what runs cost here: it is never taken for its folder's."""
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    path = records.run_folder(run, 0) / "record.json"
    files.write_json(path, a_record(run, seed=3))
    with pytest.raises(files.RecordError, match="is of .*, seed 3: move .* away"):
        inventory.record_named(run.name, run.profile, 0)
    (seen,) = inventory.found(run.profile)
    assert seen.state == "refused"
    assert "seed 3" in seen.reason
    assert costs.finished_records([run.profile]) == []
    copy = tmp_path / "copies" / "record.json"  # by itself it is a record as any other
    files.write_json(copy, a_record(run, seed=3))
    assert inventory.record_named(str(copy.parent), run.profile, 0)["seed"] == 3


def test_a_record_of_version_0_1_0_is_read(tmp_path):
    """One that commit 0bc7172 made."""
    run = config.resolve("resnet18-linf-cifar10.random", "demo")
    path = records.run_folder(run, 0, tmp_path) / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes((FIXTURES / "record-0.1.0.json").read_bytes())
    record = runs.execute(run, 0, "cpu", tmp_path)
    assert record["provenance"]["commit"] == "0bc7172"
    assert len(record["history"]) == len(run.plan) == 20


def test_every_published_record_is_one():
    """Those of the study, which earlier versions made."""
    shards = sorted((ROOT / "results" / "published").rglob("seed*.jsonl.xz"))
    lines = [line for path in shards for line in lzma.decompress(path.read_bytes()).splitlines()]
    assert len(lines) >= 100
    for line in lines:
        assert record_fields.Record.model_validate_json(line).history


@pytest.mark.parametrize("name", ["resnet18-linf-cifar10.full", "resnet50-fastlpa-cifar10.full"])
def test_whatever_is_measured_has_a_field_in_a_record(name):
    run = config.resolve(name, "demo")
    measured = {"clean": "acc", "PGD": "racc", "AutoAttack": "autoattack"}
    fields = [measured.get(part, f"racc_{part}") for part in measures.parts(run)]
    assert set(fields) < set(record_fields.Metrics.model_fields)


def test_weights_coresets_and_checkpoints_of_version_0_1_0_are_read(finished, tmp_path, run):
    """They had neither a checksum nor a word of what they are of."""
    folder, _ = finished
    new, old = (records.run_folder(run, 0, side) for side in (folder, tmp_path))
    old.mkdir(parents=True)
    for path in new.glob("*.safetensors"):
        save_file(load_file(path), old / path.name)
    before, _ = runs.load_trained(run, 0, "cpu", folder)
    after, _ = runs.load_trained(run, 0, "cpu", tmp_path)
    assert same(before.state_dict(), after.state_dict())
    coresets = checkpoints.load_coresets(run, 0, folder)
    again = checkpoints.load_coresets(run, 0, tmp_path)
    assert all(torch.equal(coresets[epoch].weights, again[epoch].weights) for epoch in coresets)
    stopped = old / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run, 0, "cpu", tmp_path, told=runs.Told(progress=stop_at(2)))
    tensors, note = checkpoints.read_tensors(stopped)
    del note["of"]
    save_file(tensors, stopped, {"state": json.dumps(note)})
    rows = []
    runs.execute(run, 0, "cpu", tmp_path, told=runs.Told(progress=rows.append))
    assert rows[0]["epoch"] == 2


def stop_at(epoch):
    def progress(row):
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return progress


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


# ---- damage


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """A file with every type of tensor that is kept, and a record."""
    folder = tmp_path_factory.mktemp("small")
    tensors = {
        "weight": torch.arange(6, dtype=torch.float32).view(2, 3),
        "num_batches_tracked": torch.tensor(7),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "none": torch.empty(0, 3),
    }
    checkpoints.write_tensors(folder / "tensors", tensors, {"of": {"run": "a", "seed": 0}})
    run = config.resolve(NAME, "demo")
    records.write_record(folder / "record", a_record(run))
    return folder


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_flipped_bit_is_noticed(small_files, data):
    """Wherever it is: in the file's header, its note, its checksum, its tensors."""
    whole = bytearray((small_files / "tensors").read_bytes())
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    damaged = small_files / "damaged"
    damaged.write_bytes(whole)
    with pytest.raises(checkpoints.DAMAGE):
        checkpoints.read_tensors(damaged)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_one_flipped_bit_of_a_record_is_noticed(small_files, data):
    whole = bytearray((small_files / "record").read_bytes())
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    damaged = small_files / "damaged.json"
    damaged.write_bytes(whole)
    with pytest.raises(files.RecordError, match="damaged.json (is damaged|has format)"):
        records.read_record(damaged)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_truncated_file_is_noticed(small_files, data):
    for name, read, refusal in (
        ("tensors", checkpoints.read_tensors, checkpoints.DAMAGE),
        ("record", records.read_record, files.RecordError),
    ):
        whole = (small_files / name).read_bytes()
        short = small_files / "short"
        short.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(refusal):
            read(short)


def test_tied_weights_are_kept(tmp_path):
    layer = torch.nn.Linear(3, 3)
    tied = torch.nn.Sequential(layer, layer)
    of = checkpoints.Origin("a", 0, "b")
    checkpoints.save_weights(tmp_path / "weights", tied, of)
    before = {name: value.clone() for name, value in tied.state_dict().items()}
    torch.nn.init.zeros_(layer.weight)
    checkpoints.load_weights(tmp_path / "weights", tied, of)
    assert same(before, tied.state_dict())


class TiedWeights(torch.nn.Module):
    """One layer under two names, and one weight in two layers."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first = torch.nn.Linear(3, 3)
        self.again, self.other = self.first, torch.nn.Linear(3, 3)
        self.other.weight = self.first.weight

    def forward(self, x):
        return self.other(self.again(self.first(x)))


def test_a_checkpoint_of_tied_weights_is_gone_on_with(tmp_path):
    """Two steps are a step, a checkpoint and a step, with the optimiser's memory."""
    of = checkpoints.Origin("a", 0, "b")

    def state(seed):
        model = TiedWeights(seed)
        return State(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))

    def step(state):
        state.optimiser.zero_grad()
        state.model(torch.eye(3)).square().sum().backward()
        state.optimiser.step()

    whole, resumed = state(0), state(1)
    step(whole)
    checkpoints.save_checkpoint(tmp_path / "checkpoint", whole, of, "data")
    checkpoints.load_checkpoint(tmp_path / "checkpoint", resumed, of, "data")
    for each in (whole, resumed):
        step(each)
    assert same(whole.model.state_dict(), resumed.model.state_dict())
    assert resumed.model.other.weight is resumed.model.first.weight


def test_another_seeds_or_runs_files_are_refused(finished, tmp_path, run):
    folder, _ = finished
    mine = records.run_folder(run, 0, folder)
    theirs = records.run_folder(run, 1, tmp_path)
    shutil.copytree(mine, theirs)
    (theirs / "record.json").unlink()
    with pytest.raises(files.RecordError, match="weights.safetensors is of .*, seed 0, .* seed 1"):
        runs.load_trained(run, 1, "cpu", tmp_path)
    with pytest.raises(files.RecordError, match="coreset-.* is of .*, seed 0, .* seed 1"):
        checkpoints.load_coresets(run, 1, tmp_path)
    shutil.copytree(mine, records.run_folder(run, 0, tmp_path))
    first, second, *_ = [epoch.index for epoch in run.plan if epoch.select]
    of_first = checkpoints.coreset_file(mine, first)
    of_second = checkpoints.coreset_file(records.run_folder(run, 0, tmp_path), second)
    shutil.copy(of_first, of_second)
    with pytest.raises(files.RecordError, match=f"is of epoch {first}: move"):
        checkpoints.load_coresets(run, 0, tmp_path)


# ---- what killed runs leave


def dead_process() -> int:
    """A number that no process has now."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


def test_leftovers_of_killed_runs_are_cleared(finished, tmp_path, run):
    folder = records.run_folder(run, 0, tmp_path)
    shutil.copytree(records.run_folder(run, 0, finished[0]), folder)
    here, there = writing.machine(), "0123456789ab"
    dead = folder / f".acs-{here}-{dead_process()}-00.part"
    alive = folder / f".acs-{here}-{os.getpid()}-00.part"
    warm_start = tmp_path / run.profile / "warm" / "setting+digest" / "seed0" / dead.name
    warm_start.parent.mkdir(parents=True)
    away, away_long_ago = (folder / f".acs-{there}-1-0{number}.part" for number in (1, 2))
    old = folder / ".record.json.123"
    for file in (dead, alive, away, away_long_ago, old, warm_start):
        file.touch()
    for file in (away_long_ago, old):
        os.utime(file, (0, 0))
    (folder / "checkpoint.safetensors").touch()
    runs.execute(run, 0, "cpu", tmp_path)
    kept = {file.name for file in folder.iterdir()}
    assert {alive.name, away.name, "record.json", "weights.safetensors"} < kept
    assert not warm_start.exists()
    assert not kept & {dead.name, away_long_ago.name, old.name, "checkpoint.safetensors"}


# ---- the command line


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path):
    long = config.resolve(NAME.replace("epochs@6", "epochs@600"), "demo")
    going, folder = start(tmp_path, long.name), records.run_folder(long, 0, tmp_path)
    deadline = time.time() + 120
    while not (folder / "checkpoint.safetensors").exists() and time.time() < deadline:
        time.sleep(0.005)
    going.send_signal(signal.SIGINT)
    _, said = going.communicate(timeout=120)
    assert going.returncode == 130
    assert said.count("\n") == 1
    assert "stopped" in said
    assert f"{folder} keeps the epochs" in said
    assert "same command" in said


@pytest.mark.parametrize("command", [["list", "table1"], ["rules"], ["rules", "--seeds", "0 1"]])
def test_what_make_waits_for_starts_without_torch(command):
    code = (
        "import sys; from acslib.paper.__main__ import main; assert main(sys.argv[1:]) == 0;"
        "print({'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.stderr == "set()\n"
    assert "resnet18-linf-cifar10.craig" in done.stdout


def test_whoever_reads_what_is_printed_may_leave():
    code = "import sys; from acslib.paper.__main__ import main; sys.exit(main(['rules']))"
    going = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with going:
        going.stdout.close()
        assert going.stderr.read() == b""
        assert going.wait(60) == 141


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "resnet18-linf-cifar10"],
        ["train", "resnet18-linf-cifar10.full", "--profil", "demo", "--sedes", "0"],
        ["train", "resnet18-linf-cifar10.full", "--seeds", "007"],
        ["train", "resnet18-linf-cifar10.full+classes@[../../x]"],
        ["train", "resnet18-linf-cifar10.full+lr@" + "[" * 3000],
        ["train", "resnet18-linf-cifar10.full+lr@1e39"],
        ["train", "\0"],
        ["list"],
        ["list", "tabel1"],
        ["list", "table1", "--profile", "../demo"],
        ["show", "table1", "--profile", "nobodys"],
        ["fly"],
        [],
    ],
)
def test_every_refusal_is_one_line_and_makes_nothing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    try:
        code = __main__.main(arguments)
    except SystemExit as refused:  # argparse's
        code = refused.code
    said = capsys.readouterr()
    assert code == 2
    assert said.err.startswith("acs: ")
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


# ---- what is built


def some_gradients(epoch=0):
    """Of 64 samples in 4 classes."""
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn(64, 4, dtype=torch.float64, generator=generator)
    features = torch.rand(64, 3, dtype=torch.float64, generator=generator)
    return LastLayerGradients(
        errors,
        features,
        labels=torch.arange(64) % 4,
        epoch=epoch,
        predictions=errors.softmax(1),
        losses=errors.norm(dim=1),
        input_norms=features.norm(dim=1),
    )


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].selects])
@pytest.mark.parametrize(
    "varied",
    ["", "granularity@class", "granularity@sample", "weights@false", "gradient_layer@bias"],
)
def test_every_method_of_the_list_is_built(method, varied):
    name = f"resnet18-linf-cifar10.{method}" + f"+{varied}" * bool(varied)
    select = selecting.build_selector(config.resolve(name, "demo"), 0)
    blind = not needs_gradients(select)
    assert blind is ("random" in method)
    coreset = select(Samples(64) if blind else some_gradients(), 32)
    assert 0 < len(coreset) <= 32
    if varied == "weights@false":
        assert set(coreset.weights.tolist()) == {64 / len(coreset)}


def test_full_training_has_no_selector():
    assert selecting.build_selector(config.resolve("resnet18-linf-cifar10.full", "demo"), 0) is None


def test_batches_to_select_from_are_fixed_or_drawn_at_each_selection():
    for value, fixed in (("fixed", True), ("each", False)):
        run = config.resolve(f"resnet18-linf-cifar10.craig+selection_groups@{value}", "demo")
        select = selecting.build_selector(run, 0)
        found = [select(some_gradients(epoch), 16).indices for epoch in (5, 6, 5)]
        assert torch.equal(found[0], found[2])
        assert torch.equal(found[0], found[1]) is fixed


def test_algorithm_3s_lambda_and_epsilon_are_parameters():
    plain, ridge, tolerance = (
        selecting.build_selector(
            config.resolve(f"resnet18-linf-cifar10.gradmatch+granularity@sample{varied}"), 0
        )(some_gradients(), 32)
        for varied in ("", "+ridge@1000", "+tolerance@0.9")
    )
    assert float(ridge.weights.sum()) < float(plain.weights.sum())
    assert tolerance.reason == "tolerance"


def test_an_experiment_is_built_in_one_call(run):
    made = build.experiment(run, 3, "cpu")
    assert made.state.epoch == 0
    assert made.training.seed == 3
    assert made.training.plan == run.plan
    assert len(made.data.train) > 1000


def test_lpips_network_is_made_before_any_clock_runs(monkeypatch):
    asked, said = [], []
    monkeypatch.setattr(build.lpips, "prepare", lambda *which, device: asked.append(which))
    build.prepare_lpips(config.resolve("resnet50-fastlpa-cifar10.full", "demo"), "cpu", said.append)
    assert asked == [("digits", 224)]
    assert "LPIPS' network for digits" in said[0]
    build.prepare_lpips(config.resolve("resnet18-linf-cifar10.full", "demo"), "cpu", said.append)
    assert len(asked) == len(said) == 1


def test_damaged_record(finished, tmp_path, run):
    _, path = copied(finished, tmp_path, run)
    path.parent.mkdir(parents=True)
    path.write_text('{"format": 1, "run"')
    with pytest.raises(files.RecordError, match="is damaged .* delete it and run again"):
        runs.execute(run, 0, "cpu", tmp_path)


def test_damaged_checkpoint_and_weights(finished, tmp_path, run):
    folder = records.run_folder(run, 0, tmp_path)
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"not a checkpoint at all")
    with pytest.raises(files.RecordError, match="checkpoint.safetensors is damaged"):
        runs.execute(run, 0, "cpu", tmp_path)
    (folder / "weights.safetensors").write_bytes(b"nor weights")
    with pytest.raises(files.RecordError, match="weights.safetensors is damaged"):
        runs.load_trained(run, 0, "cpu", tmp_path)


def test_files_can_be_read_by_whom_the_user_lets(tmp_path):
    """A group that shares a folder of results: the umask says who may read, not the library."""
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "record.json", {"format": 1})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o640


def test_full_disk_keeps_what_there_was(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    files.write_json(path, {"format": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.RecordError, match="the disk is full: free some space and run again"):
        files.write_json(path, {"format": 2})
    assert json.loads(path.read_text()) == {"format": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_a_really_full_disk(tmp_path):
    """A file system of 64 kB: the second, larger record does not fit, the first stays."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip(
            "only root on Linux may mount a small disk; the test above raises the same error"
            " without one"
        )
    try:
        files.write_json(tmp_path / "record.json", {"format": 1})
        with pytest.raises(files.RecordError, match="the disk is full"):
            files.write_json(tmp_path / "record.json", {"format": 1, "history": ["x" * 100] * 2000})
        assert json.loads((tmp_path / "record.json").read_text()) == {"format": 1}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18-linf-cifar10.gradmtch", [], "did you mean 'gradmatch'"),
        ("resnet18-linf-cifar10.full+lr@abc", [], "lr is 'abc', it is not a number"),
        (
            "resnet18-linf-cifar10.full",
            ["--profile", "dmo"],
            "no profile 'dmo': did you mean 'demo'",
        ),
    ],
)
def test_command_line_answers_in_one_sentence(
    name, options, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    assert __main__.main(["train", name, *options]) == 2
    answer = capsys.readouterr().err
    assert message in answer
    assert answer.count("\n") == 1


def test_the_perceptual_bound_of_the_evaluation_is_a_parameter():
    for varied, bound in (("", 0.4), ("+evaluation_epsilon@0.2", 0.2)):
        suite = measures.perceptual_suite(
            config.resolve(f"resnet50-fastlpa-cifar10.full{varied}", "full"), 32
        )
        assert [suite[attack]["bound"] for attack in threats.SEEN] == [bound] * 2
        assert suite["stadv"] == {"bound": 0.02, "iterations": 50}


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99", "hpu", "xla", "privateuseone"])
def test_a_device_that_is_not_there(device, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setenv("ACS_DEVICE", device)
    assert __main__.main(["train", "resnet18-linf-cifar10.full"]) == 2
    answer = capsys.readouterr().err
    assert f"there is no device '{device}' here" in answer
    assert answer.count("\n") == 1


def test_a_run_that_diverges_at_once_leaves_no_record(tmp_path):
    run = config.resolve("resnet18-linf-cifar10.full+epochs@2+steps@1+lr@1000", "demo")
    with pytest.raises(ValueError, match=r"lower lr \(now 1000\) and train again$"):
        runs.execute(run, 0, "cpu", tmp_path)
    assert not (records.run_folder(run, 0, tmp_path) / "record.json").exists()


def test_a_run_that_diverges_later_says_what_it_kept(tmp_path):
    """Another rate is another run, so the epochs before have to make way for it."""
    run = config.resolve("resnet18-linf-cifar10.full+epochs@3+steps@1+lr_warmup@0", "demo")

    def stop():
        raise KeyboardInterrupt

    told = runs.Told(progress=lambda row: row["epoch"] == 1 and stop())
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run, 0, "cpu", tmp_path, told)
    path = records.run_folder(run, 0, tmp_path) / "checkpoint.safetensors"
    tensors, note = checkpoints.read_tensors(path)
    tensors["optimiser.0.momentum_buffer"].fill_(float("inf"))
    checkpoints.write_tensors(path, tensors, note)
    kept = path.read_bytes()
    with pytest.raises(
        ValueError,
        match=r"lower lr .* again; move .*seed0 away before, it keeps the epochs up to 0",
    ):
        runs.execute(run, 0, "cpu", tmp_path)
    assert path.read_bytes() == kept


@pytest.mark.parametrize(("amx", "avx512"), [(True, True), (False, True), (False, False)])
def test_auto_is_bfloat16_only_where_the_processor_has_it(amx, avx512, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    setting = config.resolve("resnet18-linf-cifar10.full", "mini").setting
    assert build.precision(setting, "cpu") == ("bfloat16" if amx or avx512 else "float32")
    assert build.precision(setting.model_copy(update={"precision": "float32"}), "cpu") == "float32"


def test_rules_for_make_name_every_record(capsys):
    assert __main__.main(["rules", "--profile", "demo", "--seeds", "0 1"]) == 0
    rules = dict(
        line.split(":", 1) for line in capsys.readouterr().out.splitlines() if line[0:1].isalpha()
    )
    needed = [word for word in rules["results/demo/table1.csv"].split() if "record.json" in word]
    assert len(needed) == 8 * 5 * 2
    assert "results/demo/runs/resnet18-linf-cifar10.craig/seed1/record.json" in needed
    assert set(needed) < set(rules["records"].split())
    assert set(needed) < set(rules)


def test_the_readmes_example_runs(capsys):
    """Its Python block, as it stands."""
    text = (Path(__file__).parent.parent / "README.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    exec(compile(block, "README.md", "exec"), {})
    assert "coreset" in capsys.readouterr().out


def test_the_optimiser_is_torchs_sgd():
    """To the last bit, and either goes on from the other's state."""
    setting = config.resolve("resnet18-linf-cifar10.full", "smoke").setting
    ours, theirs = (torch.nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimisers = [
        build.build_optimiser(setting, ours),
        torch.optim.SGD(
            theirs.parameters(), setting.lr, setting.momentum, weight_decay=setting.weight_decay
        ),
    ]
    for step in range(4):
        images = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        for net, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            net(images).square().sum().backward()
            optimiser.step()
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
        if step == 1:
            kept = [optimiser.state_dict() for optimiser in optimisers]
            for optimiser, state in zip(optimisers, reversed(kept), strict=True):
                optimiser.load_state_dict(state)
    assert ours.weight.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", ["craig", "gradmatch"])
def test_a_solver_may_look_at_a_random_part_in_each_step(method):
    def picks(varied, seed=0):
        name = f"resnet18-linf-cifar10.{method}+granularity@sample{varied}"
        selector = selecting.build_selector(config.resolve(name), seed)
        return selector(some_gradients(), 16).picks.tolist()

    drawn = "+selection_epsilon@0.5"
    assert picks(drawn) == picks(drawn) != picks(drawn, seed=1)
    assert picks(drawn) != picks("") == picks("", seed=1)


@pytest.mark.parametrize(
    ("varied", "said"),
    [
        ("", ""),
        ("+granularity@sample", "asked for 100 samples and can weight 81,"),
        ("+granularity@sample+ridge@1", ""),
        ("+granularity@class", ""),
        ("+granularity@class+gradient_layer@bias", "10 samples of a class and can weight 9,"),
        ("+gradient_layer@bias+selection_batch_size@10", "asked for 10 batches and can weight 9,"),
    ],
)
def test_more_than_gradmatch_can_weight_is_said_before_training(varied, said):
    """The rank is what the run's own gradients have, computed by numpy."""
    run = config.resolve(f"resnet18-linf-cifar10.gradmatch{varied}", "smoke")
    made = build.experiment(run, 0, "cpu")
    line = build.beyond_rank(run, made)
    assert said in line
    assert bool(said) is bool(line)
    if said and run.setting.granularity == "sample":
        gradients = adversarial_gradients(made.state.model, made.data, made.training)
        rank = int(torch.linalg.matrix_rank(gradients.dense(dtype=torch.float64), rtol=1e-5))
        assert f"can weight {rank}," in line
