"""Tables and figures: the runs that each of them needs."""

from collections.abc import Sequence
from typing import Any

from acslib.paper import config, paramfiles, params
from acslib.paper.methods import METHODS
from acslib.paper.params import ItemLimits, ParamsError, checked, refuse_unknown, shown
from acslib.paper.settings import given

# what they draw or ask is about certain methods, so that another one would not be in it
OF_CERTAIN_METHODS = ("fig1", "fig2", "life", "study")


def groups(item_name: str, profile_name: str) -> list[dict[str, Any]]:
    """The groups of runs of a table or figure: `settings`, `methods`, `vary` (a list), `columns`.

    A profile's `items` may leave out settings of an item and vary something in all of its runs.
    A method of one's own that names the item is in every group that has gradmatch.
    """
    described = paramfiles.item(item_name)
    own = registered_for(item_name)
    limits = paramfiles.profile(profile_name).items.get(item_name, ItemLimits())
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
    """The methods of one's own that are to be in a table or figure, though its file names none.

    Raises ParamsError for an item that is not there or takes none.
    """
    known = [name for name in paramfiles.item_names() if name not in OF_CERTAIN_METHODS]
    for method in METHODS.values():
        where = f"method {method.name!r}, items"
        if fixed := [name for name in method.items if name in OF_CERTAIN_METHODS]:
            raise ParamsError(
                f"{where}: {fixed[0]} is about certain methods and takes no other: leave it out, or"
                " describe an item of your own in a folder of ACS_PARAMS"
            )
        refuse_unknown(where, method.items, known)
    return [method.name for method in METHODS.values() if item_name in method.items]


def table_runs(item_name: str, profile_name: str) -> list[str]:
    """The names of all runs that a table or figure needs, with the full trainings, each once."""
    names: dict[str, None] = {}
    for group in groups(item_name, profile_name):
        for setting_name in group["settings"]:
            for varied in group["vary"]:
                for method in ("full", *group["methods"]):
                    names[config.run_name(setting_name, method, varied)] = None
    return list(names)


def wanted_seeds(item_name: str, profile_name: str, asked: Sequence[int] | None) -> list[int]:
    """Those that are asked for, or as many as the profile has of a table or figure."""
    if asked is not None:
        return list(asked)
    limits = paramfiles.profile(profile_name).items.get(item_name, ItemLimits())
    return list(range(limits.seeds))


def by_itself(item_name: str, profile_name: str) -> dict[str, Any]:
    """The numbers of an item that trains no runs, as params/theorem1.yaml, for a profile, or for
    the one that it extends.
    """
    where = f"params/{item_name}.yaml"
    content: Any = checked(where, params.FILES[item_name], paramfiles.read_yaml(item_name))
    paramfiles.profile(profile_name)
    name: str | None = profile_name
    while name is not None:
        if name in content.profiles:
            return content.common.model_dump() | content.profiles[name].model_dump()
        name = paramfiles.profile(name).extends
    raise ParamsError(f"{where} has no profile {shown(profile_name)}: add it under profiles there")
