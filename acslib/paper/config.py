"""Strict, typed loading of `params/`: settings (Tables C2 and C3), profiles, tables; and the names
of runs.

A run is `<setting>.<method>` and, where a table varies something, `+<parameter>@<value>` for each
change: `resnet18-trades-cifar10.gradmatch+coreset_fraction@0.3`. The name says everything that,
with the profile and the seed, determines the run, so that tables which need the same run share it.
"""

import contextlib
import difflib
import os
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from acslib import schedule
from acslib.paper.settings import Setting, number

METHODS = ("full", "craig", "gradmatch", "random", "adaptive_random")
FOLDER = Path(os.environ.get("ACS_PARAMS") or Path(__file__).parents[2] / "params")
CORESET_ONLY = {
    "coreset_fraction",
    "period",
    "period_factor",
    "warm_start",
    "schedule",
    "granularity",
    "half_half",
    "selection_steps",
    "selection_batch_size",
    "gradient_layer",
}
# what training does not depend on; `sample` only permits data, which a checkpoint names itself
EVALUATION_ONLY = {
    "evaluation_epsilon",
    "evaluation_step",
    "evaluation_steps",
    "evaluation_restarts",
    "autoattack",
    "autoattack_n",
    "threats_n",
    "threats_effort",
    "sample",
}


LAST_SEED = 2**32 - 1  # numpy's limit


class ParamsError(ValueError):
    """A parameter is unknown, missing, mistyped or out of range."""


class Run(BaseModel):
    """A setting, a method, a profile and what is varied: resolved, checked, and named."""

    model_config = ConfigDict(frozen=True)

    name: str
    setting_name: str
    method: str
    profile: str
    setting: Setting

    @property
    def plan(self) -> schedule.Plan:
        return self.setting.plan(self.method)


class Loader(yaml.SafeLoader):
    """YAML in which a name given twice is an error: of two values the first would be ignored
    without a word.
    """

    def construct_mapping(self, node, deep=False):
        seen = set()
        for name in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if name.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name.value!r} is there twice", name.start_mark
                )
            seen.add(name.value)
        return super().construct_mapping(node, deep)


@cache
def read_yaml(name: str) -> dict:
    """A YAML file of `params/`, by its name without the ending."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise ParamsError(
            f"there is no {path}: {path.parent.name} holds {', '.join(known) or 'no YAML files'}, and"
            " ACS_PARAMS says which folder is read"
        )
    try:
        content = yaml.load(path.read_text(), Loader)
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path} holds a {type(content).__name__}, names with values are needed")
    return content


def profile(name: str, extended_by: tuple[str, ...] = ()) -> dict:
    folder = FOLDER / "profiles"
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in known:
        raise ParamsError(f"there is no profile {name!r}{nearest(name, known)}")
    content = read_yaml(f"profiles/{name}")
    check_profile(f"profile {name}", content)
    if name in extended_by:
        raise ParamsError(f"profile {name} extends itself: name another one, or leave extends out")
    if "extends" in content:
        base = profile(content["extends"], (*extended_by, name))
        content = {
            key: base.get(key, {}) | value if isinstance(value, dict) else value
            for key, value in (base | content).items()
        }
    return content


def check_profile(where: str, content: dict) -> None:
    """Every section and every name in it must be known: a mistyped one would change nothing and say
    nothing.
    """
    refuse_unknown(where, content, PROFILE_SECTIONS)
    paper = {name: setting_layer(name) for name in read_yaml("settings")["settings"]}
    known = {
        f"by_{key}": {layer[key] for layer in paper.values()}
        for key in ("dataset", "model", "objective", "norm")
    }
    known |= {"settings": paper, "items": None, "common": Setting.model_fields}
    for section, names in known.items():
        inside = content.get(section) or {}
        check_kind(f"{where}: {section}", inside, dict, "names with values are")
        refuse_unknown(f"{where}, {section}", inside, sorted(names) if names else inside)
        layers = inside.items() if section.startswith("by_") or section == "settings" else ()
        for name, layer in layers:
            check_kind(f"{where}, {section}: {name}", layer or {}, dict, "names with values are")
            refuse_unknown(f"{where}, {section}, {name}", layer or {}, Setting.model_fields)


def check_kind(where: str, content, kind: type, wanted: str) -> None:
    if not isinstance(content, kind):
        raise ParamsError(f"{where} holds {content!r}, {wanted} needed")


PROFILE_SECTIONS = (
    "about",
    "extends",
    "common",
    "by_dataset",
    "by_model",
    "by_objective",
    "by_norm",
    "settings",
    "items",
)


def resolve(name: str, profile_name: str = "demo", overrides: dict | None = None) -> Run:
    """The run called `name` under a profile, every parameter checked; `overrides` comes last.

    Later wins: the defaults, the setting, the profile (common, then by data set, model, objective
    and norm as the paper has them, then by setting), what the run's name varies. Raises
    ParamsError.
    """
    setting_name, method, varied = parse(name)
    varied = {
        key: value for key, value in varied.items() if method != "full" or key not in CORESET_ONLY
    }
    layer = (
        setting_layer(setting_name)
        | profile_layer(profile_name, setting_name)
        | varied
        | (overrides or {})
    )
    run = Run(
        name=run_name(setting_name, method, varied),
        setting_name=setting_name,
        method=method,
        profile=profile_name,
        setting=validated(f"run {name}, profile {profile_name}", layer).scaled(),
    )
    if method != "full" and not run.plan.selections:
        raise ParamsError(
            f"run {name}, profile {profile_name}: no epoch of {len(run.plan)} selects a coreset with"
            f" warm_start {run.setting.warm_start:g}, period {run.setting.period}, schedule"
            f" {run.setting.schedule}: lower one of the first two"
        )
    return run


def setting_layer(name: str) -> dict:
    content = read_yaml("settings")
    if name not in content["settings"]:
        raise ParamsError(f"there is no setting {name!r}{nearest(name, content['settings'])}")
    return content["defaults"] | content["settings"][name]


def profile_layer(profile_name: str, setting_name: str) -> dict:
    paper, content = setting_layer(setting_name), profile(profile_name)
    chosen = {f"by_{key}": paper[key] for key in ("dataset", "model", "objective", "norm")} | {
        "settings": setting_name
    }
    merged = dict(content.get("common") or {})
    for section, name in chosen.items():
        merged |= (content.get(section) or {}).get(name) or {}
    return merged


def validated(where: str, layer: dict) -> Setting:
    try:
        return Setting(**layer)
    except ValidationError as error:
        raise ParamsError(f"{where}: " + "; ".join(explain(e) for e in error.errors())) from None


def explain(error: dict) -> str:
    """One pydantic error as a sentence with the value, the limit and the way out."""
    name = ".".join(str(part) for part in error["loc"][:1])
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{name} is not a parameter{nearest(name, Setting.model_fields)}"
    if error["type"] == "missing":
        return f"{name} is missing: add it to params/settings.yaml"
    if not name:
        return message
    message = message.removeprefix("Input ")
    return f"{name} is {error['input']!r}, it {message}"


def nearest(name: str, known) -> str:
    """A hint for a mistyped name."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else f": choose one of {', '.join(known)}"


def refuse_unknown(where: str, given, known) -> None:
    for name in given:
        if name not in known:
            raise ParamsError(f"{where}: {name!r} is not known{nearest(name, known)}")


def parse(name: str) -> tuple[str, str, dict]:
    """A run's name, taken apart into setting, method and what is varied."""
    base, *changes = name.split("+")
    setting_name, dot, method = base.rpartition(".")
    if not dot:
        raise ParamsError(
            f"run {name!r} has no method: write <setting>.<method>, methods are {', '.join(METHODS)}"
        )
    if method not in METHODS:
        raise ParamsError(f"run {name!r}: there is no method {method!r}{nearest(method, METHODS)}")
    varied = {}
    for change in changes:
        key, at, value = change.partition("@")
        if not at:
            raise ParamsError(f"run {name!r}: {change!r} must read <parameter>@<value>")
        try:
            varied[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ParamsError(
                f"run {name!r}: {value!r} is no value: write a number, a word or [a,list]"
            ) from None
    refuse_unknown(f"run {name!r}", varied, Setting.model_fields)
    return setting_name, method, varied


def run_name(setting_name: str, method: str, varied: dict | None = None) -> str:
    """The one name of a run; full training knows nothing of coresets, so what varies those is left
    out.
    """
    varied = varied or {}
    kept = {
        key: varied[key] for key in sorted(varied) if method != "full" or key not in CORESET_ONLY
    }
    return f"{setting_name}.{method}" + "".join(
        f"+{key}@{_text(value)}" for key, value in kept.items()
    )


def _text(value) -> str:
    """A value as YAML reads it back, without spaces; 1e-2 and 1/100 are 0.01, so that a run has one
    name.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = number(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list | tuple) else str(value)


def tables() -> list[str]:
    """The tables and figures that are described in `params/`."""
    read_yaml("settings")
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if "runs" in read_yaml(path.stem))


def table_c1(dataset: str, side: int, effort: float = 1.0) -> dict[str, dict]:
    """The attacks of Table C1 for `cifar10` or `imagenet12`: {name: {bound, iterations}}, in the
    paper's order.

    `side` is that of the images at hand: l2 bounds shrink with it. `effort` scales the iterations.
    """
    content = read_yaml("attacks")[dataset]
    suite = {
        name: {key: number(value) for key, value in entry.items()}
        for name, entry in content["attacks"].items()
    }
    suite["autoattack_l2"]["bound"] *= side / content["side"]
    for entry in suite.values():
        if "iterations" in entry:
            entry["iterations"] = max(1, round(entry["iterations"] * effort))
    return suite


def groups(item: str, profile_name: str) -> list[dict]:
    """The groups of runs of a table or figure, each with `settings`, `methods`, `vary` (a list) and
    `columns`.

    A profile's `items` may leave out settings of an item and vary something in all of its runs.
    """
    items, where = profile(profile_name).get("items") or {}, f"profile {profile_name}, items"
    check_kind(where, items, dict, "names with values are")
    refuse_unknown(where, items, tables())
    if item not in tables():
        raise ParamsError(f"there is no table or figure {item!r}{nearest(item, tables())}")
    where, limits = f"{where}, {item}", items.get(item) or {}
    check_kind(where, limits, dict, "names with values are")
    refuse_unknown(where, limits, ("settings", "vary"))
    check_kind(f"{where}: settings", limits.get("settings", []), list, "a list of settings is")
    check_kind(f"{where}: vary", limits.get("vary", {}), dict, "names with values are")
    refuse_unknown(f"{where}, vary", limits.get("vary", {}), Setting.model_fields)
    known = [name for group in read_yaml(item)["runs"] for name in group["settings"]]
    refuse_unknown(where, limits.get("settings", ()), known)
    found = []
    for group in read_yaml(item)["runs"]:
        refuse_unknown(f"params/{item}.yaml", group, ("settings", "methods", "vary", "columns"))
        varied = group.get("vary") or {}
        varied = varied if isinstance(varied, list) else [varied]
        found.append(
            {
                "settings": [
                    name
                    for name in group["settings"]
                    if name in limits.get("settings", group["settings"])
                ],
                "methods": group["methods"],
                "columns": group.get("columns", {}),
                "vary": [limits.get("vary", {}) | changes for changes in varied],
            }
        )
    return found


def table_runs(item: str, profile_name: str) -> list[str]:
    """The names of all runs that a table or figure needs, the full trainings it compares with
    included, each once.
    """
    names: dict[str, None] = {}
    for group in groups(item, profile_name):
        for setting_name in group["settings"]:
            for varied in group["vary"]:
                for method in ("full", *group["methods"]):
                    names[run_name(setting_name, method, varied)] = None
    return list(names)


def check_notebook(given: dict, *known: str) -> None:
    """Refuse a notebook's parameter that the notebook does not know: papermill only warns about
    one.

    `given` is the notebook's `globals()` in its first cell of code after the parameters, `known`
    their names. When the cells are run again in the same kernel, the notebook's own variables are
    there too, and names pass.
    """
    plain = (str, int, float, bool, list, dict, type(None))
    values = {name: value for name, value in given.items() if isinstance(value, plain)}
    names = [name for name in values if not name.startswith("_") and name not in ("In", "Out")]
    if "_parameters_checked" not in given:
        refuse_unknown("notebook parameter", names, known)
    given["_parameters_checked"] = True
    if "profile" in known:
        profile(given["profile"])


def seeds(text: str | int | list[int]) -> list[int]:
    """The seeds in "0 1 2". Raises ParamsError for anything but distinct whole numbers from 0 to
    LAST_SEED.
    """
    words = " ".join(map(str, text)).split() if isinstance(text, list) else str(text).split()
    if not words or not all(
        word.isdecimal() and word.isascii() and int(word) <= LAST_SEED for word in words
    ):
        raise ParamsError(
            f"seeds are {text!r}: write whole numbers from 0 to {LAST_SEED}, separated by spaces, like"
            " '0 1 2'"
        )
    found = [int(word) for word in words]
    if len(set(found)) < len(found):
        raise ParamsError(
            f"seeds are {text!r}: one of them is there twice, and a repeated run is no second one"
        )
    return found


def one_seed(text: str | int) -> int:
    """The same where a single seed is wanted."""
    found = seeds(text)
    if len(found) > 1:
        raise ParamsError(f"seed is {text!r}: give one")
    return found[0]
