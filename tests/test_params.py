import contextlib
import csv
import importlib
import shutil
from pathlib import Path
from typing import Literal, get_args, get_origin

import hypothesis
import pytest
import torch
import yaml
from hypothesis import strategies as st
from pydantic import BaseModel

from acslib import models
from acslib.attacks import autoattack
from acslib.data import loading, sets
from acslib.paper import (
    columns,
    config,
    files,
    items,
    measures,
    paramfiles,
    params,
    record_fields,
    settings,
    strict,
    study,
    tables,
    theory,
    threats,
    values,
)
from acslib.paper.config import resolve, run_name, validated
from acslib.paper.params import ParamsError

ROOT = Path(__file__).parent.parent
NAMES = {
    ("trades", "CIFAR-10", "ResNet-18"): "resnet18-trades-cifar10",
    ("linf_pgd", "CIFAR-10", "ResNet-18"): "resnet18-linf-cifar10",
    ("l2_pgd", "SVHN", "ResNet-18"): "resnet18-l2-svhn",
    ("fast_lpa", "CIFAR-10", "ResNet-50"): "resnet50-fastlpa-cifar10",
    ("fast_lpa", "ImageNet-12", "ResNet-50"): "resnet50-fastlpa-imagenet12",
    ("fast_at", "CIFAR-10", "ResNet-18"): "resnet18-fat-cifar10",
    ("trades", "CIFAR-10", "WideResNet-28-10"): "wrn28_10-trades-cifar10",
    ("linf_pgd", "CIFAR-10", "WideResNet-28-10"): "wrn28_10-linf-cifar10",
    ("l2_pgd", "SVHN", "WideResNet-28-10"): "wrn28_10-l2-svhn",
    ("linf_pgd", "ImageNet-100", "ResNet-34"): "resnet34-linf-imagenet100",
    ("trades", "ImageNet-100", "ResNet-50"): "resnet50-trades-imagenet100",
}


def printed_columns():
    for table in ("C2", "C3"):
        with (ROOT / "results" / "paper" / f"table{table}.csv").open() as file:
            yield from csv.DictReader(file)


def called(column):
    return "-".join(column[part] for part in ("objective", "dataset", "model"))


@pytest.mark.parametrize("column", list(printed_columns()), ids=called)
def test_full_profile_is_the_printed_column(column):
    """Every number of Tables C2 and C3."""
    setting = resolve(
        NAMES[column["objective"], column["dataset"], column["model"]] + ".full", "full"
    ).setting
    assert setting.lr == float(column["initial_lr"])
    assert setting.lr_factor == float(column["lr_decay_factor"])
    assert setting.lr_drops == tuple(map(int, column["lr_decay_epochs"].split()))
    assert setting.weight_decay == float(column["weight_decay"])
    assert setting.batch_size == int(column["batch_size_full"])
    assert setting.epochs == int(column["total_epochs"])
    assert setting.coreset_fraction == float(column["coreset_size_frac"])
    assert setting.period == int(column["selection_freq_epochs"])
    assert setting.epsilon == pytest.approx(float(column["epsilon"]), rel=1e-6)
    assert setting.steps == int(column["attack_iters_training"])
    assert setting.selection_steps == int(column["attack_iters_selection"])
    if column["attack_step"]:
        assert setting.step == pytest.approx(float(column["attack_step"]), rel=1e-6)
    warm = [epoch for epoch in setting.plan("gradmatch") if epoch.phase == "full"]
    assert len(warm) == int(column["warm_start_epochs"])


def test_table_c1_is_the_printed_one():
    """Every bound and number of iterations; AutoAttack's 20 iterations have no counterpart, see the
    README.
    """
    names = {
        "AutoAttack-l2": "autoattack_l2",
        "AutoAttack-linf": "autoattack_linf",
        "StAdv": "stadv",
        "ReColor": "recolor",
        "JPEG": "jpeg",
        "PPGD": "ppgd",
        "LPA": "lpa",
    }
    with (ROOT / "results" / "paper" / "tableC1.csv").open() as file:
        printed = list(csv.DictReader(file))
    for dataset, title, side in (("cifar10", "CIFAR-10", 32), ("imagenet12", "ImageNet-12", 224)):
        suite, rows = (
            threats.table_c1(dataset, side),
            [row for row in printed if row["dataset"] == title],
        )
        assert [names[row["attack"]] for row in rows] == list(suite)
        for row, (name, entry) in zip(rows, suite.items(), strict=True):
            assert entry["bound"] == pytest.approx(float(row["bound"]), rel=1e-6)
            assert name.startswith("autoattack") or entry["iterations"] == int(row["iterations"])
    small = threats.table_c1("imagenet12", 32, effort=0.1)
    assert small["autoattack_l2"]["bound"] == pytest.approx(1200 / 255 / 7)
    assert small["autoattack_linf"]["bound"] == pytest.approx(4 / 255)
    assert (small["jpeg"]["iterations"], small["ppgd"]["iterations"]) == (20, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrr": 0.1}, r"lrr is not a parameter: did you mean 'lr'"),
        ({"lr": "fast"}, r"lr is 'fast', it is not a number: write it like 0.1, 1e-3 or 8/255"),
        ({"lr": float("nan")}, r"lr is nan, it should be a finite number"),
        ({"lr": True}, r"lr is True, it is a truth value"),
        ({"coreset_fraction": 0}, r"coreset_fraction is 0, it should be greater than 0"),
        (
            {"coreset_fraction": 1.5},
            r"coreset_fraction is 1.5, it should be less than or equal to 1",
        ),
        ({"period": 0}, r"period is 0, it should be greater than or equal to 1"),
        ({"warm_start": 1.3}, r"warm_start is 1.3, it should be less than or equal to 1"),
        ({"epochs": 2.5}, r"epochs is 2.5, it should be a valid integer"),
        ({"half_half": "yes"}, r"half_half is 'yes', it must be true or false"),
        ({"model": "resnet19"}, r"model is 'resnet19', it should be 'resnet18'"),
        ({"precision": "float16"}, r"precision is 'float16'"),
        ({"epsilon": "8/0"}, r"epsilon is '8/0', it is not a number"),
        ({"step": None}, r"step is missing"),
        ({"objective": "fast_lpa"}, r"fast_lpa does not go with norm linf"),
        ({"epsilon": 8}, r"epsilon is 8, pixels span 0 to 1: write it like 8/255"),
        (
            {"only_correct": True},
            r"only_correct is true with objective adversarial: it is for fast_lpa",
        ),
        (
            {"memory_format": "channels_last", "width": 4},
            r"width is 4 in memory_format channels_last.* or 8 or more",
        ),
    ],
)
def test_bad_values_are_one_sentence_with_value_and_limit(change, message):
    layer = config.setting_layer("resnet18-linf-cifar10") | change
    with pytest.raises(ParamsError, match=message) as caught:
        validated("here", layer)
    assert "\n" not in str(caught.value)


def test_a_missing_parameter_is_named():
    layer = config.setting_layer("resnet18-linf-cifar10")
    del layer["lr"]
    with pytest.raises(ParamsError, match="lr is missing"):
        validated("here", layer)


@pytest.mark.parametrize("name", ["model", "dataset", "objective", "norm"])
def test_a_setting_that_does_not_say_what_it_is(name, tmp_path, monkeypatch):
    whole = {"model": "resnet18", "dataset": "cifar10", "objective": "adversarial", "norm": "linf"}
    del whole[name]
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"settings": {"mine": whole}}))
    monkeypatch.setenv("ACS_PARAMS", str(tmp_path))
    for profile in ("smoke", "demo", "full"):
        with pytest.raises(ParamsError, match=f"{name} is missing: add it to params/settings.yaml"):
            resolve("mine.full", profile)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("8/255", 8 / 255), ("1.785/255", 0.007), (".5", 0.5)]
)
def test_numbers_as_yaml_1_1_hands_them_on(text, value):
    assert values.number(text) == pytest.approx(value)


NO_NUMBERS = (
    "8/255/3 030 1:30 1_0 0x10 0o17 1e 1e+ . 1/ /2 --1 1,5 ٣ 1e999999999 nan .inf yes 1e1.5 00.1 -"
)


@pytest.mark.parametrize("text", [*NO_NUMBERS.split(), "1 0"])
def test_what_nobody_reads_as_a_number_is_none(text, tmp_path, monkeypatch):
    """In a run's name, and in YAML with and without quotes."""
    with pytest.raises(ParamsError, match=r"lr is .*, it|is no value|must read"):
        resolve(f"resnet18-linf-cifar10.full+lr@{text}")
    for written in (text, f"'{text}'"):
        with a_profile(f"common:\n  lr: {written}", tmp_path, monkeypatch):
            with pytest.raises(ParamsError, match=r"common: lr is .*, it|is not YAML|common, lr"):
                resolve("resnet18-linf-cifar10.full", "mine")


@hypothesis.given(st.text("0123456789.eE+-_/: xob", min_size=1, max_size=8))
def test_whatever_is_read_as_a_number_is_that_number(text):
    try:
        value = values.number(strict.load_yaml(f"a: {text}")["a"])
    except (ValueError, TypeError):
        return
    if value is None:
        assert not text.strip()
        return
    over, _, under = text.partition("/")
    assert not set("_:xob") & set(text)
    assert value == pytest.approx(float(over) / float(under or 1))
    digits = over.strip().lstrip("+-")
    assert digits[:1] != "0" or not digits[1:2].isdigit()


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "True ", "1", "null"])
def test_only_true_and_false_are_truth_values(word, tmp_path, monkeypatch):
    with a_profile(f"common:\n  half_half: {word}", tmp_path, monkeypatch):
        if word == "True ":
            assert resolve("resnet18-linf-cifar10.craig", "mine").setting.half_half is True
            return
        with pytest.raises(ParamsError, match="half_half is .*, it must be true or false"):
            resolve("resnet18-linf-cifar10.craig", "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "1e39"}, "lr is '1e39', it should be less than or equal to 1000"),
        ({"lr": "1e38"}, "lr is '1e38', it should be less than or equal to 1000"),
        ({"weight_decay": 1e38}, "weight_decay is 1e.38, it should be less than or equal to 1000"),
        ({"beta": "1e39"}, r"beta is '1e39', it should be less than or equal to 3.4e\+38"),
        ({"tolerance": 2}, "tolerance is 2, it should be less than 1"),
        ({"width": 1_000_000}, "width is 1000000, it should be less than or equal to 4096"),
        ({"epochs": 10**9}, "epochs is 1000000000, it should be less than or equal to 100000"),
        ({"epochs": 10**30}, "epochs is 1000.*, it should be less than or equal to 100000"),
        ({"steps": 100_000}, "steps is 100000, it should be less than or equal to 10000"),
        ({"threats_n": 0}, "threats_n is 0, it should be greater than or equal to 1"),
        ({"depths": [1000] * 4}, "depths has 4000 blocks in all: take at most 1000, or null"),
        ({"width": 4096, "depths": [1000]}, r"width 4096 and .* 2\.9e\+11 weights: take fewer"),
        (
            {"width": 4096, "depths": [1] * 4},
            r"a network of at least 2\.4e\+10 weights: take fewer",
        ),
        (
            {"width": 4096},
            r"width 4096 and depths null make a network of at least 1\.2e\+10 weights",
        ),
        ({"depths": [1, 1, 1, 997]}, r"width null and depths \[1, .* at least 4\.4e\+09 weights"),
        ({"depths": []}, r"depths is \[\], it should have at least 1 item"),
        ({"classes": []}, r"classes is \[\], it should have at least 1 item"),
        ({"depths": [1] * 3 + [10**6]}, "depths is 1000000, it should be less"),
        ({"classes": ["a", "b", "a"]}, "classes is .*, it has 'a' twice"),
        ({"autoattack": ["apgd-t", "apgd-t"]}, "autoattack is .*, it has 'apgd-t' twice"),
        ({"trades_start": "normal"}, "trades_start is normal with objective adversarial"),
        ({"lr": "9" * 1000}, "lr is '999.*, it is not a number"),
    ],
)
def test_what_could_never_run_is_refused_at_once(change, message):
    layer = config.setting_layer("resnet18-linf-cifar10") | change
    with pytest.raises(ParamsError, match=message) as caught:
        validated("here", layer)
    assert len(str(caught.value)) < 500


def test_what_is_scaled_has_the_same_limits():
    with pytest.raises(ParamsError, match="epochs is 200000, it should be less than or equal"):
        resolve("resnet18-linf-cifar10.full+epochs@100000+epoch_factor@2")


def test_names_given_without_torch_are_those_of_the_library():
    """Settings and Make list networks and data sets themselves, so that neither loads torch."""
    assert list(settings.MODELS.built_in) == list(models.ARCHITECTURES)
    assert list(settings.DATASETS.built_in) == list(loading.NAMES)
    makes = (paramfiles.FOLDER.parent / "tools" / "variables.mk").read_text()
    assert f"\ndatasets := {' '.join(loading.NAMES)}\n" in makes
    assert choices("augmentation") == get_args(sets.BuiltInAugmentation)
    assert choices("autoattack") == autoattack.STANDARD


def choices(name: str) -> tuple[str, ...]:
    """The words that a parameter may be, or be made of."""
    kind = settings.Setting.model_fields[name].annotation
    return get_args(kind if get_origin(kind) is Literal else get_args(kind)[0])


def test_the_attacks_of_table_c1_are_the_same_everywhere():
    attacks = params.Suite.model_fields["attacks"].annotation
    names = set(get_args(get_args(attacks)[0]))
    assert names == {*threats.SEEN, *threats.UNSEEN} == set(columns.ATTACK_LABELS)
    measured = {f"racc_{name}" for name in names}
    fields = record_fields.Metrics.model_fields
    assert measured == {name for name in fields if name.startswith("racc_")}
    nobody = torch.nn.Identity()
    suite = threats.table_c1("imagenet12", 64)  # CIFAR-10 is not attacked by JPEG
    assert set(measures.table_c1_attacks(suite, nobody, ("apgd-ce",), torch.Generator())) == names


def test_what_a_study_is_written_with_is_what_it_is_read_with():
    assert set(study.COLUMNS) == tables.NEEDED[study.ITEM]


def test_every_parameter_says_what_it_is_and_what_it_belongs_to():
    for name, field in settings.Setting.model_fields.items():
        assert field.description.endswith((".", ";")), name
        assert settings.owner(name) in ("training", "coreset", "evaluation")
    assert settings.is_neutral("ridge", 0.0)
    assert not settings.is_neutral("ridge", 0.1)
    assert not settings.is_neutral("lr", 0.1)


def models_below(kind: type[BaseModel]) -> set[type[BaseModel]]:
    return {kind}.union(*map(models_below, kind.__subclasses__()))


def test_every_model_refuses_what_it_has_no_field_for_and_describes_the_rest():
    for path in (files.CHECKOUT / "acslib" / "paper").glob("[!_]*.py"):
        importlib.import_module(f"acslib.paper.{path.stem}")
    ours = {one for one in models_below(BaseModel) if one.__module__.startswith("acslib.")}
    assert {config.Run, settings.Setting, settings.Layer, record_fields.Record} < ours
    assert {theory.Numbers, params.Item} < ours
    assert [one for one in ours if one.model_config.get("extra") != "forbid"] == []
    fields = [(one, *item) for one in ours for item in one.model_fields.items()]
    assert len(fields) > 150
    assert [(one, name) for one, name, field in fields if not field.description] == []


def test_seconds_and_accuracies_of_a_record_say_their_unit():
    for model in (record_fields.Seconds, record_fields.Metrics, record_fields.Row):
        for name, field in model.model_fields.items():
            for part, unit in (("acc", "fraction"), ("second", "in seconds")):
                if part in name or (model is record_fields.Seconds and part == "second"):
                    assert unit in field.description, (model, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18-linf-cifar10", "has no method"),
        ("resnet18-linf-cifar10.gradmtch", "did you mean 'gradmatch'"),
        ("resnet18-linf-cifar01.craig", "did you mean 'resnet18-linf-cifar10'"),
        ("resnet18-linf-cifar10.craig+perod@3", "did you mean 'period'"),
        ("resnet18-linf-cifar10.craig+period", "must read <parameter>@<value>"),
        ("resnet18-linf-cifar10.craig+width@", "must read <parameter>@<value>"),
        ("resnet18-linf-cifar10.full+period@abc", "period is 'abc', it is not a number"),
        ("resnet18-linf-cifar10.full+coreset_fraction@0", "coreset_fraction is 0, it should be"),
        ("resnet18-linf-cifar10.craig+lr@{a", "'{a' is no value: write a number, a word or"),
        ("resnet18-linf-cifar10.craig+lr@1+lr@2", "lr is there twice, give it once"),
        ("resnet18-linf-cifar10.craig+lr@1+lr@1", "lr is there twice"),
        ("resnet18-linf-cifar10.craig+classes@[../../x]", "cannot be a folder's name"),
        ("resnet18-linf-cifar10.craig+classes@[a b]", "cannot be a folder's name"),
        ("resnet18-linf-cifar10.craig+classes@[" + "n" * 200 + "]", "it may have 200 letters"),
        ("resnet18-linf-cifar10.craig+lr@1e400", "lr is '1e400', it"),
        (
            "resnet18-linf-cifar10.craig+evaluation_step@null",
            "evaluation_step is missing: an attack under linf needs one",
        ),
        ("resnet18-linf-cifar10.craig+autoattack@[]", "autoattack is empty: name its attacks"),
        (
            "resnet18-linf-cifar10.craig+warm_start@1",
            "no epoch of 20 selects a coreset with warm_start 1, period 4",
        ),
    ],
)
def test_mistyped_runs(name, message):
    with pytest.raises(ParamsError, match=message):
        resolve(name)


@hypothesis.settings(deadline=None)
@hypothesis.given(st.text(max_size=300), st.integers(1, 1000))
def test_whatever_is_typed_as_a_name_is_answered_in_a_short_line(text, times):
    for name in (text * times, f"resnet18-linf-cifar10.full+{text * times}", f"{text}.full"):
        try:
            resolve(name)
        except ParamsError as error:
            said = " ".join(str(error).split())  # as the command line prints it
            assert 0 < len(said) < 2000
            assert said.isprintable()


def test_yaml_that_swells_is_refused_before_anybody_looks_at_it():
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}' if k else '*a'] * 10)}]" for k in range(9)]
    assert strict.load_yaml("\n".join(lines[:4]))["a2"][9][9][9][9] == 1
    with pytest.raises(ValueError, match="more than 100000 values, when aliases are followed"):
        strict.load_yaml("\n".join(lines))


@hypothesis.given(st.recursive(st.integers(), lambda parts: st.lists(parts, max_size=4)))
def test_every_value_is_counted(content):
    def count(part):
        return 1 + sum(map(count, part)) if isinstance(part, list) else 1

    assert strict.size(content, {}) == count(content)
    assert strict.size([content, content], {}) == 1 + 2 * count(content)


def test_unknown_profile():
    with pytest.raises(ParamsError, match="no profile 'mni': did you mean 'mini'"):
        resolve("resnet18-linf-cifar10.full", "mni")


def test_names_say_only_what_matters():
    varied = {"period_factor": 0.5, "epoch_factor": 0.5, "coreset_fraction": 0.3}
    name = run_name("resnet18-linf-cifar10", "craig", varied)
    assert (
        name
        == "resnet18-linf-cifar10.craig+coreset_fraction@0.3+epoch_factor@0.5+period_factor@0.5"
    )
    assert resolve(name).name == name
    assert (
        run_name("resnet18-linf-cifar10", "full", varied)
        == "resnet18-linf-cifar10.full+epoch_factor@0.5"
    )
    full = resolve("resnet18-linf-cifar10.full+coreset_fraction@0.3")
    assert full == resolve("resnet18-linf-cifar10.full"), "one name, two settings"


def test_names_keep_every_digit_and_read_back_as_they_were():
    lists = ("classes@[n01440764,n02102040]", "autoattack@[apgd-ce]")
    for text in (
        "lr@0.1234567",
        "lr@1e-07",
        "gradient_clip@1e30",
        "half_half@true",
        "train_limit@null",
        *lists,
    ):
        name = f"resnet18-linf-cifar10.craig+{text}"
        assert resolve(name).name == name
        assert resolve(resolve(name).name) == resolve(name)


def test_a_number_written_in_two_ways_is_one_run():
    for text in ("1e-2", "1/100", "0.010"):
        assert resolve(f"resnet18-linf-cifar10.craig+lr@{text}") == resolve(
            "resnet18-linf-cifar10.craig+lr@0.01"
        )
        assert (
            run_name("resnet18-linf-cifar10", "craig", {"lr": text})
            == "resnet18-linf-cifar10.craig+lr@0.01"
        )
    assert "/" not in resolve("resnet18-linf-cifar10.craig+epsilon@8/255").name, (
        "names are names of folders"
    )


def test_numbers_reach_a_setting_through_yaml(tmp_path, monkeypatch):
    """YAML 1.1 reads 1e-3 and 8/255 as text."""
    with a_profile("common: {lr: 1e-3, epsilon: 8/255, weight_decay: 5E-4}", tmp_path, monkeypatch):
        setting = resolve("resnet18-linf-cifar10.full", "mine").setting
    assert (setting.lr, setting.epsilon, setting.weight_decay) == pytest.approx(
        (1e-3, 8 / 255, 5e-4)
    )


def test_halving_the_epochs_as_table_3_does():
    setting = resolve("resnet18-linf-cifar10.craig+epoch_factor@0.5", "full").setting
    assert (setting.epochs, setting.lr_drops, setting.period) == (60, (40, 50), 10)
    setting = resolve("resnet18-l2-svhn.craig+epoch_factor@0.5", "full").setting
    assert setting.lr_drops == (37, 45, 50)


@pytest.mark.parametrize(
    "profile", [path.stem for path in sorted((ROOT / "params" / "profiles").glob("*.yaml"))]
)
def test_every_run_of_every_table_resolves(profile):
    for table in paramfiles.item_names():
        for name in items.table_runs(table, profile):
            assert resolve(name, profile).plan.cost > 0


def test_a_profile_may_leave_out_settings_of_a_table_and_vary_what_it_runs():
    assert len(items.table_runs("table1", "demo")) == 40
    assert len(items.table_runs("table1", "mini")) == 15
    assert set(items.table_runs("table1", "mini")) < set(items.table_runs("table1", "demo"))
    limits = {
        resolve(name, "mini").setting.train_limit for name in items.table_runs("fig5", "mini")
    }
    assert limits == {2000}


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ("{tabel3: {}}", "'tabel3' is not known: did you mean 'table3'"),
        ("{table3: {setings: []}}", "'setings' is not known: did you mean 'settings'"),
        ("[table3]", "items holds .'table3'., names with values are needed"),
        ("{table3: 5}", "items, table3 holds 5, names with values are needed"),
        ("{table3: {vary: 5}}", "vary holds 5, names with values are needed"),
        ("{table3: {vary: {epoch: 5}}}", "'epoch' is not known: did you mean 'epochs'"),
        (
            "{table3: {settings: wrn28_10-l2-svhn}}",
            "settings holds 'wrn28_10-l2-svhn', a list of settings is needed",
        ),
        (
            "{table3: {settings: [wrn28_10-linf]}}",
            "'wrn28_10-linf' is not known: did you mean 'wrn28_10-linf-cifar10'",
        ),
    ],
)
def test_a_profile_with_mistyped_items(limits, sentence, tmp_path, monkeypatch):
    with a_profile(f"items: {limits}", tmp_path, monkeypatch):
        with pytest.raises(ParamsError, match=sentence):
            items.groups("table3", "mine")


@contextlib.contextmanager
def a_profile(text, tmp_path, monkeypatch):
    """A profile called `mine`, beside the real files."""
    shutil.copytree(ROOT / "params", tmp_path, dirs_exist_ok=True)
    (tmp_path / "profiles" / "mine.yaml").write_text(f"about: mine\n{text}\n")
    with monkeypatch.context() as patch:
        patch.setattr(paramfiles, "FOLDER", tmp_path)
        yield


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("comon: {lr: 0.1}", "'comon' is not known: did you mean 'common'"),
        ("common: [", "is not YAML"),
        ("common: 5", "common holds 5, names with values are needed"),
        ("by_dataset: {cifar10: 5}", "cifar10 holds 5, names with values are needed"),
        ("common: {period: 0, lr: 0.1, period: 2}", "'period' is there twice"),
        ("common: {lr: 1, 'lr': 2}", "'lr' is there twice"),
        ("common:\n  <<: {lr: 1}\n  <<: {lr: 2}", "'<<' is there twice"),
        ("common:\n  <<: [{lr: 1}, {lr: 2}]", "'lr' is merged twice"),
        ("common: {[lr]: 1}", "is not YAML"),
        ("common: {1: 1}", "mine, common: '?1'? is not known|common, 1"),
        ("common: &a [*a]", "common holds"),
        ("common: !!python/name:os.system x", "is not YAML"),
        ("common: " + "[" * 3000, "is not YAML: it is nested too deeply"),
        ("common: {epsilon: [1, [2]]}", "common: epsilon is .*, it should be a valid number"),
        ("by_norm: {l2: {steps: many}}", "by_norm, l2: steps is 'many', it is not a number"),
        ("settings: {resnet18-l2-svhn: {lr: -1}}", "svhn: lr is -1, it should be greater than 0"),
        ("items: {table6: {vary: {period: 0}}}", "table6, vary: period is 0, it should be"),
        ("items: {table1: {settings: [a, a]}}", "has 'a' twice"),
        (
            "common: {dataset: digits}",
            "common: dataset says what a setting is, .* under by_dataset",
        ),
        ("by_norm: {l2: {model: resnet34}}", "by_norm, l2: model says what a setting is"),
        ("extends: [1]", "extends is .1., it should be a valid string"),
        ("common: {lrr: 0.1}", "'lrr' is not known: did you mean 'lr'"),
        (
            "by_dataset: {cifar01: {lr: 0.1}}",
            "by_dataset: 'cifar01' is not known: did you mean 'cifar10'",
        ),
        ("by_norm: {linff: {lr: 0.1}}", "by_norm: 'linff' is not known: did you mean 'linf'"),
        (
            "by_model: {resnet18: {widht: 8}}",
            "by_model, resnet18: 'widht' is not known: did you mean 'width'",
        ),
        (
            "settings: {resnet18-linf-cifar01: {}}",
            "settings: 'resnet18-linf-cifar01' is not known: did you mean",
        ),
        ("extends: mine", "profile mine extends itself"),
        ("extends: mimi", "no profile 'mimi': did you mean 'mini'"),
    ],
)
def test_a_profile_with_a_mistake(text, sentence, tmp_path, monkeypatch):
    with a_profile(text, tmp_path, monkeypatch), pytest.raises(ParamsError, match=sentence):
        resolve("resnet18-linf-cifar10.full", "mine")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0 1 1", "one of them is there twice"),
        ("", "write whole numbers from 0"),
        ("-1", "write whole numbers from 0"),
        ("4294967296", "from 0 to 4294967295"),
        ("²", "write whole numbers"),
        ("0,1", "write whole numbers"),
    ],
)
def test_seeds(given, message):
    assert config.seeds("0 7") == config.seeds(config.seeds("0 7")) == [0, 7]
    assert config.one_seed("3") == config.one_seed(3) == 3
    with pytest.raises(ParamsError, match=message):
        config.seeds(given)
    with pytest.raises(ParamsError, match="seed is '0 1': give one"):
        config.one_seed("0 1")


def test_a_folder_without_parameters_is_no_empty_list_of_tables(tmp_path, monkeypatch):
    (tmp_path / "nowhere").mkdir()
    monkeypatch.setattr(paramfiles, "FOLDER", tmp_path / "nowhere")
    with pytest.raises(
        ParamsError, match=r"there is no .*nowhere/settings.yaml.*ACS_PARAMS says which folder"
    ):
        paramfiles.item_names()


def test_unknown_table():
    with pytest.raises(ParamsError, match="no table or figure 'tabel1': did you mean 'table1'"):
        items.table_runs("tabel1", "demo")


def test_the_experiments_need_a_checkout(monkeypatch, tmp_path):
    """A wheel installs the method; it has no params."""
    monkeypatch.setattr(paramfiles, "FOLDER", tmp_path / "params")
    with pytest.raises(ParamsError, match="need a checkout of the project"):
        items.table_runs("table1", "demo")


# ---- layers


@pytest.mark.parametrize(
    "section",
    [
        "common: {X}",
        "by_dataset: {cifar10: {X}}",
        "by_model: {resnet18: {X}}",
        "by_objective: {adversarial: {X}}",
        "by_norm: {linf: {X}}",
        "settings: {resnet18-fat-cifar10: {X}}",
    ],
)
def test_a_profile_wins_in_every_section_over_the_one_that_it_extends(
    section, tmp_path, monkeypatch
):
    """demo has epsilon by norm, steps and step by setting, lr in common."""
    own = section.replace("X", "epsilon: 4/255, steps: 3, step: 2/255, lr: 0.3")
    with a_profile(f"extends: demo\n{own}", tmp_path, monkeypatch):
        setting = resolve("resnet18-fat-cifar10.full", "mine").setting
    found = (setting.epsilon, setting.steps, setting.step, setting.lr)
    assert found == pytest.approx((4 / 255, 3, 2 / 255, 0.3))
    assert setting.dataset == "digits"


def test_items_of_a_profile_replace_those_that_it_extends_one_by_one(tmp_path, monkeypatch):
    own = "items: {table1: {settings: [resnet18-l2-svhn]}}"
    with a_profile(f"extends: mini\n{own}", tmp_path, monkeypatch):
        assert len(items.table_runs("table1", "mine")) == 5
        assert items.table_runs("fig4", "mine") == items.table_runs("fig4", "mini")
        assert paramfiles.profile("mine").about == "mine"


def edited(name, tmp_path, old, new):
    path = tmp_path / f"{name}.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_no_profile_puts_another_data_set_under_a_setting_of_ones_own(tmp_path, monkeypatch):
    own = "\n  mine:\n    <<: *linf_cifar10\n    table: null\n    dataset: DATA\n"
    for dataset, profile, expected in (
        ("digits", "demo", "digits"),
        ("svhn", "demo", "digits"),
        ("svhn", "mini", "svhn"),
        ("svhn", "full", "svhn"),
    ):
        with a_profile("", tmp_path, monkeypatch):
            path = tmp_path / "settings.yaml"
            path.write_text(path.read_text() + own.replace("DATA", dataset))
            assert resolve("mine.craig", profile).setting.dataset == expected
    for profile in ("smoke", "demo", "mini", "full"):
        with a_profile("", tmp_path, monkeypatch):
            path.write_text(path.read_text() + own.replace("DATA", "fashion"))
            with pytest.raises(ParamsError, match="mine: dataset is 'fashion', it should be"):
                resolve("mine.craig", profile)


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("settings", "\nsettings:\n", "\nsetings:\n", "settings.yaml: 'setings' is not known"),
        ("settings", "period: 20", "period: 0", "period is 0, it should be greater than"),
        ("settings", "  momentum: 0.9\n", "", "momentum is missing: add it to params/settings"),
        ("settings", "  resnet18-linf-cifar10:", "  a+b:", "settings, a.b: .*pattern|'a.b' is"),
        ("table3", "methods:", "method:", "table3.yaml, runs, 0: 'method' is not known"),
        ("table3", "    methods: [full", "    columns: [full", "methods is missing: add it"),
        ("table3", "craig, gradmatch", "craig, gradmtch", "methods: 'gradmtch' is not known: did"),
        ("table3", "craig, gradmatch", "craig, craig", "methods is .*, it has 'craig' twice"),
        ("table3", "wrn28_10-l2-svhn]", "wrn28_10-l2]", "'wrn28_10-l2' is not known: did you"),
        ("table3", "[wrn28_10-linf-cifar10, wrn28_10-l2-svhn]", "wrn", "a list of settings is"),
        ("table3", "{epoch_factor: 0.5}", "{epoch_factor: half}", "vary, 0: epoch_factor is"),
        ("table3", "{epoch_factor: 0.5}", "[{}, {}]", "vary has {} twice"),
        ("table3", "runs:", "rnus:", "'rnus' is not known: did you mean 'runs'"),
        ("table3", "title:", "titel:", "'titel' is not known: did you mean 'title'"),
        ("attacks", "bound: 8/255", "bound: wide", "autoattack_linf: bound is 'wide', it is not"),
        ("attacks", "stadv:", "stdav:", "'stdav' is not known: did you mean 'stadv'"),
        ("theorem1", "mu: 0.01", "mu: -1", "common: mu is -1, it should be greater than 0"),
        ("theorem1", "profiles:", "profile:", "'profile' is not known: did you mean 'profiles'"),
        ("time", "rounds: 3", "rounds: 0", "demo: rounds is 0, it should be greater than"),
    ],
)
def test_a_file_with_a_mistake(name, old, new, sentence, tmp_path, monkeypatch):
    with a_profile("extends: demo", tmp_path, monkeypatch):
        edited(name, tmp_path, old, new)
        with pytest.raises(ParamsError, match=sentence) as caught:
            everything_read("table3", "mine")
        assert "\n" not in str(caught.value)


def everything_read(table, profile):
    for run in items.table_runs(table, profile):
        resolve(run, profile)
    threats.table_c1("cifar10", 8)
    for name in params.BY_THEMSELVES:
        items.by_itself(name, profile)


def test_a_file_that_is_edited_is_read_again(tmp_path, monkeypatch):
    """Also in a kernel that has read it before."""
    with a_profile("common: {lr: 0.3}", tmp_path, monkeypatch):
        assert resolve("resnet18-linf-cifar10.full", "mine").setting.lr == 0.3
        edited("profiles/mine", tmp_path, "0.3", "0.25")
        assert resolve("resnet18-linf-cifar10.full", "mine").setting.lr == 0.25


def test_what_coverage_found_missing_is_the_full_profiles_default():
    """The authors' code holds out 5 % of ImageNet-12, and trains Fast-LPA so."""
    for name in ("resnet50-fastlpa-cifar10", "resnet50-fastlpa-imagenet12"):
        setting = resolve(f"{name}.full", "full").setting
        assert (setting.lr_warmup, setting.gradient_clip, setting.only_correct) == (5, 1, True)
        assert (setting.stem, setting.threats_n) == ("imagenet", None)
    assert setting.validation_fraction == 0.05
