"""From names to runs: settings with a profile's numbers over them, resolved and checked.

A run is `<setting>.<method>` and, where a table varies something, `+<parameter>@<value>` for each
change: `resnet18-trades-cifar10.gradmatch+coreset_fraction@0.3`. The name says everything that,
with the profile and the seed, determines the run, so that tables which need the same run share it.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from acslib import schedule
from acslib.paper import paramfiles, params, strict
from acslib.paper.methods import METHODS
from acslib.paper.params import ParamsError, checked, nearest, refuse_unknown, short, shown
from acslib.paper.settings import Layer, Setting, given, owner
from acslib.paper.values import number

LAST_SEED = 2**32 - 1  # numpy's limit
LONGEST_NAME = 200  # bytes of a folder's name: file systems have 255


class Run(BaseModel):
    """A setting, a method, a profile and what is varied: resolved, checked, and named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Setting, method and what is varied: a folder's name, too.")
    setting_name: str = Field(description="The setting's name in params/settings.yaml.")
    method: str = Field(description="The method's name in `METHODS`.")
    profile: str = Field(description="The profile whose numbers are laid over the setting's.")
    setting: Setting = Field(description="All parameters, in the units of `Setting`.")

    @property
    def plan(self) -> schedule.Plan:
        return self.setting.plan(self.method)


# ---- settings


def setting_layer(name: str) -> dict[str, Any]:
    """A setting as its file has it, over the one that it extends and the defaults.

    One that extends another is none of the paper's tables, unless it says so.
    """
    content = paramfiles.checked_settings()
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
    for one in paramfiles.lineage(profile_name):
        merged |= one.layer(own, setting_name)
    return merged


def validated(where: str, layer: Mapping[str, Any]) -> Setting:
    """A whole setting from its parameters. Raises ParamsError, which says `where`."""
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
    checked(where, Layer, varied)  # what is left out must be right, too
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
            varied[key] = strict.load_yaml(value)
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
