"""From `params/` to runs: settings with a profile's numbers over them, tables, names of runs.

A run is `<setting>.<method>` and, where a table varies something, `+<parameter>@<value>` for each
change: `resnet18-trades-cifar10.gradmatch+coreset_fraction@0.3`. The name says everything that,
with the profile and the seed, determines the run, so that tables which need the same run share it.
"""

import contextlib
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from acslib import schedule
from acslib.paper import params, plugins, strict
from acslib.paper.methods import METHODS
from acslib.paper.params import (
    ItemLimits,
    ParamsError,
    Profile,
    checked,
    nearest,
    refuse_unknown,
    short,
    shown,
)
from acslib.paper.settings import Setting, given, number, owner

FOLDER = Path(__file__).parents[2] / "params"  # the paper's; those of ACS_PARAMS come after it
LAST_SEED = 2**32 - 1  # numpy's limit
LONGEST_NAME = 200  # bytes of a folder's name: file systems have 255


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


# ---- files


def folders() -> list[Path]:
    """The folders that YAML files are read from; of two files of one name, the later one counts.

    Raises ParamsError for a folder of ACS_PARAMS that is not there.
    """
    own = []
    for word in filter(None, os.environ.get("ACS_PARAMS", "").split(":")):
        path = Path(word).expanduser().absolute()
        if not path.is_dir():
            raise ParamsError(f"ACS_PARAMS names {word}, and there is no folder {path}: correct it")
        own.append(path)
    return [FOLDER, *(path for path in dict.fromkeys(own) if path != FOLDER)]


def files_of(name: str) -> list[Path]:
    """The files that are read for a name such as `table1` or `profiles/demo`.

    It is the last folder's that has one. Settings are read from all folders, so that one's own file
    needs only one's own.
    """
    there = [path for folder in folders() if (path := folder / f"{name}.yaml").is_file()]
    return there if name == "settings" else there[-1:]


def read_yaml(name: str) -> dict:
    """A YAML file by its name without the ending, as it stands now; of several, the last one."""
    if not FOLDER.is_dir():  # an installed wheel has the method alone
        raise ParamsError(
            "the experiments need a checkout of the project, with its params/ and notebooks/:"
            " clone it and run them there"
        )
    there = files_of(name)
    if not there:
        path = FOLDER / f"{name}.yaml"
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise ParamsError(
            f"there is no {path}: {path.parent.name} holds"
            f" {', '.join(known) or 'no YAML files'}, and ACS_PARAMS says which folders are read"
            " beside it"
        )
    return _read(there[-1], _stamp(there[-1]))


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file: one that is edited while a kernel runs is read again."""
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@cache
def _read(path: Path, stamp: tuple[int, int]) -> dict:
    try:
        content = strict.load(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path} holds a {type(content).__name__}, names with values are needed")
    return content


def _state() -> tuple:
    """What a checked file's meaning depends on: all files with their states, what is registered."""
    files = tuple(
        (path, *_stamp(path))
        for folder in folders()
        for path in (folder, *sorted([*folder.glob("*.yaml"), *folder.glob("profiles/*.yaml")]))
        if path.exists()
    )
    return files, plugins.state()


def checked_settings() -> params.Settings:
    """The settings of all folders; of one name, the last folder's."""
    return _settings_of(_state())


@cache
def _settings_of(state: tuple) -> params.Settings:
    read_yaml("settings")
    defaults: dict[str, Any] = {}
    settings: dict[str, params.SettingLayer] = {}
    for path in files_of("settings"):
        one = checked(shown_path(path), params.Settings, _read(path, _stamp(path)))
        defaults |= given(one.defaults)
        settings |= one.settings
    return params.Settings(defaults=params.Layer(**defaults), settings=settings)


def shown_path(path: Path) -> str:
    """A file of parameters as sentences name it."""
    return f"params/{path.relative_to(FOLDER)}" if path.is_relative_to(FOLDER) else str(path)


def _named(kind: str) -> list[str]:
    """The names of the files of all folders, by a pattern."""
    return sorted({file.stem for folder in folders() for file in folder.glob(kind)})


def profiles() -> list[str]:
    """The names of all profiles."""
    return _named("profiles/*.yaml")


def profile(name: str) -> Profile:
    """A profile as its file has it, every section checked whether it is used or not.

    `items` are those of the profile that it extends, too, unless it has its own.
    """
    return _lineage(name, _state())[-1]


@cache
def _lineage(name: str, state: tuple) -> tuple[Profile, ...]:
    """A profile after all that it extends, the first of them first."""
    found: list[Profile] = []
    names: list[str] = []
    following: str | None = name
    while following is not None:
        if following in names:
            raise ParamsError(
                f"profile {following} extends itself: name another one, or leave extends out"
            )
        names.append(following)
        found.insert(0, own_profile(following))
        following = found[0].extends
    items: dict[str, ItemLimits] = {}
    for position, one in enumerate(found):
        items = items | one.items
        found[position] = one.model_copy(update={"items": items})
    return tuple(found)


def own_profile(name: str) -> Profile:
    """A profile as its file has it, without those that it extends."""
    if name not in profiles():
        raise ParamsError(f"there is no profile {shown(name)}{nearest(name, profiles())}")
    where = f"profile {name}"
    content = checked(where, Profile, read_yaml(f"profiles/{name}"))
    refuse_unknown(f"{where}, settings", content.settings, checked_settings().settings)
    refuse_unknown(f"{where}, items", content.items, tables())
    for item_name, limits in content.items.items():
        known = [name for group in item(item_name).runs for name in group.settings]
        refuse_unknown(f"{where}, items, {item_name}: settings", limits.settings or (), known)
    return content


# ---- settings


def setting_layer(name: str) -> dict[str, Any]:
    """A setting as its file has it, over the one that it extends and the defaults.

    One that extends another is none of the paper's tables, unless it says so.
    """
    content = checked_settings()
    layers: list[dict[str, Any]] = []
    names: list[str] = []
    following: str | None = name
    while following is not None:
        if following in names:
            raise ParamsError(f"setting {following} extends itself: name another one")
        if following not in content.settings:
            known = content.settings
            raise ParamsError(f"there is no setting {shown(following)}{nearest(following, known)}")
        names.append(following)
        layer = given(content.settings[following])
        following = layer.pop("extends", None)
        layers.append(layer)
    merged = given(content.defaults)
    for layer in reversed(layers):
        merged |= layer
    return merged if len(layers) == 1 else merged | {"table": layers[0].get("table")}


def profile_layer(profile_name: str, setting_name: str) -> dict[str, Any]:
    """What a profile lays over a setting: all of the one that it extends, then its own."""
    own = setting_layer(setting_name)
    merged: dict[str, Any] = {}
    for one in _lineage(profile_name, _state()):
        merged |= one.layer(own, setting_name)
    return merged


def validated(where: str, layer: Mapping[str, Any]) -> Setting:
    return checked(where, Setting, layer)


# ---- runs


def resolve(
    name: str, profile_name: str = "demo", overrides: Mapping[str, Any] | None = None
) -> Run:
    """The run called `name` under a profile, every parameter checked; `overrides` comes last.

    Later wins: the defaults, the setting, the profile (see `Profile`), what the run's name varies.
    Raises ParamsError.
    """
    setting_name, method, varied = parse(name)
    where = f"run {short(name)}, profile {profile_name}"
    checked(where, params.Layer, varied)  # what is left out must be right, too
    varied = kept(method, varied)
    layer = setting_layer(setting_name) | profile_layer(profile_name, setting_name)
    setting = validated(where, layer | varied | dict(overrides or {}))
    run = Run(
        name=run_name(setting_name, method, varied),
        setting_name=setting_name,
        method=method,
        profile=profile_name,
        setting=validated(where, setting.scaled().model_dump()),
    )
    if run.setting.norm == "lpips":
        own = setting_layer(setting_name)["dataset"]
        refuse_unknown(f"{where}: Table C1, which lpips is evaluated by,", [own], params.SUITES)
    if method != "full" and not run.plan.selections:
        raise ParamsError(
            f"{where}: no epoch of {len(run.plan)} selects a coreset with warm_start"
            f" {run.setting.warm_start:g}, period {run.setting.period}, schedule"
            f" {run.setting.schedule}: lower one of the first two"
        )
    return run


def parse(name: str) -> tuple[str, str, dict[str, Any]]:
    """A run's name, taken apart into setting, method and what is varied."""
    base, *changes = name.split("+")
    setting_name, dot, method = base.rpartition(".")
    if not dot:
        raise ParamsError(
            f"run {shown(name)} has no method: write <setting>.<method>, methods are"
            f" {', '.join(METHODS)}"
        )
    if method not in METHODS:
        raise ParamsError(
            f"run {shown(name)}: there is no method {shown(method)}{nearest(method, METHODS)};"
            " ACS_PLUGINS names files that register others"
        )
    varied: dict[str, Any] = {}
    for change in changes:
        key, _, value = change.partition("@")
        if not value:
            raise ParamsError(f"run {shown(name)}: {shown(change)} must read <parameter>@<value>")
        if key in varied:
            raise ParamsError(f"run {shown(name)}: {short(key)} is there twice, give it once")
        try:
            varied[key] = strict.load(value)
        except ValueError:
            raise ParamsError(
                f"run {shown(name)}: {shown(value)} is no value: write a number, a word or [a,list]"
            ) from None
    refuse_unknown(f"run {shown(name)}", varied, Setting.model_fields)
    return setting_name, method, varied


def kept(method: str, varied: Mapping[str, Any]) -> dict[str, Any]:
    """Full training knows nothing of coresets, so what varies those is left out."""
    return {
        key: varied[key]
        for key in sorted(varied)
        if METHODS[method].selects or owner(key) != "coreset"
    }


def run_name(setting_name: str, method: str, varied: Mapping[str, Any] | None = None) -> str:
    """The one name of a run, which is a folder's name, too."""
    changes = kept(method, varied or {})
    name = f"{setting_name}.{method}" + "".join(
        f"+{key}@{_text(value)}" for key, value in changes.items()
    )
    if not re.fullmatch(r"[A-Za-z0-9_.,+@\[\]-]+", name) or len(name) > LONGEST_NAME:
        raise ParamsError(
            f"run {shown(name)} cannot be a folder's name: it may have {LONGEST_NAME} letters,"
            " digits and . , _ - [ ]; put the value into a profile"
        )
    return name


def _text(value: Any) -> str:
    """A value as it is read back, without spaces; 1e-2 is 0.01: a run has one name."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = number(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        text = short if float(short) == value else repr(value)
        return text.replace("e+", "e")  # a plus begins the next change
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list | tuple) else str(value)


# ---- tables and figures


def tables() -> list[str]:
    """The tables and figures that are described in `params/`."""
    read_yaml("settings")
    return [name for name in _named("*.yaml") if name not in params.FILES]


def of_all() -> list[str]:
    """Those that `make all` makes: not what takes as long as all of them together."""
    return [name for name in tables() if not item(name).apart]


def item(name: str) -> params.Item:
    """A table or figure as its file describes it."""
    if name not in tables():
        raise ParamsError(
            f"there is no table or figure {shown(name)}{nearest(name, tables())}; ACS_PARAMS names"
            " folders with items of one's own"
        )
    return _item_of(name, _state())


@cache
def _item_of(name: str, state: tuple) -> params.Item:
    where = shown_path(files_of(name)[-1])
    found = checked(where, params.Item, read_yaml(name))
    for group in found.runs:
        refuse_unknown(f"{where}: settings", group.settings, checked_settings().settings)
    return found


def groups(item_name: str, profile_name: str) -> list[dict[str, Any]]:
    """The groups of runs of a table or figure: `settings`, `methods`, `vary` (a list), `columns`.

    A profile's `items` may leave out settings of an item and vary something in all of its runs.
    A method of one's own that names the item is in every group that has gradmatch.
    """
    described = item(item_name)
    own = registered_for(item_name)
    limits = profile(profile_name).items.get(item_name, ItemLimits())
    return [
        {
            "settings": [
                name
                for name in group.settings
                if limits.settings is None or name in limits.settings
            ],
            "methods": list(
                dict.fromkeys([*group.methods, *(own if "gradmatch" in group.methods else [])])
            ),
            "columns": dict(group.columns),
            "vary": [given(limits.vary) | given(layer) for layer in group.vary],
        }
        for group in described.runs
    ]


def registered_for(item_name: str) -> list[str]:
    """The methods of one's own that are to be in a table or figure, though its file names none."""
    for method in METHODS.values():
        refuse_unknown(f"method {method.name!r}, items", method.items, tables())
    return [method.name for method in METHODS.values() if item_name in method.items]


def table_runs(item_name: str, profile_name: str) -> list[str]:
    """The names of all runs that a table or figure needs, with the full trainings, each once."""
    names: dict[str, None] = {}
    for group in groups(item_name, profile_name):
        for setting_name in group["settings"]:
            for varied in group["vary"]:
                for method in ("full", *group["methods"]):
                    names[run_name(setting_name, method, varied)] = None
    return list(names)


def by_itself(item_name: str, profile_name: str) -> dict[str, Any]:
    """The numbers of an item that trains no runs, as params/theorem1.yaml, for a profile, or for
    the one that it extends.
    """
    where = f"params/{item_name}.yaml"
    content: Any = checked(where, params.FILES[item_name], read_yaml(item_name))
    profile(profile_name)
    name: str | None = profile_name
    while name is not None:
        if name in content.profiles:
            return content.common.model_dump() | content.profiles[name].model_dump()
        name = profile(name).extends
    raise ParamsError(f"{where} has no profile {shown(profile_name)}: add it under profiles there")


# ---- what a notebook or a command line is given


def seeds(text: str | int | list[int]) -> list[int]:
    """The seeds in "0 1 2". Raises ParamsError for anything but distinct whole numbers from 0 to
    LAST_SEED, written as such: 007 would be a second name of 7.
    """
    words = " ".join(map(str, text)).split() if isinstance(text, list) else str(text).split()
    written = [re.fullmatch("0|[1-9][0-9]{0,9}", word) for word in words]
    if not words or not all(written) or any(int(word) > LAST_SEED for word in words):
        raise ParamsError(
            f"seeds are {shown(text)}: write whole numbers from 0 to {LAST_SEED}, separated by"
            " spaces, like '0 1 2'"
        )
    found = [int(word) for word in words]
    if len(set(found)) < len(found):
        raise ParamsError(
            f"seeds are {shown(text)}: one of them is there twice, and a repeated run is no second"
            " one"
        )
    return found


def one_seed(text: str | int) -> int:
    """The same where a single seed is wanted."""
    found = seeds(text)
    if len(found) > 1:
        raise ParamsError(f"seed is {shown(text)}: give one")
    return found[0]
