"""Parts of one's own: registered from files and cells, refused in a sentence, part of a record."""

import linecache
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from acslib import data, models, selectors
from acslib.attacks import PGD
from acslib.objectives import AdversarialTraining
from acslib.paper import (
    build,
    cli,
    config,
    files,
    fingerprints,
    items,
    paramfiles,
    plugins,
    records,
    register,
    runs,
    selecting,
    warm,
)
from acslib.paper.files import RecordError
from acslib.paper.methods import BUILT_IN, METHODS
from acslib.paper.params import ParamsError
from acslib.paper.plugins import PluginError

ROOT = Path(__file__).parents[1]
SETTING = "resnet18-linf-cifar10"
FIRST = """
from acslib.paper import register
from acslib.selectors import {selector} as chosen
register.method("mine", chosen, label="Mine", items=("table1", "fig4"))
"""
NOTHING = "from acslib.paper import register\n"


@pytest.fixture
def use(tmp_path, use_plugins):
    """use(text, ...): as if ACS_PLUGINS named files with these texts; forgotten after the test."""

    def use(*texts):
        paths = [tmp_path / f"mine{number}.py" for number, _ in enumerate(texts)]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        use_plugins(*paths)
        return paths

    return use


@pytest.fixture
def forgotten(monkeypatch):
    """What the test registers is forgotten after it."""
    before = [(one, dict(one.own), dict(one.sources)) for one in plugins.Registry.everyone]
    yield
    for one, own, sources in before:
        one.own, one.sources = own, sources


# ---- a name everywhere


def test_a_method_is_a_name_in_runs_and_in_the_items_that_it_names(use, tmp_path, monkeypatch):
    before = {name: items.table_runs(name, "demo") for name in ("table1", "fig4", "table3")}
    use(FIRST.format(selector="gradmatch"))
    run = config.resolve(f"{SETTING}.mine+coreset_fraction@0.3", "smoke")
    assert (run.method, run.setting.coreset_fraction) == ("mine", 0.3)
    for item in ("table1", "fig4"):
        added = set(items.table_runs(item, "demo")) - set(before[item])
        theirs = {name for name in before[item] if ".gradmatch" in name}
        assert added == {name.replace(".gradmatch", ".mine") for name in theirs}
    assert items.table_runs("table3", "demo") == before["table3"]
    (tmp_path / "more").mkdir()
    text = f"title: x\nruns: [{{settings: [{SETTING}], methods: [mine]}}]"
    (tmp_path / "more" / "ours.yaml").write_text(text)
    monkeypatch.setenv("ACS_PARAMS", str(tmp_path / "more"))
    assert items.table_runs("ours", "demo") == [f"{SETTING}.full", f"{SETTING}.mine"]


def test_methods_differ_in_colour_and_marker(use):
    many = [f'register.method("m{number}", print)' for number in range(6)]
    use(NOTHING + "\n".join(many))
    assert len(METHODS) == len(BUILT_IN) + 6
    assert len({method.colour for method in METHODS.values()}) == len(METHODS)
    assert len({method.marker for method in METHODS.values()}) == len(METHODS)
    assert METHODS["m0"].label == METHODS["m0"].printed == "m0"


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
)
@given(name=st.from_regex(register.NAME, fullmatch=True))
def test_whatever_is_accepted_as_a_name_is_one_in_runs(name, forgotten):
    if name in METHODS.built_in or name.startswith("adv_"):
        return
    METHODS.own.clear()
    METHODS.sources.clear()
    register.method(name, print, label=f"One's own {name}")
    run = config.run_name(SETTING, name, {"lr": 0.5})
    assert config.parse(run) == (SETTING, name, {"lr": 0.5})
    assert config.resolve(run, "smoke").name == run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('register.method("full", print)', "method 'full', which is built in"),
        ('register.method("adv_craig", print)', "a name that tables give to a method of the paper"),
        ('register.method("a", print)\nregister.method("a", print)', "line 3 .*has registered"),
        ('register.method("a.b", print)', "cannot be a name in files"),
        ('register.method("", print)', "cannot be a name in files"),
        ('register.method("a")', "has no selector and no build"),
        ('register.method("a", print, build=print)', "both a selector and a build"),
        ('register.method("a", 3)', "3 cannot be called"),
        ('register.method("a", print, items="table1")', r"items is 'table1', give a list"),
        ('register.method("a", print, label=3)', "the label is 3, give a text"),
        ('register.method("a", print, label=" ")', "the label is ' ', give a text"),
        ('register.method("a", print, label="Adv. CRAIG")', "label 'Adv. CRAIG', as craig has"),
        (
            'register.method("a", build=lambda setting: print)',
            r"called with \(setting, seed\), and too many positional arguments",
        ),
        (
            'register.model("a", lambda dataset: 3)',
            r"called with \(setting, dataset\), and too many",
        ),
        ('register.objective("a", lambda: 3)', r"called with \(setting, attack\), and too many"),
        ('register.method("a", print, colour="red")', "'red': write it like #E69F00"),
        ('register.method("a", print, marker="Q")', "'Q': take one of"),
        ('register.model("resnet18", print)', "model 'resnet18', which is built in"),
        ('register.objective("a", 3)', "3 cannot be called"),
        ('register.dataset("digits", print)', "data set 'digits', which is built in"),
        ("1 / 0", r"line 2, stopped with ZeroDivisionError \(division by zero\): mend it"),
        ("def", "line 2, stopped with SyntaxError"),
        ("import nothing_of_that_name", "stopped with ModuleNotFoundError"),
        ("raise SystemExit(3)", "stopped with SystemExit"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence_each_time(text, said, use):
    for _ in range(2):
        with pytest.raises(PluginError, match=said) as caught:
            use(NOTHING + text)
        assert "\n" not in str(caught.value)
        with pytest.raises(PluginError, match=said):
            config.resolve(f"{SETTING}.mine", "smoke")
    use("")


def test_an_item_that_is_not_there_is_refused(use):
    use(NOTHING + 'register.method("mine", print, items=["tabel1"])')
    with pytest.raises(ParamsError, match="'mine', items: 'tabel1' is not known: did you mean"):
        items.table_runs("table1", "demo")


@pytest.mark.parametrize("item", paramfiles.item_names())
def test_an_item_has_the_method_that_names_it_or_refuses_it(item, use):
    """Never neither: a method that is left out silently, or trained and shown nowhere."""
    use(f'{NOTHING}register.method("mine", print, items=["{item}"])')
    if item in items.OF_CERTAIN_METHODS:
        with pytest.raises(ParamsError, match=f"{item} is about certain methods and takes no"):
            items.table_runs(item, "demo")
    else:
        found = items.table_runs(item, "demo")
        assert any(".mine" in name for name in found)


def test_all_files_register_or_none(use):
    with pytest.raises(PluginError, match="mine1.py, line 1"):
        use(FIRST.format(selector="craig"), "1 / 0")
    assert not METHODS.own
    with pytest.raises(PluginError, match="mine1.py, line 4 registers .*mine0.py, line 4 has"):
        use(FIRST.format(selector="craig"), FIRST.format(selector="craig"))
    use("")


@pytest.mark.parametrize(
    ("value", "said"), [("no.py", "no.py, which is not there"), ("{0}:{0}", "twice")]
)
def test_files_that_are_not_there_or_there_twice(value, said, use, use_plugins):
    (path,) = use(NOTHING)
    with pytest.raises(PluginError, match=said):
        use_plugins(value.format(path))


def test_relative_paths_are_made_absolute_for_whoever_is_started_from_here(tmp_path):
    (tmp_path / "mine.py").write_text(FIRST.format(selector="gradmatch"))
    code = (
        "import os, sys; from acslib.paper import config; print(len(sys.modules) and 'torch' in"
        f" sys.modules); config.resolve('{SETTING}.mine'); print(os.environ['ACS_PLUGINS'])"
    )
    environment = os.environ | {"ACS_PLUGINS": "mine.py", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", str(tmp_path / "mine.py")], done.stderr


def test_an_unknown_name_says_where_others_come_from():
    with pytest.raises(ParamsError, match="no method 'margin'.*ACS_PLUGINS names files"):
        config.resolve(f"{SETTING}.margin")
    for part in ("model", "dataset", "objective"):
        with pytest.raises(ParamsError, match=f"{part} is 'mine', it should be .*ACS_PLUGINS"):
            config.resolve(f"{SETTING}.full+{part}@mine")


# ---- notebook cells


def cell(number: int, text: str) -> None:
    """Run a text as IPython runs a cell: its code has a name of its own, and linecache its text."""
    place = f"<ipython-input-{number}-{abs(hash(text))}>"
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    exec(compile(text, place, "exec"), {"register": register, "selectors": selectors})


def test_a_cell_may_be_edited_and_run_again(forgotten):
    text = 'register.method("mine", selectors.{}, label="L")\n'
    cell(1, text.format("craig"))
    first = fingerprints.fingerprint(config.resolve(f"{SETTING}.mine"))
    cell(1, text.format("craig"))
    assert fingerprints.fingerprint(config.resolve(f"{SETTING}.mine")) == first
    cell(2, text.format("gradmatch"))
    assert fingerprints.fingerprint(config.resolve(f"{SETTING}.mine")) != first
    assert METHODS["mine"].selector(None, 0) is selectors.gradmatch
    with pytest.raises(PluginError, match="a notebook cell registers .* a notebook cell has"):
        cell(3, text.format("craig") + text.format("craig"))


def test_a_record_that_a_cell_s_method_made_is_refused_elsewhere(forgotten, tmp_path):
    cell(1, 'register.method("mine", selectors.craig)')
    run = config.resolve(f"{SETTING}.mine", "smoke")
    runs.execute(run, 0, "cpu", tmp_path)
    METHODS.own.clear()
    METHODS.sources.clear()
    with pytest.raises(RecordError, match="nowhere here: a notebook cell registered it, for its"):
        records.read_record(records.run_folder(run, 0, tmp_path) / "record.json")


def test_a_refusal_is_a_sentence_in_a_notebook():
    error = PluginError("take another name")
    assert error._render_traceback_() == ["take another name"]


def test_what_has_no_text_is_refused(forgotten):
    with pytest.raises(PluginError, match="must stand in a file or in a notebook cell"):
        exec("register.method('mine', print)", {"register": register})


# ---- what a record is


def test_the_content_of_a_file_belongs_to_the_runs_that_use_it(use):
    mine, other = f"{SETTING}.mine", f"{SETTING}.craig"
    found = []
    for selector in ("gradmatch", "craig", "gradmatch"):
        use(FIRST.format(selector=selector))
        named = [config.resolve(name, "smoke") for name in (mine, other)]
        found.append([fingerprints.fingerprint(run) for run in named])
        found[-1] += [fingerprints.training_fingerprint(run) for run in named]
    assert found[0] == found[2]
    assert [one == two for one, two in zip(*found[:2], strict=True)] == [False, True, False, True]
    assert fingerprints.is_outdated(found[0][0], found[1][0])
    assert not fingerprints.is_outdated(found[0][0], found[0][0])


def test_methods_of_a_changed_file_share_their_warm_start_anew(use, tmp_path, monkeypatch):
    """A record that the change has made old is no reason to keep no warm start for its run."""
    other = 'register.method("other", chosen, label="Other")'
    small = "+evaluation_restarts@1+evaluation_steps@1+steps@1+train_limit@96"
    for comment in ("# one", "# two"):
        use("\n".join([FIRST.format(selector="gradmatch"), other, comment, ""]))
        both = [config.resolve(f"{SETTING}.{name}{small}", "smoke") for name in ("mine", "other")]
        monkeypatch.setattr(warm, "peers", lambda run, both=both: both)
        first, second = (runs.execute(run, 0, "cpu", tmp_path)["warm_start"] for run in both)
        assert first is None
        assert second["shared"]


def test_what_a_killed_run_left_before_its_file_changed_stops_no_warm_start(
    use, tmp_path, monkeypatch
):
    def killed(row):
        if row["epoch"] == 4:
            raise KeyboardInterrupt

    other = 'register.method("other", chosen, label="Other")'
    small = (
        "+evaluation_restarts@1+evaluation_steps@1+steps@1+train_limit@96+epochs@10+lr_drops@[4,8]"
    )
    for comment in ("# one", "# two"):
        use("\n".join([FIRST.format(selector="gradmatch"), other, comment, ""]))
        both = [config.resolve(f"{SETTING}.{name}{small}", "smoke") for name in ("mine", "other")]
        monkeypatch.setattr(warm, "peers", lambda run, both=both: both)
        if comment == "# one":
            with pytest.raises(KeyboardInterrupt):
                runs.execute(both[0], 0, "cpu", tmp_path, told=runs.Told(progress=killed))
    rows = []
    runs.warm_up(both[0], 0, "cpu", tmp_path, told=runs.Told(progress=rows.append))
    assert rows[0]["epoch"] == 0


def test_a_warm_start_is_anew_with_another_model_but_not_with_another_method(use):
    text = FIRST.format(selector="gradmatch") + 'register.objective("own", print)  # {}'
    found = []
    for comment in ("one", "two"):
        use(text.format(comment))
        names = (f"{SETTING}.mine", f"{SETTING}.craig+objective@own")
        found.append([warm.family(config.resolve(name, "smoke")) for name in names])
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_a_changed_file_has_its_runs_trained_anew(use, tmp_path):
    (path,) = use(FIRST.format(selector="gradmatch"))
    name = f"{SETTING}.mine+epochs@4"
    run = config.resolve(name, "smoke")
    made = runs.execute(run, 0, "cpu", tmp_path)
    assert made["provenance"]["plugins"] == {
        "mine0.py": fingerprints.own_parts(run)["method"].content
    }
    assert runs.execute(run, 0, "cpu", tmp_path) == made
    use(FIRST.format(selector="craig"))
    assert records.finished_record(run, 0, tmp_path) is None
    (folder,) = tmp_path.glob("smoke/runs/*/seed0")
    old = (folder / "weights.safetensors").read_bytes()
    again = runs.execute(run, 0, "cpu", tmp_path)
    assert again["fingerprint"] != made["fingerprint"]
    assert (folder / "weights.safetensors").read_bytes() != old
    path.unlink()
    use("")
    with pytest.raises(
        RecordError, match="made with the method 'mine', which is registered nowhere.*, mine0.py"
    ):
        records.read_record(folder / "record.json")


def test_a_record_of_an_earlier_content_is_not_compared_under_the_name(
    use, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    use(FIRST.format(selector="gradmatch"))
    name = f"{SETTING}.mine+epochs@4"
    runs.execute(config.resolve(name, "smoke"), 0, "cpu", files.RESULTS)
    assert cli.main(["compare", name, name, "--profile", "smoke"]) == 0
    use(FIRST.format(selector="craig"))
    capsys.readouterr()
    assert cli.main(["compare", name, name, "--profile", "smoke"]) == 2
    assert "profile smoke is outdated, as acs runs says: acs run" in capsys.readouterr().err
    (folder,) = files.RESULTS.glob("smoke/runs/*/seed0")
    assert cli.main(["compare", str(folder), str(folder)]) == 0


def test_epochs_that_an_earlier_content_trained_are_not_gone_on_with(use, tmp_path):
    def stop(row):
        if row["phase"] == "coreset":
            raise KeyboardInterrupt

    def interrupted(run):
        trained = []

        def progress(row):
            trained.append(row["epoch"])
            stop(row)

        with pytest.raises(KeyboardInterrupt):
            runs.execute(run, 0, "cpu", tmp_path, told=runs.Told(progress=progress))
        return trained

    use(FIRST.format(selector="gradmatch"))
    run = config.resolve(f"{SETTING}.mine+epochs@8", "smoke")
    first = interrupted(run)
    use(FIRST.format(selector="craig"))
    assert interrupted(run) == first


# ---- what is built


@pytest.mark.parametrize(
    ("given", "built"),
    [
        ("selectors.el2n", selectors.BatchWise),
        ("selectors.BatchWise(selectors.el2n, 3, 7)", "as it is"),
        ("selectors.PerClass(selectors.el2n)", "as it is"),
        ("selectors.Unweighted(selectors.PerClass(selectors.el2n))", "as it is"),
        ("selectors.Unweighted(selectors.el2n)", selectors.BatchWise),
        ("selectors.AdaptiveRandom(3)", "as it is"),
    ],
)
def test_the_settings_granularity_is_put_around_what_has_none(given, built, use):
    use(f'{NOTHING}from acslib import selectors\nregister.method("mine", {given})')
    run = config.resolve(f"{SETTING}.mine", "smoke")
    found, own = selecting.build_selector(run, 0), METHODS["mine"].selector(run.setting, 0)
    if built == "as it is":
        assert found is own
    else:
        assert type(found) is built
        assert found.selector is own
        assert found.batch_size == run.setting.selection_batch_size


def test_a_selector_may_be_built_for_each_run(use):
    use(
        f"{NOTHING}from acslib.selectors import AdaptiveRandom\n"
        'register.method("mine", build=lambda setting, seed: AdaptiveRandom(seed + 100))'
    )
    found = selecting.build_selector(config.resolve(f"{SETTING}.mine", "smoke"), 5)
    assert found == selectors.AdaptiveRandom(105)


def test_an_objective_is_given_the_settings_attack(forgotten):
    register.objective("own", lambda setting, attack: AdversarialTraining(attack))
    setting = config.resolve(f"{SETTING}.full+objective@own+epsilon@0.2", "smoke").setting
    found = build.build_objective(setting, 7, torch.Generator(), "cpu")
    assert isinstance(found.attack, PGD)
    assert (found.attack.epsilon, found.attack.steps) == (0.2, 7)


def test_a_model_is_adapted_and_given_the_datas_statistics(forgotten):
    images = torch.randint(256, (40, 2, 6, 6), dtype=torch.uint8)
    images[:, 1] = 3
    register.dataset(
        "own",
        lambda train_limit=None, **rest: (
            data.from_arrays(
                images, torch.arange(40) % 4, images, torch.arange(40) % 4, channel_axis=1, **rest
            )
            if rest.pop("classes") is rest.pop("image_size") is None
            else None
        ),
    )
    register.model(
        "plain",
        lambda setting, dataset: torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(72, len(dataset.class_names))
        ),
    )
    run = config.resolve(f"{SETTING}.full+dataset@own+model@plain", "full")
    made = build.experiment(run, 0, "cpu")
    model = made.state.model
    assert isinstance(model, models.Adapted)
    assert model.head.out_features == 4
    train = made.data.train.float_images()
    mean, std = build.channel_statistics(made.data.train.images)
    assert mean == pytest.approx(train.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std[0] == pytest.approx(float(train[:, 0].std(correction=0)), abs=1e-6)
    assert std[1] == 1.0, "a constant channel"


def test_what_a_data_set_cannot_do_is_refused(forgotten):
    def load(device="cpu", test_limit=None):
        return "no data set"

    register.dataset("own", load)
    setting = config.resolve(f"{SETTING}.full+dataset@own", "smoke").setting
    with pytest.raises(ParamsError, match="train_limit is 200, and the data set 'own' has none"):
        build.load_data(setting, "cpu")
    free = setting.model_copy(update={"train_limit": None})
    with pytest.raises(ParamsError, match="'own' is a str: .*must return an acslib.data.Dataset"):
        build.load_data(free, "cpu")


def test_an_augmentation_that_is_asked_for_reaches_the_data_set(forgotten, monkeypatch):
    """The usual one is left to the data set, which may have another one."""
    asked = []
    monkeypatch.setattr(data, "load", lambda name, **rest: asked.append(rest.get("augmentation")))

    def load(augmentation="its own", **rest):
        asked.append(augmentation)
        return digits

    digits = data.from_arrays(*[torch.zeros(4, 1, 2, 2), torch.arange(4) % 2] * 2, channel_axis=1)
    register.dataset("own", load)
    register.dataset("without", lambda train_limit, test_limit: digits)
    for changed in ("", "+augmentation@resized_crop"):
        for name in ("cifar10", "own"):
            run = config.resolve(f"{SETTING}.full+dataset@{name}{changed}", "smoke")
            build.load_data(run.setting, "cpu")
    assert asked == [None, "its own", "resized_crop", "resized_crop"]
    run = config.resolve(f"{SETTING}.full+dataset@without+augmentation@resized_crop", "smoke")
    said = "augmentation is resized_crop, and the data set 'without' has none: .*to crop"
    with pytest.raises(ParamsError, match=said):
        build.load_data(run.setting, "cpu")


def test_a_data_set_that_cannot_draw_by_seed_says_so_with_any_seed(forgotten):
    register.dataset("without", lambda train_limit, test_limit: None)
    run = config.resolve(f"{SETTING}.full+dataset@without+draw_images@each", "smoke")
    for seed in (0, 1):
        with pytest.raises(ParamsError, match=f"seed is {seed}.*or set draw_images to fixed"):
            build.load_data(run.setting, "cpu", seed)


def test_an_augmentation_that_small_images_cannot_have_is_refused():
    run = config.resolve(f"{SETTING}.full+augmentation@resized_crop", "smoke")
    with pytest.raises(data.DataError, match="'resized_crop', but digits has images too small"):
        build.load_data(run.setting, "cpu")


# ---- folders of parameters of one's own


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """folder({name: text}): a folder of ACS_PARAMS with these files, after those before."""
    made = []

    def folder(files):
        path = tmp_path / f"params{len(made)}"
        for name, text in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        made.append(str(path))
        monkeypatch.setenv("ACS_PARAMS", ":".join(made))

    return folder


def test_a_folder_needs_only_what_is_ones_own(folder):
    folder(
        {
            "settings.yaml": f"settings: {{mine: {{extends: {SETTING}, dataset: svhn, lr: 0.3}}}}",
            "profiles/short.yaml": "extends: full\ncommon: {epochs: 30}",
            "ours.yaml": "title: Own\nruns: [{settings: [mine], methods: [craig]}]",
        }
    )
    mine = config.resolve("mine.craig", "full").setting
    base = config.resolve(f"{SETTING}.craig", "full").setting
    changed = {"dataset": "svhn", "lr": 0.3, "table": None}
    assert mine == base.model_copy(update=changed)
    assert config.resolve("mine.craig", "short").setting.epochs == 30
    assert items.table_runs("ours", "short") == ["mine.full", "mine.craig"]
    assert {"ours", "table1"} < set(paramfiles.item_names())
    assert {"short", "demo"} < set(paramfiles.profiles())


def test_later_folders_win(folder):
    for lr in (0.3, 0.4):
        text = f"defaults: {{beta: {lr}}}\nsettings: {{mine: {{extends: {SETTING}, lr: {lr}}}}}"
        folder({"settings.yaml": text, "table1.yaml": f"title: x{lr}\nruns: []"})
    setting = config.resolve("mine.full", "full").setting
    assert (setting.lr, setting.beta) == (0.4, 0.4)
    assert paramfiles.read_yaml("table1")["title"] == "x0.4"
    assert config.resolve(f"{SETTING}.full", "full").setting.lr == 0.01


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("settings: {a: {extends: b}, b: {extends: a}}", "setting a extends itself"),
        ("settings: {a: {extends: nobody}}", "there is no setting 'nobody'"),
        ("settings: {2: {extends: a}}", "settings, 2: 2 is no name as YAML reads it: .* quotes$"),
        ("settings: {null: {extends: a}}", "None is no name as YAML reads it: .* quotes$"),
        ("settings: {a: {extend: b}}", "params0/settings.yaml, settings, a: .extend. is not known"),
    ],
)
def test_a_setting_with_a_mistake(text, said, folder):
    folder({"settings.yaml": text})
    with pytest.raises(ParamsError, match=said):
        config.resolve("a.full", "full")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("[2]", "question.yaml, runs, 0: 2 is no name as YAML reads it: write it in quotes$"),
        ("[null]", "question.yaml, runs, 0: None is no name as YAML reads it: write it in quotes$"),
        ("[]", r"question.yaml, runs, 0: settings is \[\], it should have at least 1 item$"),
    ],
)
def test_an_item_with_a_name_that_is_none(settings, said, folder):
    folder({"question.yaml": f"title: x\nruns: [{{settings: {settings}, methods: [full]}}]"})
    with pytest.raises(ParamsError, match=said):
        items.table_runs("question", "full")


def test_a_folder_that_is_not_there(monkeypatch):
    monkeypatch.setenv("ACS_PARAMS", "nowhere")
    with pytest.raises(
        ParamsError, match="ACS_PARAMS names the folder .*nowhere, which is not there"
    ):
        paramfiles.item_names()


# ---- a mistake in one's own code


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("register.method('mine', build=lambda setting, seed: 1 / 0)", "ZeroDivisionError"),
        ("register.method('mine', lambda gradients, budget: 1 / 0)", "ZeroDivisionError"),
        ("register.method('mine', lambda gradients, budget: int('x'))", "ValueError"),
        ("register.method('mine', lambda gradients, budget: gradients[0, 9999])", "IndexError"),
        ("register.method('mine', lambda gradients, budget: gradients.no)", "AttributeError"),
        ("register.method('mine', lambda gradients, budget: exit(3))", "SystemExit (3)"),
    ],
)
def test_a_mistake_in_ones_own_code_is_told_with_its_line(
    text, said, use, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    (path,) = use(NOTHING + text)
    assert cli.main(["run", f"{SETTING}.mine", "--profile", "smoke"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{path}, line 2" in error
    assert said in error


def test_a_refusal_of_ours_that_ones_own_code_calls_for_stays_as_it_is(
    use, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(files, "RESULTS", tmp_path / "results")
    use(
        f"{NOTHING}from acslib import data\n"
        "register.dataset('own', lambda **rest: data.from_folder('nowhere', **rest))"
    )
    assert cli.main(["run", f"{SETTING}.full+dataset@own", "--profile", "smoke"]) == 2
    error = capsys.readouterr().err
    assert "there is no folder nowhere: give one" in error
    assert "stopped with" not in error
