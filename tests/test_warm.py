"""Warm starts are trained once, and nothing but the seconds tells so."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from acslib import training
from acslib.paper import (
    config,
    files,
    fingerprints,
    items,
    params,
    records,
    rows,
    rules,
    runs,
    threads,
    warm,
)
from acslib.schedule import SCHEDULES

SETTING = "resnet18-linf-cifar10"
METHODS = ("full", "craig", "gradmatch", "random", "adaptive_random")
TINY = "+autoattack_n@0+evaluation_restarts@1+evaluation_steps@1+steps@1+train_limit@96"
FEW = TINY + "+epochs@10+lr_drops@[4,8]"
ROOT = Path(__file__).parents[1]


def resolved(method, varied=FEW):
    return config.resolve(f"{SETTING}.{method}{varied}", "smoke")


@pytest.fixture
def item(monkeypatch):
    """item(runs): the runs that the profile's tables and figures need."""

    def need(*several):
        monkeypatch.setattr(warm, "peers", lambda run: list(several))
        return list(several)

    return need


def untimed(history):
    return [{key: row[key] for key in row if "seconds" not in key} for row in history]


def weights(run, folder):
    return load_file(records.run_folder(run, 0, folder) / "weights.safetensors")


def same_result(run, one, other):
    """Metrics, history without its seconds, and weights are equal to the bit in both folders."""
    first, second = (records.finished_record(run, 0, folder) for folder in (one, other))
    assert first["metrics"] == second["metrics"]
    assert untimed(first["history"]) == untimed(second["history"])
    ours, theirs = weights(run, one), weights(run, other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def kept(folder):
    return sorted(path.name.split(".")[0] for path in folder.rglob("warm/*/*/epoch*"))


# ---- what runs have in common


def test_what_the_methods_of_a_setting_have_in_common():
    of = {method: resolved(method) for method in METHODS}
    assert [warm.length(of[method]) for method in METHODS] == [10, 3, 3, 3, 3]
    assert {warm.family(run) for run in of.values()} == {warm.family(of["full"])}
    assert warm.shared(of["full"], list(of.values())) == [3]
    assert warm.shared(of["craig"], list(of.values())) == [3]
    assert warm.shared(of["craig"], [of["craig"]]) == []


@pytest.mark.parametrize(
    "varied", ["lr@0.05", "batch_size@32", "steps@3", "train_limit@90", "monitor@3", "width@8"]
)
def test_another_training_has_nothing_in_common(varied):
    base = FEW.replace("+steps@1", "").replace("+train_limit@96", "")
    assert warm.epochs_in_common(resolved("full", base), resolved("craig", f"{base}+{varied}")) == 0


@pytest.mark.parametrize(
    "varied",
    ["period@3", "granularity@class", "half_half@true", "evaluation_steps@2", "selection_steps@2"],
)
def test_what_comes_later_does_not_matter(varied):
    base = FEW.replace("+evaluation_steps@1", "")
    assert warm.epochs_in_common(resolved("full", base), resolved("craig", f"{base}+{varied}")) == 3


def rates(run, epochs):
    setting = run.setting
    drops = [sum(epoch >= drop for drop in setting.lr_drops) for epoch in range(epochs)]
    return [(phase.phase, drop) for phase, drop in zip(run.plan, drops, strict=False)]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_common_epochs_are_those_trained_in_the_same_way(data):
    """All that differs is when epochs are full and when the rate drops."""
    several = []
    for _ in range(2):
        fraction, warm_start = (data.draw(st.sampled_from([0.2, 0.5, 1.0])) for _ in range(2))
        drops = data.draw(st.lists(st.integers(1, 12), max_size=2))
        epochs = data.draw(st.integers(4, 12))
        overrides = {
            "coreset_fraction": fraction,
            "warm_start": warm_start * 0.75,
            "lr_drops": drops,
            "epochs": epochs,
            "period": 1,
            "schedule": data.draw(st.sampled_from(SCHEDULES)),
        }
        method = data.draw(st.sampled_from(["full", "random"]))
        several.append(config.resolve(f"{SETTING}.{method}", "smoke", overrides))
    found = warm.epochs_in_common(*several)
    assert found == warm.epochs_in_common(*several[::-1])
    most = min(map(warm.length, several))
    same = [rates(several[0], epochs) == rates(several[1], epochs) for epochs in range(most + 1)]
    assert same[found]
    assert found == max(epochs for epochs in range(most + 1) if same[epochs])


def test_the_runs_of_tables_and_figures_are_the_ones_that_share():
    run = config.resolve(f"{SETTING}.craig", "smoke")
    found = {other.name for other in warm.peers(run)}
    assert {f"{SETTING}.{method}" for method in METHODS} <= found
    assert all(name.startswith(f"{SETTING}.") for name in found)


# ---- what it costs


def costs(several, sharing=True):
    """What each run costs in full epochs: attacked images times steps, its selections included."""
    found, before = [], []
    for run in several:
        setting, plan = run.setting, run.plan
        attacks = plan.selections if run.method in ("craig", "gradmatch") else 0
        first = (
            max((warm.epochs_in_common(run, other) for other in before), default=0)
            if sharing
            else 0
        )
        selecting = attacks * setting.selection_steps / setting.steps
        found.append(plan.cost * len(plan) - first + selecting)
        before.append(run)
    return found


def full_trainings(several):
    """The same as a multiple of the full training among them, which comes first."""
    assert several[0].method == "full"
    found = costs(several)
    return sum(found) / found[0]


def test_table_1_costs_at_most_1_85_full_trainings_a_setting_in_mini():
    found = {}
    for setting in ("resnet18-trades-cifar10", "resnet18-linf-cifar10"):
        several = [config.resolve(f"{setting}.{method}", "mini") for method in METHODS]
        assert {run.setting.coreset_fraction for run in several[1:]} == {0.5}
        assert {run.setting.warm_start for run in several[1:]} == {0.6}
        found[setting] = full_trainings(several)
    assert all(1.8 < cost <= 1.85 for cost in found.values())


@pytest.mark.parametrize(("item", "share"), [("table1", 0.64), ("fig4", 0.52), ("fig5", 0.78)])
def test_the_documents_say_what_sharing_leaves(item, share):
    """Figure 5 has runs without a warm start, which have nothing to share."""
    several = [config.resolve(name, "mini") for name in items.table_runs(item, "mini")]
    assert round(sum(costs(several)) / sum(costs(several, sharing=False)), 2) == share
    said = {"table1": "Table 1", "fig4": "Figure 4", "fig5": "Figure 5"}[item]
    assert f"{said} {share}" in " ".join((ROOT / "docs" / "reference.md").read_text().split())


def test_the_cost_is_what_is_attacked(tmp_path, item, monkeypatch):
    """Counted image by image, in whatever order the runs are trained."""
    several = item(*map(resolved, METHODS))
    counted = [0]
    once = training.adversarial_examples

    def counting(model, batch, how):
        counted[0] += len(batch.images)
        return once(model, batch, how)

    monkeypatch.setattr(training, "adversarial_examples", counting)
    for run in several[::-1]:
        runs.execute(run, 0, "cpu", tmp_path)
    n = 96
    attacked = {method: 7 if method == "full" else 4 * 0.5 for method in METHODS}
    assert counted[0] == n * (3 + sum(attacked.values()))


# ---- equal to the bit


@pytest.mark.parametrize("first", ["full", "random"])
def test_results_are_those_of_runs_that_share_nothing(first, tmp_path, item):
    """Whoever trains the warm start: full training on its way, or the first method."""
    several = [resolved(first), *(resolved(name) for name in METHODS if name != first)]
    item()
    for run in several:
        assert runs.execute(run, 0, "cpu", tmp_path / "alone")["warm_start"] is None
    item(*several)
    for number, run in enumerate(several):
        rows, said = [], []
        told = runs.Told(progress=rows.append, announce=said.append)
        shared = runs.execute(run, 0, "cpu", tmp_path / "shared", told)
        assert rows == shared["history"], "every epoch has its line, trained here or not"
        by_another = {"shared": True, "epochs": 3, "from": several[0].name}
        assert shared["warm_start"] == (by_another if number else None)
        assert (f"warm start: 3 epochs from {several[0].name}" in said) == bool(number)
        same_result(run, tmp_path / "alone", tmp_path / "shared")
    first, second = (records.finished_record(run, 0, tmp_path / "shared") for run in several[:2])
    assert first["history"][:3] == second["history"][:3], "with the seconds of who trained them"
    assert second["seconds"]["total"] == pytest.approx(
        sum(
            row[f"seconds_{part}"]
            for row in second["history"]
            for part in ("select", "attack", "update")
        )
    )
    assert kept(tmp_path) == []
    assert not (tmp_path / "shared" / "smoke" / "warm").exists()


def stop_at(epoch):
    def progress(row):
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("epoch", [1, 2, 3, 8])
def test_stopped_and_gone_on_with(epoch, tmp_path, item):
    """Before the warm start's end, at it, and after it."""
    full, craig = item(resolved("full"), resolved("craig"))
    runs.execute(craig, 0, "cpu", tmp_path / "alone")
    with pytest.raises(KeyboardInterrupt):
        runs.execute(full, 0, "cpu", tmp_path / "shared", told=runs.Told(progress=stop_at(epoch)))
    assert kept(tmp_path / "shared") == ["epoch003"] * (epoch > 2)
    with pytest.raises(KeyboardInterrupt):
        runs.execute(craig, 0, "cpu", tmp_path / "shared", told=runs.Told(progress=stop_at(8)))
    taken = runs.execute(craig, 0, "cpu", tmp_path / "shared")["warm_start"]
    assert (taken is not None) == (epoch > 2), "remembered over the second stop"
    same_result(craig, tmp_path / "alone", tmp_path / "shared")
    runs.execute(full, 0, "cpu", tmp_path / "shared")
    item()
    runs.execute(full, 0, "cpu", tmp_path / "alone")
    same_result(full, tmp_path / "alone", tmp_path / "shared")


def test_longer_warm_starts_go_on_from_shorter_ones(tmp_path, item):
    """As in Figure 4, where their length is varied."""
    several = item(
        resolved("random", f"{FEW}+coreset_fraction@0.2"), resolved("random"), resolved("full")
    )
    assert [warm.length(run) for run in several] == [1, 3, 10]
    made = [runs.execute(run, 0, "cpu", tmp_path)["warm_start"] for run in several]
    assert [(one or {}).get("epochs") for one in made] == [None, 1, 3]
    item()
    for run in several:
        runs.execute(run, 0, "cpu", tmp_path / "alone")
        same_result(run, tmp_path, tmp_path / "alone")


def test_half_the_epochs_share_what_comes_before_the_rate_drops(tmp_path, item):
    """As in Table 3, whose full training is shorter than Table 1's."""
    long = resolved("full", f"{TINY}+epochs@6+lr_drops@[4]")
    short = resolved("full", f"{TINY}+epochs@3+lr_drops@[2]")
    item(long, short)
    assert warm.epochs_in_common(long, short) == 2
    runs.execute(long, 0, "cpu", tmp_path)
    assert runs.execute(short, 0, "cpu", tmp_path)["warm_start"]["epochs"] == 2
    item()
    runs.execute(short, 0, "cpu", tmp_path / "alone")
    same_result(short, tmp_path, tmp_path / "alone")


def test_another_seed_or_other_threads_share_nothing(tmp_path, item, monkeypatch):
    full, craig = item(resolved("full"), resolved("craig"))
    runs.execute(full, 0, "cpu", tmp_path)
    assert runs.execute(craig, 1, "cpu", tmp_path)["warm_start"] is None
    monkeypatch.setenv("ACS_THREADS", "2")
    assert runs.execute(craig, 0, "cpu", tmp_path)["warm_start"] is None


def test_a_damaged_one_is_told(tmp_path, item):
    full, craig = item(resolved("full"), resolved("craig"))
    runs.execute(full, 0, "cpu", tmp_path)
    (path,) = tmp_path.rglob("warm/*/*/*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(files.RecordError, match="epoch003.* is damaged .*: delete it and the run"):
        runs.execute(craig, 0, "cpu", tmp_path)


# ---- kept as long as it is needed


def test_kept_until_every_run_that_needs_it_is_finished(tmp_path, item):
    several = item(*map(resolved, ("full", "craig", "random")))
    runs.execute(several[0], 0, "cpu", tmp_path)
    runs.execute(several[0], 1, "cpu", tmp_path)
    assert kept(tmp_path) == ["epoch003"] * 2
    runs.execute(several[1], 0, "cpu", tmp_path)
    assert kept(tmp_path) == ["epoch003"] * 2
    runs.execute(several[2], 0, "cpu", tmp_path)
    assert kept(tmp_path) == ["epoch003"], "the other seed's"


def test_what_other_parameters_left_goes(tmp_path, item):
    old = item(*(resolved(method, f"{FEW}+lr@0.05") for method in ("full", "craig")))
    with pytest.raises(KeyboardInterrupt):
        runs.execute(old[0], 0, "cpu", tmp_path, told=runs.Told(progress=stop_at(5)))
    assert kept(tmp_path) == ["epoch003"]
    new = item(resolved("full"), resolved("craig"))
    runs.execute(new[0], 0, "cpu", tmp_path)
    assert [path.parts[-3] for path in tmp_path.rglob("warm/*/*/epoch*")] == [warm.family(new[0])]


def test_only_what_others_need_is_trained_beforehand(tmp_path, item):
    full, craig = item(resolved("full"), resolved("craig"))
    rows = []
    runs.warm_up(craig, 0, "cpu", tmp_path, told=runs.Told(progress=rows.append))
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert kept(tmp_path) == ["epoch003"]
    assert runs.execute(full, 0, "cpu", tmp_path)["warm_start"]["from"] == craig.name
    runs.execute(craig, 0, "cpu", tmp_path)
    runs.warm_up(craig, 0, "cpu", tmp_path, told=runs.Told(progress=rows.append))
    assert len(rows) == 3
    item()
    for run in (full, craig):
        runs.execute(run, 0, "cpu", tmp_path / "alone")
        same_result(run, tmp_path, tmp_path / "alone")


# ---- by Make


def made_by(name):
    """The end of the command by which Make trains a run's first epochs."""
    return f"train {name} --seeds 0 --profile smoke --warm-only"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(targets): the commands that Make would call for a profile's records."""
    monkeypatch.setenv("ACS_RESULTS", str(tmp_path / "results"))
    (tmp_path / "rules.mk").write_text(rules.all_rules("smoke", [0]))

    def called(*targets):
        command = ["make", "-n", "-f", str(tmp_path / "rules.mk"), "TRAIN=train", "STAMP="]
        done = subprocess.run([*command, *targets], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line.startswith("train")]

    return called


def test_first_epochs_are_trained_once_before_the_runs_that_begin_with_them(make, tmp_path):
    names = [f"{SETTING}.{method}" for method in METHODS]
    several = [config.resolve(name, "smoke") for name in names]
    paths = [records.run_folder(run, 0, tmp_path / "results") / "record.json" for run in several]
    called = make(*map(str, paths))
    assert called[0] == made_by(f"{SETTING}.full")
    assert sorted(called[1:]) == sorted(f"train {name} --seeds 0 --profile smoke" for name in names)
    assert make(str(paths[1]))[0] == called[0], "whichever is asked for"


def test_first_epochs_of_a_finished_run_are_not_asked_for(make, tmp_path):
    """The files that were there are cleared; whoever deletes a record has them trained again."""
    run = config.resolve(f"{SETTING}.craig", "smoke")
    path = records.run_folder(run, 0, tmp_path / "results") / "record.json"
    files.write_json(path, {})
    assert make(str(path)) == []
    path.unlink()
    assert make(str(path))[0] == made_by(f"{SETTING}.full")


@pytest.mark.parametrize("profile", ["demo", "mini", "full"])
def test_who_trains_the_most_first_epochs_keeps_the_fewer_for_others(profile):
    """One process for all that a setting's runs have in common, and it passes all of it."""
    text = rules.all_rules(profile, [0])
    passed = re.findall(r"^(\S+/warm/\S+): \| (\S+/warm/\S+)\n\t@mkdir", text, re.M)
    trains = dict(re.findall(r"^(\S+/warm/\S+): \|.*\n\t\S+ (\S+) --seeds 0", text, re.M))
    assert passed
    for shorter, longer in passed:
        assert Path(longer).parent == Path(shorter).parent
        assert Path(shorter).name < Path(longer).name
        run = config.resolve(trains[longer], profile)
        kept = {warm.name(run, epochs) for epochs in warm.shared(run, warm.peers(run))}
        assert {Path(shorter).name, Path(longer).name} <= kept


# ---- two at the same time


def test_the_second_waits_for_the_first(tmp_path, item):
    """And says so; it trains nothing that the first one has trained."""
    full, craig = item(resolved("full"), resolved("craig"))
    sharing = warm.Sharing(craig, 0, (full, craig), "0" * 16, tmp_path)
    said, order = [], []

    def second():
        with sharing.alone(said.append):
            order.append("second")

    with sharing.alone(said.append):
        other = threading.Thread(target=second)
        other.start()
        deadline = time.time() + 60
        while not said and time.time() < deadline:
            time.sleep(0.01)
        order.append("first")
    other.join(60)
    assert order == ["first", "second"]
    assert "another run trains it" in said[0]


def start(folder, name, *more):
    environment = os.environ | {"ACS_RESULTS": str(folder), "ACS_THREADS": "1"}
    command = [sys.executable, "-m", "acslib.paper", "train", name, "--profile", "smoke", *more]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition, seconds=120):
    deadline = time.time() + seconds
    while not condition() and time.time() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.mark.slow
def test_who_waits_takes_over_from_who_is_killed(tmp_path):
    """SIGKILL while it holds the lock: the second trains the warm start, with the same result."""
    name = f"{SETTING}.full"
    run = config.resolve(name, "smoke")
    folder = warm.marker(run, 0, 1, tmp_path).parent
    folder.mkdir(parents=True)
    code = (
        "import sys, time; from filelock import FileLock; lock = FileLock(sys.argv[1]);"
        "lock.acquire(); print('held', flush=True); time.sleep(600)"
    )
    path = folder / f"{computed_of(run, tmp_path)}.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    waiting = start(tmp_path, name)
    lines = []
    while not lines or "waiting for it" not in lines[-1]:
        lines.append(waiting.stdout.readline())
        assert lines[-1], lines
    assert not any("epoch" in line and "warm" not in line for line in lines[1:])
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    rest, _ = waiting.communicate(timeout=300)
    assert waiting.returncode == 0, rest
    assert "epoch   0" in rest
    runs.execute(run, 0, "cpu", tmp_path / "alone")
    same_result(run, tmp_path, tmp_path / "alone")


def computed_of(run, folder):
    """The digest of what changes bits, as a run here has it."""
    with runs.as_asked("cpu") as device:
        return runs.at_start(run, 0, device, folder, runs.SILENT)[1].computed


@pytest.mark.slow
def test_two_commands_at_the_same_time_train_it_once(tmp_path):
    names = [f"{SETTING}.full", f"{SETTING}.craig"]
    said = [start(tmp_path, name) for name in names]
    said = [process.communicate(timeout=300)[0] for process in said]
    several = [config.resolve(name, "smoke") for name in names]
    made = [records.finished_record(run, 0, tmp_path) for run in several]
    assert [bool(record["warm_start"]) for record in made].count(True) == 1, said
    for run, record in zip(several, made, strict=True):
        runs.execute(run, 0, "cpu", tmp_path / "alone" / run.method)
        same_result(run, tmp_path, tmp_path / "alone" / run.method)
        assert len(record["history"]) == 4


# ---- runs without a full epoch


def test_a_run_without_a_full_epoch_times_one_and_throws_it_away(tmp_path, item, monkeypatch):
    item()
    cold = resolved("craig", f"{FEW}+warm_start@0")
    record = runs.execute(cold, 0, "cpu", tmp_path)
    assert record["calibration"]["full_epoch"] > 0
    assert rows.flat(record)["full_epoch"] == record["calibration"]["full_epoch"]
    assert record["seconds"]["total"] == pytest.approx(
        sum(
            row[f"seconds_{part}"]
            for row in record["history"]
            for part in ("select", "attack", "update")
        )
    )
    monkeypatch.setattr(runs, "calibrate", lambda *_: None)
    runs.execute(cold, 0, "cpu", tmp_path / "untimed")
    same_result(cold, tmp_path, tmp_path / "untimed")


def test_a_run_with_full_epochs_times_none(tmp_path, item):
    item()
    record = runs.execute(resolved("random"), 0, "cpu", tmp_path)
    assert record["calibration"] is None
    assert rows.flat(record)["full_epoch"] == rows.median_epoch(record["history"], "full")


# ---- threads


def test_threads_are_one_unless_told_otherwise(tmp_path, item, monkeypatch):
    item()
    run = resolved("random", f"{TINY}+epochs@4")
    seen = []

    def during(row):
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    for variables, expected in (
        ({}, 1),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "2,1"}, 2),
        ({"OMP_NUM_THREADS": "1", "ACS_THREADS": "2"}, 2),
    ):
        for name in ("ACS_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        folder = tmp_path / str(len(seen))
        record = runs.execute(run, 0, "cpu", folder, told=runs.Told(progress=during))
        assert (record["threads"], record["processes"]) == (expected, 1)
        assert set(seen[-4:]) == {expected}
        assert torch.get_num_threads() == 2, "as it was before"
    torch.set_num_threads(before)


def test_records_on_other_threads_are_refused_both_ways(tmp_path, item, monkeypatch):
    item()
    run = resolved("random", f"{TINY}+epochs@4")
    for made, wanted in (("1", "2"), ("2", "1")):
        monkeypatch.setenv("ACS_THREADS", made)
        runs.execute(run, 0, "cpu", tmp_path / made)
        monkeypatch.setenv("ACS_THREADS", wanted)
        with pytest.raises(
            files.RecordError,
            match=f"was made on {made} thread.* {wanted} thread.* are asked for.*set ACS_THREADS to"
            f" {made} .*or move .*seed0 away",
        ):
            runs.execute(run, 0, "cpu", tmp_path / made)


def test_to_be_evaluated_again_on_other_threads_is_refused(tmp_path, item, monkeypatch):
    item()
    name = f"{SETTING}.random+epochs@4+train_limit@96+autoattack_n@0"
    weak, strong = (config.resolve(name, "smoke", {"evaluation_steps": n}) for n in (1, 3))
    monkeypatch.setenv("ACS_THREADS", "1")
    runs.execute(weak, 0, "cpu", tmp_path)
    monkeypatch.setenv("ACS_THREADS", "2")
    with pytest.raises(files.RecordError, match="was made on 1 thread"):
        runs.execute(strong, 0, "cpu", tmp_path)
    monkeypatch.setenv("ACS_THREADS", "1")
    runs.execute(strong, 0, "cpu", tmp_path, told=runs.Told(progress=pytest.fail))


def test_a_checkpoint_of_other_threads_is_refused(tmp_path, item, monkeypatch):
    item()
    run = resolved("random", f"{TINY}+epochs@4")
    monkeypatch.setenv("ACS_THREADS", "1")
    with pytest.raises(KeyboardInterrupt):
        runs.execute(run, 0, "cpu", tmp_path, told=runs.Told(progress=stop_at(3)))
    monkeypatch.setenv("ACS_THREADS", "2")
    with pytest.raises(files.RecordError, match="checkpoint.* was made on 1 thread"):
        runs.execute(run, 0, "cpu", tmp_path)


def test_one_thread_is_neutral_in_the_fingerprint_and_others_are_not(monkeypatch):
    run = resolved("full")
    monkeypatch.setenv("ACS_THREADS", "1")
    one = fingerprints.fingerprint(run)
    monkeypatch.setenv("ACS_THREADS", "2")
    two = fingerprints.fingerprint(run)
    monkeypatch.setenv("ACS_THREADS", "1")
    monkeypatch.setenv("ACS_PROCESSES", "2")
    assert len({one, two, fingerprints.fingerprint(run)}) == 3
    assert one == fingerprints.fingerprint(run, threads.Workers(1, 1))


def test_a_record_of_version_0_1_0_was_made_on_the_threads_it_names():
    made = json.loads((ROOT / "tests/fixtures/record-0.1.0.json").read_text())
    assert threads.workers_of(made) == (1, 1)
    made["provenance"]["threads"] = 2
    assert threads.workers_of(made) == (2, 1)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "², "])
@pytest.mark.parametrize("variable", ["ACS_THREADS", "OMP_NUM_THREADS", "ACS_PROCESSES"])
def test_a_number_of_threads_that_is_none(variable, value, monkeypatch):
    monkeypatch.delenv("ACS_THREADS", raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(params.ParamsError, match=f"{variable} is .*: give a whole number from 1"):
        threads.asked()


# ---- processes


def test_processes_that_are_not_there_are_refused(tmp_path, item, monkeypatch):
    item()
    monkeypatch.setenv("ACS_PROCESSES", "2")
    with pytest.raises(
        params.ParamsError, match="2 processes are asked for and there is 1: .*torchrun"
    ):
        runs.execute(resolved("full"), 0, "cpu", tmp_path)


TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"),
    *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),
    *("-m", "acslib.paper", "train"),
]


def together(folder, run, seeds="0"):
    environment = os.environ | {"ACS_RESULTS": str(folder), "ACS_THREADS": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [*TORCHRUN, run.name, "--profile", "smoke", "--seeds", seeds]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes torchrun started")
@pytest.mark.parametrize("which", [0, 1])
def test_two_processes_are_one_run(which, tmp_path, monkeypatch):
    """Each seed gets a record that says so. When either process is killed, torchrun ends the other,
    and the same command goes on to the same weights.
    """
    run = resolved("craig")
    whole = together(tmp_path / "whole", run, "0 1")
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said
    monkeypatch.setenv("ACS_PROCESSES", "2")
    for seed in (0, 1):
        record = records.finished_record(run, seed, tmp_path / "whole")
        assert (record["processes"], record["threads"]) == (2, 1)
        assert len(record["history"]) == 10
    folder = records.run_folder(run, 0, tmp_path / "killed")
    killed = together(tmp_path / "killed", run)
    wait_for((folder / records.CHECKPOINT).exists)
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    os.kill(int(children[which]), signal.SIGKILL)
    said, _ = killed.communicate(timeout=300)
    assert killed.returncode != 0, said
    assert not (folder / "record.json").exists()
    again = together(tmp_path / "killed", run)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    same_result(run, tmp_path / "whole", tmp_path / "killed")
    monkeypatch.delenv("ACS_PROCESSES")
    with pytest.raises(
        files.RecordError, match="1 thread and 2 processes, but 1 thread and 1 process are"
    ):
        records.finished_record(run, 0, tmp_path / "killed")


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_from_what_two_have_kept(tmp_path, monkeypatch):
    """And from nothing that one has."""
    full, craig = (config.resolve(f"{SETTING}.{name}", "smoke") for name in ("full", "craig"))
    with pytest.raises(KeyboardInterrupt):
        runs.execute(full, 1, "cpu", tmp_path, told=runs.Told(progress=stop_at(2)))
    assert len(kept(tmp_path)) > 0
    for run in (full, craig):
        made = together(tmp_path, run, "0" if run is full else "0 1")
        said, _ = made.communicate(timeout=300)
        assert made.returncode == 0, said
    monkeypatch.setenv("ACS_PROCESSES", "2")
    of = [records.finished_record(craig, seed, tmp_path)["warm_start"] for seed in (0, 1)]
    assert of[0]["from"] == full.name
    assert of[1] is None
