"""What a parameter means, its limits, the paper's value, and who changes it. Needs no torch."""

import re
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from acslib.paper import config, paramfiles, params
from acslib.paper.methods import METHODS
from acslib.paper.settings import REGISTRIES, Setting, choices, given, owner
from acslib.paper.values import LARGEST_NUMBER, MOST_COUNTED

SECTIONS = (*(f"by_{name}" for name in params.IDENTITY), "settings")


def meanings() -> dict[str, str]:
    """Every parameter with its meaning."""
    return {name: str(field.description) for name, field in Setting.model_fields.items()}


def facts(name: str) -> dict[str, Any]:
    """All that is known of a parameter, as JSON has it. Raises ParamsError for an unknown one."""
    params.refuse_unknown("parameter", [name], Setting.model_fields)
    settings = paramfiles.checked_settings().settings
    return {
        "parameter": name,
        "meaning": meanings()[name],
        "limits": limits(name),
        "belongs_to": owner(name),
        "printed": name not in given(paramfiles.checked_settings().defaults),
        "settings": {setting: config.setting_layer(setting).get(name) for setting in settings},
        "changed_by": list(changed_by(name)),
    }


def changed_by(name: str) -> Iterator[dict[str, Any]]:
    """Where profiles give a parameter another value, and which items vary it."""
    for profile in paramfiles.profiles():
        content = paramfiles.own_profile(profile)
        for where, layer in sections(content):
            if name in given(layer):
                yield {"by": f"profile {profile}", "where": where, "value": given(layer)[name]}
    for item in paramfiles.item_names():
        values = [
            given(layer)[name]
            for group in paramfiles.item(item).runs
            for layer in group.vary
            if name in given(layer)
        ]
        if values:
            yield {"by": item, "where": "vary", "value": list(dict.fromkeys(values))}


def sections(content: params.Profile) -> Iterator[tuple[str, Any]]:
    """Where a profile changes parameters, and which."""
    yield "common", content.common
    for section in SECTIONS:
        for key, layer in getattr(content, section).items():
            yield f"{section}, {key}", layer
    for item, limited in content.items.items():
        yield f"items, {item}", limited.vary


# ---- a run at a glance

ESSENTIAL = (
    *("model", "width", "dataset", "objective", "norm", "epsilon", "steps"),
    *("epochs", "batch_size", "lr", "coreset_fraction", "warm_start", "period"),
)


class ShownValue(NamedTuple):
    """A parameter of a run. paper: what the paper has for its setting, "-" for a setting of one's
    own. because: who has changed it, "" where nobody has.
    """

    name: str
    here: str
    paper: str
    because: str
    meaning: str


def at_a_glance(run: config.Run) -> tuple[list[ShownValue], list[ShownValue]]:
    """The parameters that matter most, as far as the run's method knows them; then all others that
    differ from the setting's own.
    """
    selects = METHODS[run.method].selects
    known = [name for name in Setting.model_fields if selects or owner(name) != "coreset"]
    layer = config.setting_layer(run.setting_name)
    profiled = layer | config.profile_layer(run.profile, run.setting_name)
    own, under_profile = (
        config.validated(f"run {run.name}", one).scaled() for one in (layer, profiled)
    )
    printed = given(paramfiles.checked_settings().settings[run.setting_name])

    def value(name: str) -> ShownValue:
        here, usual, by_profile = (
            getattr(setting, name) for setting in (run.setting, own, under_profile)
        )
        because = f"profile {run.profile}" if here == by_profile else "the run's name"
        paper = as_written(name, usual) + (
            ", not printed" if not (usual is None or name in printed) else ""
        )
        return ShownValue(
            name,
            as_written(name, here),
            paper if own.table else "-",
            because if here != usual else "",
            meanings()[name],
        )

    others = [value(name) for name in known if name not in ESSENTIAL]
    return (
        [value(name) for name in ESSENTIAL if name in known],
        [one for one in others if one.because],
    )


def as_written(name: str, value: Any) -> str:
    """A value as the paper writes it; null as what it stands for."""
    if value is None:
        stands_for = re.search(r"null is ([^.;]+)", meanings()[name])
        return stands_for[1] if stands_for else as_yaml(value)
    return as_yaml(value)


def replaced(run: config.Run) -> list[str]:
    """What a setting of one's own says and the profile replaces: "epsilon 4/255, now 0.125"."""
    if config.setting_layer(run.setting_name)["table"] is not None:
        return []
    said = given(paramfiles.checked_settings().settings[run.setting_name])
    profiled = config.profile_layer(run.profile, run.setting_name)
    both = [(name, said[name], profiled[name]) for name in said if name in profiled]
    return [f"{name} {as_yaml(own)}, now {as_yaml(new)}" for name, own, new in both if own != new]


# ---- limits in words


def limits(name: str) -> str:
    """What a parameter may be, in words."""
    if name in REGISTRIES:
        return f"one of {', '.join(choices(name))}"
    field = Setting.model_fields[name]
    return type_in_words(field.annotation, field.metadata)


def type_in_words(annotation: Any, metadata: Sequence[Any]) -> str:
    """A type and its bounds."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_in_words(inner[0], [*metadata, *inner[1:]])
    if origin in (Union, UnionType):
        return " or ".join(type_in_words(one, metadata) for one in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        return f"a list, each {type_in_words(inner[0], [])}"
    kinds = {float: "a number", int: "a whole number", bool: "true or false", NoneType: "null"}
    bounded = limits_of(metadata) if annotation in (float, int) else []
    return " ".join([kinds.get(annotation, "a word"), *bounded])


def limits_of(metadata: Sequence[Any]) -> list[str]:
    """The last bound of each kind counts, which is the narrower one; those that only keep numbers
    finite are left out.
    """
    flat = [
        mark for one in metadata for mark in (one.metadata if isinstance(one, FieldInfo) else [one])
    ]
    found = {}
    for mark in flat:
        for kind, said in (("gt", "above"), ("ge", "from"), ("lt", "below"), ("le", "up to")):
            bound = getattr(mark, kind, None)
            if bound is not None and bound not in (LARGEST_NUMBER, MOST_COUNTED):
                found[kind] = f"{said} {bound:g}"
    return list(found.values())


# ---- for people


def in_lines(found: dict[str, Any]) -> Iterator[str]:
    """What `facts` gives, for people."""
    yield f"{found['parameter']}: {found['meaning']}"
    yield f"  {found['limits']}; belongs to {found['belongs_to']}"
    source = (
        "the paper" if found["printed"] else "ours, as the paper prints none, unless it differs"
    )
    yield f"  value in params/settings.yaml ({source}):"
    by_value: dict[str, list[str]] = {}
    for setting, value in found["settings"].items():
        by_value.setdefault(as_yaml(value), []).append(setting)
    for value, names in by_value.items():
        yield f"    {value}: {', '.join(names) if len(by_value) > 1 else 'all settings'}"
    if found["changed_by"]:
        yield "  changed by:"
    for change in found["changed_by"]:
        yield f"    {change['by']} ({change['where']}): {as_yaml(change['value'])}"


def as_yaml(value: Any) -> str:
    """A value as YAML has it: 8/255, and not 0.0313725."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short, of_255 = f"{value:g}", f"{255 * value:.4g}"
        in_255ths = len(short) > 6 and 0 < value < 1 and float(of_255) / 255 == value
        return f"{of_255}/255" if in_255ths else short
    return f"[{', '.join(map(as_yaml, value))}]" if isinstance(value, list | tuple) else str(value)
