"""The YAML files of `params/`, and of the folders of ACS_PARAMS, read and checked."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from acslib.paper import files, params, plugins, strict
from acslib.paper.params import (
    ItemLimits,
    ParamsError,
    Profile,
    checked,
    nearest,
    refuse_unknown,
    shown,
)
from acslib.paper.settings import Layer, given

FOLDER = files.CHECKOUT / "params"  # the paper's; those of ACS_PARAMS come after it


# ---- files


def parameter_folders() -> list[Path]:
    """The folders that YAML files are read from; of two files of one name, the later one counts.

    Raises ParamsError for a folder of ACS_PARAMS that is not there.
    """
    own = []
    for path in files.named_paths("ACS_PARAMS"):
        if not path.is_dir():
            raise ParamsError(f"ACS_PARAMS names the folder {path}, which is not there: correct it")
        own.append(path)
    return [FOLDER, *(path for path in dict.fromkeys(own) if path != FOLDER)]


def files_of(name: str) -> list[Path]:
    """The files that are read for a name such as `table1` or `profiles/demo`.

    It is the last folder's that has one. Settings are read from all folders, so that one's own file
    needs only one's own.
    """
    there = [path for folder in parameter_folders() if (path := folder / f"{name}.yaml").is_file()]
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
        content = strict.load_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path} holds a {type(content).__name__}, names with values are needed")
    return content


def shown_path(path: Path) -> str:
    """A file of parameters as sentences name it."""
    return f"params/{path.relative_to(FOLDER)}" if path.is_relative_to(FOLDER) else str(path)


def _named(pattern: str) -> list[str]:
    """The names of the files of all folders, by a pattern."""
    return sorted({file.stem for folder in parameter_folders() for file in folder.glob(pattern)})


def _state() -> tuple:
    """What a checked file's meaning depends on: all files with their states, what is registered."""
    files = tuple(
        (path, *_stamp(path))
        for folder in parameter_folders()
        for path in (folder, *sorted([*folder.glob("*.yaml"), *folder.glob("profiles/*.yaml")]))
        if path.exists()
    )
    return files, plugins.state()


# ---- settings and profiles


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
    return params.Settings(defaults=Layer(**defaults), settings=settings)


def profiles() -> list[str]:
    """The names of all profiles."""
    return _named("profiles/*.yaml")


def profile(name: str) -> Profile:
    """A profile as its file has it, every section checked whether it is used or not.

    `items` are those of the profile that it extends, too, unless it has its own.
    """
    return lineage(name)[-1]


def extended(name: str) -> list[str]:
    """A profile's name, and those of all that it extends."""
    names: list[str] = []
    following: str | None = name
    while following is not None:
        if following in names:
            raise ParamsError(
                f"profile {following} extends itself: name another one, or leave extends out"
            )
        names.append(following)
        following = own_profile(following).extends
    return names


def lineage(name: str) -> tuple[Profile, ...]:
    """A profile after all that it extends, the first of them first."""
    return _lineage_of(name, _state())


@cache
def _lineage_of(name: str, state: tuple) -> tuple[Profile, ...]:
    found = [own_profile(one) for one in reversed(extended(name))]
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
    refuse_unknown(f"{where}, items", content.items, item_names())
    for item_name, limits in content.items.items():
        known = [name for group in item(item_name).runs for name in group.settings]
        refuse_unknown(f"{where}, items, {item_name}: settings", limits.settings or (), known)
    return content


# ---- tables and figures


def item_names() -> list[str]:
    """The tables and figures that are described in `params/`. Raises ParamsError for one of one's
    own that is called what Make has a target for, or what has a notebook already.
    """
    read_yaml("settings")
    found = [name for name in _named("*.yaml") if name not in params.FILES]
    for name in found:
        if name in _taken():
            raise ParamsError(
                f"{files_of(name)[-1]}: the name {shown(name)} is taken, by make {name} or by"
                f" notebooks/{name}.ipynb: call the file otherwise"
            )
    return found


@cache
def _taken() -> frozenset[str]:
    """What no table or figure may be called: Make's targets, and notebooks that draw none."""
    makefile = (files.CHECKOUT / "Makefile").read_text()
    notebooks = (files.CHECKOUT / "notebooks").glob("*.ipynb")
    targets = re.findall("^([a-z-]+):", makefile, re.MULTILINE)
    return frozenset([*targets, *(path.stem for path in notebooks)])


def of_all() -> list[str]:
    """Those that `make all` makes: not what takes as long as all of them together."""
    return [name for name in item_names() if not item(name).apart]


def item(name: str) -> params.Item:
    """A table or figure as its file describes it."""
    if name in params.BY_THEMSELVES:
        raise ParamsError(f"{name} trains no runs: make {name} makes it, by itself")
    if name not in item_names():
        raise ParamsError(
            f"there is no table or figure {shown(name)}{nearest(name, item_names())}; ACS_PARAMS"
            " names folders with items of one's own"
        )
    return _item_of(name, _state())


@cache
def _item_of(name: str, state: tuple) -> params.Item:
    where = shown_path(files_of(name)[-1])
    found = checked(where, params.Item, read_yaml(name))
    for group in found.runs:
        refuse_unknown(f"{where}: settings", group.settings, checked_settings().settings)
    return found
