"""A run from name to record: resumed after a real SIGKILL, and every way in which its files can be
wrong.
"""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acslib.paper import (
    __main__,
    build,
    checkpoints,
    config,
    files,
    measures,
    printed,
    records,
    runs,
)

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
    )


def test_killed_and_resumed_ends_in_the_same_weights(tmp_path, run):
    """SIGKILL in the middle of training, then the same command again: bit for bit the weights of an
    unkilled run.
    """
    whole = start(tmp_path / "whole")
    assert whole.wait(300) == 0, whole.stderr.read()
    killed, checkpoint = start(tmp_path / "killed"), records.run_folder(run, 0, tmp_path / "killed")
    deadline = time.time() + 120
    while not (checkpoint / "checkpoint.safetensors").exists() and time.time() < deadline:
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
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
        runs.execute(run, 0, "cpu", tmp_path / "stopped", progress=stop)
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
    labels, generator = torch.zeros(100, dtype=torch.long), torch.Generator()
    for method, fresh in (("random", False), ("adaptive_random", True)):
        run = config.resolve(f"resnet18-linf-cifar10.{method}", "demo")
        select = build.build_selector(run, labels, 0, generator)
        draws = [
            select(range(100), 10).indices for seed in (5, 6, 5) if generator.manual_seed(seed)
        ]
        assert torch.equal(draws[0], draws[2])
        assert torch.equal(draws[0], draws[1]) is not fresh


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
    assert (
        0 <= runs.execute(mended, 0, "cpu", tmp_path, progress=rows.append)["metrics"]["racc"] <= 1
    )
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
    assert runs.execute(run, 0, "cpu", folder, progress=trained.append) == record
    assert not trained


def test_weights_can_be_loaded(finished, run):
    folder, record = finished
    model, dataset = runs.load_trained(run, 0, "cpu", folder)
    right = (model(dataset.test.float_images()).argmax(1) == dataset.test.labels).float().mean()
    assert float(right) == pytest.approx(record["metrics"]["acc"])


def copied(finished, tmp_path, run):
    record = json.loads(json.dumps(finished[1]))
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
    for name, digest in known.items():
        assert records.fingerprint(config.resolve(name, "full")) == digest
    changed = config.resolve("resnet50-fastlpa-cifar10.gradmatch", "full", {"only_correct": True})
    assert records.fingerprint(changed) != known["resnet50-fastlpa-cifar10.gradmatch"]


def test_what_the_authors_code_adds_to_fast_lpa_reaches_training():
    added = {"lr_warmup": 5, "gradient_clip": 1}
    for given, expected in (
        ({}, (0, None)),
        (added, (5, 1.0)),
        (added | {"epoch_factor": 0.5}, (2, 1.0)),
    ):
        run = config.resolve("resnet50-fastlpa-cifar10.full", "demo", given)
        how = build.training_of(run, torch.zeros(10, dtype=torch.long), 0, "cpu")
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


def test_sample_wise_selection_that_cannot_fit_is_refused_before_training(tmp_path, digits):
    run = config.resolve("resnet18-linf-cifar10.craig+granularity@sample", "demo")
    with pytest.raises(
        ValueError, match=r"49500 x 49500 inner products take 20 GB.*select per class or batch-wise"
    ):
        build.build_selector(run, torch.zeros(49_500, dtype=torch.long), 0, torch.Generator())


def test_gradmatch_is_told_as_early(tmp_path):
    run = config.resolve(
        "resnet18-linf-cifar10.gradmatch+coreset_fraction@0.3+granularity@sample", "demo"
    )
    with pytest.raises(ValueError, match=r"29700 x 49500 inner products take 12 GB"):
        build.build_selector(run, torch.zeros(49_500, dtype=torch.long), 0, torch.Generator())


def test_what_was_selected_is_kept(finished, tmp_path, run):
    folder, record = finished
    coresets = checkpoints.load_coresets(run, 0, folder)
    logged = {
        row["epoch"]: row["selection"]["size"] for row in record["history"] if row["selection"]
    }
    assert {epoch: len(coreset) for epoch, coreset in coresets.items()} == logged
    with pytest.raises(files.RecordError, match="coreset-.* is damaged or not there"):
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
        runs.execute(run, 0, "cpu", tmp_path / "file", progress=trained.append)
    assert not trained


def test_a_record_of_other_parameters_is_asked_for_again_by_make(tmp_path, monkeypatch, capsys):
    """So that editing a parameter is told, rather than an old table shown; until the right record
    is there.
    """
    monkeypatch.setenv("ACS_RESULTS", str(tmp_path))
    run = config.resolve("resnet18-fat-cifar10.full", "smoke")
    path = records.run_folder(run, 0, tmp_path) / "record.json"
    kept = {
        "format": records.FORMAT,
        "run": run.name,
        "seed": 0,
        "data": "",
        "metrics": {},
        "seconds": {},
        "history": [],
        "params": run.setting.model_dump(mode="json"),
    }

    def asked() -> bool:
        made = subprocess.run(
            ["make", "-f", str(tmp_path / "rules.mk"), str(path)], capture_output=True, text=True
        )
        assert made.returncode == 0, made.stderr
        return "asked" in made.stdout

    for fingerprint, stale in ((records.fingerprint(run), False), ("else", True)):
        files.write_json(path, kept | {"fingerprint": fingerprint})
        assert __main__.main(["rules", "--profile", "smoke"]) == 0
        rules = capsys.readouterr().out
        (tmp_path / "rules.mk").write_text(f"{rules}\n{path}:\n\t@echo asked\n.PHONY: always\n")
        assert asked() is stale
    files.write_json(path, kept | {"fingerprint": records.fingerprint(run)})
    assert not asked()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "fig9"], "no table or figure 'fig9'"),
        (["list", "settings"], "no table or figure 'settings'"),
        (["show", "fig1"], "fig1.pdf: make fig1 PROFILE=demo makes it"),
        (["show", "table1"], "damaged"),
        (
            ["show", "table2"],
            "has no method, profile, setting, table: delete it and make table2 again",
        ),
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
    """A group that shares a folder of results: the user's umask says who may read, not the library."""
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
            "only root on Linux may mount a small disk; the test above raises the same error without one"
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
        assert [suite[attack]["bound"] for attack in printed.SEEN] == [bound] * 2
        assert suite["stadv"] == {"bound": 0.02, "iterations": 50}


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99"])
def test_a_device_that_is_not_there(device, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setenv("ACS_DEVICE", device)
    assert __main__.main(["train", "resnet18-linf-cifar10.full"]) == 2
    answer = capsys.readouterr().err
    assert f"there is no device '{device}' here" in answer
    assert answer.count("\n") == 1


def test_a_run_that_diverges_at_once_leaves_no_record(tmp_path):
    run = config.resolve("resnet18-linf-cifar10.full+epochs@2+steps@1+lr@1e30", "demo")
    with pytest.raises(ValueError, match=r"lower lr \(now 1e\+30\) and train again$"):
        runs.execute(run, 0, "cpu", tmp_path)
    assert not (records.run_folder(run, 0, tmp_path) / "record.json").exists()


def test_a_run_that_diverges_later_says_what_it_kept(tmp_path):
    """Another rate is another run, so the epochs before have to make way for it."""
    run = config.resolve("resnet18-linf-cifar10.full+epochs@3+steps@1+lr_warmup@0", "demo")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.execute(run, 0, "cpu", tmp_path, progress=lambda row: row["epoch"] == 1 and stop())
    path = records.run_folder(run, 0, tmp_path) / "checkpoint.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        note = file.metadata()
    tensors["model.head.weight"].mul_(float("inf"))
    save_file(tensors, path, note)
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
    lines = {
        line.split(" := ")[0]: line.split(" := ")[1].split()
        for line in capsys.readouterr().out.splitlines()
    }
    assert len(lines["RECORDS_table1"]) == 8 * 5 * 2
    assert (
        "results/demo/runs/resnet18-linf-cifar10.craig/seed1/record.json" in lines["RECORDS_table1"]
    )


def test_the_readmes_example_runs(capsys):
    """Its Python block, as it stands."""
    text = (Path(__file__).parent.parent / "README.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    exec(compile(block, "README.md", "exec"), {})
    assert "coreset" in capsys.readouterr().out
