"""The command `acs`: what each verb answers, that it answers at once, and how it refuses."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from acslib import models
from acslib._torchvision import torchvision
from acslib.paper import (
    cli,
    config,
    costs,
    explain,
    export,
    files,
    inventory,
    items,
    paramfiles,
    printing,
    records,
    runs,
)
from acslib.paper.settings import MODELS, Setting, owner

ROOT = Path(__file__).parents[1]
SETTING = "resnet18-linf-cifar10"
FULL, CRAIG = f"{SETTING}.full", f"{SETTING}.craig"
VERBS = sorted(set(cli.acs.commands) - {"train"})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of results with two finished runs of the smoke profile."""
    folder = tmp_path_factory.mktemp("finished") / "results"
    for name in (FULL, CRAIG):
        runs.execute(config.resolve(name, "smoke"), 0, "cpu", folder)
    return folder


@pytest.fixture
def acs(results, monkeypatch, capsys):
    """acs(words): what a command prints on that folder, which must end with 0."""
    monkeypatch.setattr(files, "RESULTS", results)

    def run(*words):
        assert cli.main(words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


# ---- every verb


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_that_is_understood(verb, acs):
    lines = [line.strip() for line in acs(verb, "--help").splitlines()]
    examples = [line for line in lines if line.startswith(f"acs {verb}")]
    assert examples
    for example in examples:
        words = example.replace('"0 1 2"', "0,1").split()[2:]
        words = [word.replace("0,1", "0 1 2") for word in words]
        cli.acs.commands[verb].make_context(verb, words)


def test_help_of_all(acs):
    text = acs("--help")
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert "Examples:" in text
    assert "train " not in text.split("Commands:")[1], "it is Make's word for run"


@pytest.mark.parametrize(
    "words",
    [
        ["list", "table1"],
        ["list", "table1", "--cost"],
        ["rules"],
        ["runs"],
        ["explain"],
        ["explain", "lr"],
        ["compare", FULL, CRAIG, "--profile", "smoke"],
        ["run", "--help"],
        ["run", "nothing.full"],
        ["export", "nothing.full"],
        ["export", f"{FULL}+lr@0.5", "--profile", "smoke"],
        ["show", "fig1"],
    ],
    ids=" ".join,
)
def test_whoever_only_asks_waits_for_no_torch(words, results):
    code = (
        "import sys, time; start = time.process_time(); from acslib.paper.cli import main;"
        "main(sys.argv[1:]); took = time.process_time() - start;"
        "print({'torch', 'pandas', 'matplotlib', 'numba'} & set(sys.modules), took)"
    )
    environment = os.environ | {"ACS_RESULTS": str(results)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True
    )
    loaded, took = done.stdout.splitlines()[-1].rsplit(maxsplit=1)
    assert loaded == "set()"
    assert float(took) < 3, "a second, and what a busy machine adds"


def test_a_terminal_of_jupyterlab_finds_the_command(monkeypatch):
    """`acs`, as notebooks call it, also where nobody has activated the environment."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.syspath_prepend(ROOT / "tools")
    given = importlib.import_module("lab").environment()
    assert given["PATH"] == f"{Path(sys.executable).parent}:/usr/bin:/bin"


def test_a_table_is_shown_without_torch():
    code = (
        "import sys; from acslib.paper.cli import main;"
        "print(main(sys.argv[1:]), 'torch' in sys.modules)"
    )
    published = ROOT / "results" / "published"
    done = subprocess.run(
        [sys.executable, "-c", code, "show", "table1"],
        env=os.environ | {"ACS_RESULTS": str(published)},
        capture_output=True,
        text=True,
    )
    assert "Adv. GradMatch" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 False"


def test_a_page_is_written_without_torch_and_without_drawing(results):
    code = (
        "import sys; from acslib.paper.cli import main;"
        "print(main(sys.argv[1:]), {'torch', 'matplotlib', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "page", "--profile", "smoke"],
        env=os.environ | {"ACS_RESULTS": str(results)},
        capture_output=True,
        text=True,
    )
    *written, last = done.stdout.splitlines()
    assert [Path(name).name for name in written] == ["paper.md", "paper.pdf"]
    assert last == "0 set()"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explain", "lrr"], "parameter: 'lrr' is not known: did you mean 'lr'?"),
        (["explain", "LR"], "parameter: 'LR' is not known: did you mean 'lr'?"),
        (["list", "theorem1"], "theorem1 trains no runs: make theorem1 makes it"),
        (["list", "Table1"], "no table or figure 'Table1': did you mean 'table1'?"),
        (["compare", FULL, CRAIG], "profile demo is not trained: acs run"),
        (["compare", "nothing", FULL], "has no method"),
        (["compare", FULL], "Missing argument 'B'; acs compare --help says more"),
        (["runs", "--profile", "dmo"], "no profile 'dmo': did you mean 'demo'?"),
        (["list", "table1", "--jsn"], "Did you mean '--json'?; acs list --help says more"),
        (["export", f"{FULL}+lr@0.5", "--profile", "smoke"], "weights.safetensors: train"),
        (
            ["export", CRAIG, "--profile", "smoke", "--to", "/dev/null/net"],
            "cannot make the folder /dev/null/net (Not a directory): name another one by --to",
        ),
        (["export", CRAIG, "--to", ""], "Invalid value for '--to': it is empty: name a place"),
        (["rules", "--output="], "Invalid value for '--output': it is empty: name a place"),
        (
            ["export", CRAIG, "--profile", "smoke", "--to", "~no-such/x"],
            "--to is '~no-such/x', and",
        ),
        (["run", FULL, "--seed", "-1"], "seeds are '-1': write whole numbers"),
        (["compare", FULL, CRAIG, "--seed", "0 1"], "give one"),
        (["lst"], "No such command 'lst'"),
        ([], "Missing command; acs --help says more"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_refusals_are_one_plain_line(words, said, results, monkeypatch, capsys):
    monkeypatch.setattr(files, "RESULTS", results)
    assert cli.main(words) == 2
    answer = capsys.readouterr()
    assert answer.err.startswith("acs: ")
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert not answer.out


@pytest.mark.parametrize(
    ("set_to", "heard"),
    [({"RANK": "1"}, True), ({"RANK": "1", "WORLD_SIZE": "2"}, False), ({"WORLD_SIZE": "2"}, True)],
)
def test_one_process_of_several_speaks(set_to, heard, monkeypatch, capsys):
    """A RANK that another program has set, without torchrun's WORLD_SIZE, silences nobody."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value)
    cli.say("trained")
    assert (capsys.readouterr().out == "trained\n") == heard


def test_it_is_installed_as_acs():
    import tomllib

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"acs": "acslib.paper.__main__:main"}


# ---- list


def test_list_is_what_an_item_trains(acs):
    names = items.table_runs("table3", "demo")
    assert acs("list", "table3").split() == names
    assert json.loads(acs("list", "table3", "--json")) == names


def test_a_cost_is_a_records_or_expected_from_its_kind_or_unknown(acs, results):
    def cost(name, seed=0):
        run = config.resolve(name, "smoke")
        (found,) = costs.costs_of([run], [seed])
        return found

    acs("runs")
    record = records.finished_record(config.resolve(CRAIG, "smoke"), 0)
    assert cost(CRAIG)[3:] == ("finished", record["seconds"]["total"])
    once, twice = (cost(f"{FULL}+epochs@{epochs}+lr@0.3") for epochs in (10, 20))
    assert (once.state, twice.state) == ("expected", "expected")
    assert twice.seconds == pytest.approx(2 * once.seconds)
    assert cost(CRAIG, 1).state == "expected"
    for other in (f"{SETTING}.gradmatch", f"{FULL}+width@5", f"{FULL}+steps@3"):
        assert cost(other)[3:] == ("unknown", None), other
    table = acs("list", "table3", "--profile", "smoke", "--cost", "--seeds", "0 1")
    assert CRAIG not in table
    found = json.loads(
        acs("list", "table1", "--profile", "smoke", "--cost", "--seeds", "0 1", "--json")
    )
    assert [one["run"] for one in found[::2]] == items.table_runs("table1", "smoke")
    assert {one["state"] for one in found} == {"finished", "expected", "unknown"}


# ---- runs


def test_runs_are_listed_with_their_state(acs, results, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    assert "no runs in" in acs("runs")

    def interrupt(row):
        if row["epoch"] == 0:
            raise KeyboardInterrupt

    half = config.resolve(f"{FULL}+epochs@3", "smoke")
    told = runs.Told(progress=lambda row: interrupt(row))
    for _ in range(2):  # the epoch is kept before it is told, or after
        with pytest.raises(KeyboardInterrupt):
            runs.execute(half, 7, "cpu", tmp_path, told)
    (source,) = results.glob(f"smoke/runs/{FULL}/seed0/record.json")
    record = json.loads(source.read_text())
    for name in (FULL, f"{FULL}+lr@0.5", CRAIG):
        folder = tmp_path / "smoke" / "runs" / name / "seed0"
        folder.mkdir(parents=True)
        record["run"] = name  # with the fingerprint of the first
        record["sha256"] = records.checksum(record)
        (folder / "record.json").write_text("{}" if name == CRAIG else json.dumps(record))
    found = {(one.run, one.seed): one for one in inventory.found()}
    states = {name: one.state for (name, _), one in found.items()}
    assert states == {FULL: "finished", f"{FULL}+lr@0.5": "outdated", CRAIG: "refused"} | (
        {f"{FULL}+epochs@3": "interrupted"} if (half.name, 7) in found else {}
    )
    assert "has format None" in found[CRAIG, 0].reason
    assert acs("runs").count("\n") == len(found) + 2
    assert [one["state"] for one in json.loads(acs("runs", "--json"))] == [*states.values()]
    assert "no runs in" in acs("runs", "--profile", "demo")


def test_an_interrupted_run_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    run = config.resolve(f"{FULL}+epochs@5", "smoke")

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.execute(run, 0, "cpu", told=runs.Told(progress=stop))
    (found,) = inventory.found()
    assert (found.state, found.of) == ("interrupted", 5)
    assert 1 <= found.epochs <= 3
    assert found.seconds > 0


def test_a_run_is_running_as_long_as_its_process_lives(tmp_path, monkeypatch):
    folder = tmp_path / "smoke" / "runs" / FULL / "seed0"
    folder.mkdir(parents=True)
    code = (
        "import sys, time; from pathlib import Path; from acslib.paper import records;\n"
        "with records.marked_as_training(Path(sys.argv[1])):\n"
        "    print('locked', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    assert not records.is_training(folder)
    with subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE) as going:
        assert going.stdout.readline() == b"locked\n"
        assert records.is_training(folder)
        assert [one.state for one in inventory.found()] == ["running"]
        with records.marked_as_training(folder):
            pass  # several may
        going.kill()
    deadline = time.time() + 10
    while records.is_training(folder) and time.time() < deadline:
        time.sleep(0.01)
    assert not records.is_training(folder)
    assert not inventory.found()


# ---- compare


def test_compare_shows_what_differs_and_no_more(acs, results):
    found = json.loads(acs("compare", FULL, CRAIG, "--profile", "smoke", "--json"))
    assert dict(found["parameters"]) == {"run": [FULL, CRAIG], "method": ["full", "craig"]}
    one, two = (records.finished_record(config.resolve(name, "smoke"), 0) for name in (FULL, CRAIG))
    measured = dict(found["results"])
    assert measured["acc"] == [one["metrics"]["acc"], two["metrics"]["acc"]]
    assert measured["seconds_total"] == [one["seconds"]["total"], two["seconds"]["total"]]
    folder = str(results / "smoke" / "runs" / FULL / "seed0")
    same = json.loads(acs("compare", folder, FULL, "--profile", "smoke", "--json"))
    assert same["parameters"] == []
    assert "B - A" in acs("compare", FULL, CRAIG, "--profile", "smoke")


# ---- explain


@pytest.mark.parametrize("name", Setting.model_fields)
def test_every_parameter_is_explained(name, acs):
    found = json.loads(acs("explain", name, "--json"))
    assert found["meaning"].endswith(".")
    assert found["belongs_to"] == owner(name)
    for setting in ("resnet18-trades-cifar10", "resnet50-fastlpa-imagenet12"):
        value = config.setting_layer(setting).get(name)
        assert found["settings"][setting] == json.loads(json.dumps(value))
    text = acs("explain", name)
    assert found["limits"] in text
    assert "a word" not in found["limits"] or name == "classes"


def test_limits_are_those_that_a_value_is_checked_by():
    said = {
        "lr": "a number above 0 up to 1000",
        "beta": "a number from 0",
        "coreset_fraction": "a number above 0 up to 1",
        "momentum": "a number from 0 below 1",
        "batch_size": "a whole number from 2",
        "train_limit": "a whole number from 1 or null",
        "weights": "true or false",
        "norm": "one of linf, l2, lpips",
        "lr_drops": "a list, each a whole number from 1",
        "model": "one of resnet18, resnet34, resnet50, wideresnet28_10",
    }
    assert {name: explain.limits(name) for name in said} == said


def test_who_changes_a_parameter():
    changes = explain.facts("coreset_fraction")["changed_by"]
    assert {"by": "fig4", "where": "vary", "value": [0.4, 0.3, 0.2, 0.1]} in changes
    changes = explain.facts("lr")["changed_by"]
    assert {"by": "profile smoke", "where": "common", "value": 0.1} in changes
    assert {one["where"] for one in changes if one["by"] == "profile demo"} >= {"common"}
    assert explain.facts("lr")["printed"]
    assert any(
        line.startswith("    8/255: ") for line in explain.in_lines(explain.facts("epsilon"))
    )
    assert not explain.facts("momentum")["printed"]


def test_a_profile_does_not_silently_replace_what_ones_own_setting_says(tmp_path, monkeypatch):
    mine = "settings: {mine: {extends: resnet18-linf-cifar10, epsilon: 4/255, beta: 3}}"
    (tmp_path / "settings.yaml").write_text(mine)
    monkeypatch.setenv("ACS_PARAMS", str(tmp_path))
    replaced = explain.replaced(config.resolve("mine.full", "smoke"))
    assert replaced == ["epsilon 4/255, now 0.125"]
    assert explain.replaced(config.resolve("mine.full", "full")) == []
    assert explain.replaced(config.resolve(FULL, "smoke")) == []


@pytest.mark.parametrize("name", ["test", "clean-results", "run", "index"])
def test_an_item_is_not_called_what_make_or_a_notebook_is(name, tmp_path, monkeypatch):
    """`make test` would have trained it, and `make run` not."""
    monkeypatch.setenv("ACS_PARAMS", str(tmp_path))
    (tmp_path / f"{name}.yaml").write_text((ROOT / "examples/sweep.yaml").read_text())
    with pytest.raises(config.ParamsError, match=f"the name '{name}' is taken"):
        paramfiles.item_names()
    (tmp_path / f"{name}.yaml").rename(tmp_path / f"my_{name}.yaml")
    assert f"my_{name}" in paramfiles.item_names()


def test_all_parameters_on_a_line_each(acs):
    lines = acs("explain").splitlines()
    assert [line.split()[0] for line in lines] == list(Setting.model_fields)
    assert json.loads(acs("explain", "--json")) == explain.meanings()


# ---- export


def loaded(folder, *net):
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(*net)


def test_an_exported_network_is_the_trained_one(acs, results, tmp_path, digits):
    paths = acs("export", CRAIG, "--profile", "smoke", "--to", str(tmp_path / "net")).split()
    assert [Path(path).name for path in paths] == ["weights.pt", "model.json", "load.py"]
    trained, _ = runs.load_trained(config.resolve(CRAIG, "smoke"), 0, "cpu", results)
    images = digits.test.float_images(slice(0, 20))
    net = loaded(tmp_path / "net")
    assert not net.training
    assert torch.equal(net(images), trained(images))
    about = json.loads((tmp_path / "net" / "model.json").read_text())
    assert about["run"] == CRAIG
    assert len(about["class_names"]) == 10
    assert about["images"] == {"channels": 1, "height": 8, "width": 8, "range": [0, 1]}
    weights = torch.load(tmp_path / "net" / "weights.pt", weights_only=True)
    assert set(weights) == set(trained.state_dict())


OWN_NETWORKS = """
from torch import nn
from acslib.paper import register
from acslib import models

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 32)  # a name that the adapted network has for another layer
        self.net = nn.Sequential(nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images):
        return self.net(self.head(images.flatten(1)))

def plain(setting, dataset):
    return Net()

def with_features(setting, dataset):
    return models.build("resnet18", channels=1, width=4, depths=(1, 1))

register.model("plain", plain)
register.model("with_features", with_features)
"""


@pytest.mark.parametrize("name", ["plain", "with_features"])
def test_a_network_of_ones_own_is_loaded_as_its_function_makes_it(
    name, acs, results, tmp_path, digits, use_plugins
):
    path = tmp_path / "nets.py"
    path.write_text(OWN_NETWORKS)
    use_plugins(path)
    run = config.resolve(f"{FULL}+model@{name}", "smoke")
    runs.execute(run, 0, "cpu", results)
    acs("export", run.name, "--profile", "smoke", "--to", str(tmp_path / "net"))
    trained, _ = runs.load_trained(run, 0, "cpu", results)
    net = MODELS[name](run.setting, digits)
    assert torch.load(tmp_path / "net" / "weights.pt").keys() == net.state_dict().keys()
    images = digits.test.float_images(slice(0, 20))
    assert torch.equal(loaded(tmp_path / "net", net)(images), trained(images))
    about = json.loads((tmp_path / "net" / "model.json").read_text())
    assert about["build"]["registered_in"] == "nets.py"


@pytest.mark.parametrize("name", export.TORCHVISION)
def test_torchvisions_networks_have_torchvisions_names(name, tmp_path, monkeypatch):
    run = config.resolve(f"resnet34-linf-imagenet100.full+model@{name}", "full")
    torch.manual_seed(0)
    model = models.build(
        name, classes=7, stem="imagenet", statistics=models.CHANNEL_STATISTICS["imagenet100"]
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    assert export.is_torchvisions(run, model)
    about = {"class_names": list("abcdefg"), "images": {"channels": 3}}
    content, how, code = export._parts(run, model, about)
    assert content.keys() == torchvision.models.get_model(name, num_classes=7).state_dict().keys()
    (tmp_path / "weights.pt").write_bytes(export._saved(content))
    (tmp_path / "model.json").write_text(json.dumps({"build": how}))
    (tmp_path / "load.py").write_text(code)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(loaded(tmp_path)(images), model.eval()(images), atol=1e-5)


def test_what_torchvision_has_not_keeps_its_names():
    for change in ("stem@cifar", "width@32", "depths@[1,1]", "model@wideresnet28_10"):
        run = config.resolve(f"resnet34-linf-imagenet100.full+{change}", "full")
        setting = run.setting
        model = models.build(
            setting.model, stem=setting.stem, width=setting.width or 8, depths=setting.depths
        )
        assert not export.is_torchvisions(run, model), change


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "--profile", "smoke", "--profile", "demo"],
        ["run", FULL, "--seed", "1", "--seeds", "2"],
        ["list", "table1", "--profile=smoke", "--profile=smoke"],
    ],
    ids=" ".join,
)
def test_an_option_is_given_once(arguments, capsys):
    assert cli.main(arguments) == 2
    assert "is given twice: give it once" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["ACS_RESULTS", "ACS_PARAMS", "ACS_PLUGINS"])
def test_a_path_of_nobodys_is_refused(variable):
    environment = os.environ | {variable: "~nobody-of-this-name/x"}
    done = subprocess.run(
        [sys.executable, "-m", "acslib.paper", "list", "table1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"{variable} is '~nobody-of-this-name/x', and there is no such user" in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_thing_is_no_several():
    assert printing.counted(1, "test image") == "1 test image"
    assert printing.counted(0, "test image") == "0 test images"
    assert printing.counted(1_281_167, "image") == "1281167 images"
    assert printing.counted(2, "process", "processes") == "2 processes"
