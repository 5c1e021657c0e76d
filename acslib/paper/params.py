"""What the YAML files of `params/` hold, each as a model, and their mistakes as sentences."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from acslib.paper import plugins
from acslib.paper.files import Refusal
from acslib.paper.methods import METHODS
from acslib.paper.settings import Layer, Setting, choices, given
from acslib.paper.values import Count, Flag, Name, Names, Part, Positive, Seeds

IDENTITY = ("dataset", "model", "objective", "norm")  # what a setting is, and has its name from
SHOWN = 200  # characters of a value in a sentence


class ParamsError(Refusal):
    """A parameter is unknown, missing, mistyped or out of range."""


def _nothing_is_empty(value: Any) -> Any:
    """`common:` with nothing under it."""
    return {} if value is None else value


class Section(BaseModel):
    """What a YAML file or a part of it holds; what it has no name for is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Values = Annotated[Layer, BeforeValidator(_nothing_is_empty)]


class SettingLayer(Layer):
    """A column of Tables C2 and C3, or a setting of one's own."""

    extends: Name | None = Field(default=None, description="The setting that this one changes.")


Column = Annotated[SettingLayer, BeforeValidator(_nothing_is_empty)]


class Settings(Section):
    """params/settings.yaml: Tables C2 and C3."""

    defaults: Values = Field(
        default=Layer(), description="What the paper does not print, for every setting."
    )
    settings: dict[Annotated[Name, Field(pattern=r"^[A-Za-z0-9_.-]+$")], Column] = Field(
        default={}, description="One column each, by name."
    )


class ItemLimits(Section):
    """What a profile runs of a table or figure."""

    settings: Names | None = Field(default=None, description="Only these settings; by default all.")
    vary: Values = Field(default=Layer(), description="What is changed in all of its runs.")
    seeds: Seeds = Field(default=1, description="How many, from 0 on, unless others are asked for.")


class Profile(Section):
    """params/profiles/<name>.yaml: numbers laid over the paper's.

    Later sections win: `common`, then by data set, model, objective and norm as the paper has
    them, then by setting. Whoever extends a profile wins over all of it.
    """

    about: Name = Field(default="", description="One sentence for tables and notebooks.")
    extends: Name | None = Field(default=None, description="The profile that this one changes.")
    common: Values = Field(default=Layer(), description="For every setting.")
    by_dataset: dict[Name, Values] = Field(default={}, description="By the setting's own data set.")
    by_model: dict[Name, Values] = Field(default={}, description="By the setting's own network.")
    by_objective: dict[Name, Values] = Field(
        default={}, description="By the setting's own objective."
    )
    by_norm: dict[Name, Values] = Field(default={}, description="By the setting's own norm.")
    settings: dict[Name, Values] = Field(default={}, description="By the setting's name.")
    items: dict[Name, Annotated[ItemLimits, BeforeValidator(_nothing_is_empty)]] = Field(
        default={}, description="What is run of a table or figure."
    )

    @model_validator(mode="before")
    @classmethod
    def sections(cls, content: Any) -> Any:
        """A section with nothing under it is as good as none."""
        if isinstance(content, dict):
            content = {name: value for name, value in content.items() if value is not None}
        return content

    @model_validator(mode="after")
    def known(self):
        for name in IDENTITY:
            layers = getattr(self, f"by_{name}")
            refuse_unknown(f"by_{name}", layers, choices(name))
            self.keeps_what_a_setting_is("common", self.common, ())
            for key, layer in layers.items():
                self.keeps_what_a_setting_is(f"by_{name}, {key}", layer, (name,))
        return self

    def keeps_what_a_setting_is(self, where: str, layer: BaseModel, may: Iterable[str]) -> None:
        """A setting whose data set nobody has thought of must not be run on another one."""
        for name in given(layer):
            if name in IDENTITY and name not in may:
                raise ValueError(
                    f"{where}: {name} says what a setting is, and would change settings that"
                    f" nobody named: put it under by_{name} or settings"
                )

    def layer(self, own: Mapping[str, Any], setting_name: str) -> dict[str, Any]:
        """What this profile lays over a setting, which by itself is `own`."""
        merged = given(self.common)
        for name in IDENTITY:
            merged |= given(getattr(self, f"by_{name}").get(own.get(name)))
        return merged | given(self.settings.get(setting_name))


class Group(Section):
    """Runs of a table or figure: all of its settings by all of its methods by all that varies."""

    settings: Names = Field(min_length=1, description="The settings' names.")
    methods: Names = Field(min_length=1, description="The methods' names.")
    vary: tuple[Values, ...] = Field(
        default=(Layer(),), min_length=1, description="Changes, one a run."
    )
    columns: dict[Name, str | int | float] = Field(
        default={}, description="Columns of the CSV's rows."
    )

    @model_validator(mode="before")
    @classmethod
    def one_change(cls, content: Any) -> Any:
        """`vary: {steps: 1}` is as good as a list with that alone."""
        if isinstance(content, dict) and not isinstance(content.get("vary", []), list):
            content = content | {"vary": [content["vary"]]}
        return content

    @model_validator(mode="after")
    def known(self):
        refuse_unknown("methods", self.methods, METHODS)
        changes = [given(layer) for layer in self.vary]
        for change in changes:
            if changes.count(change) > 1:
                raise ValueError(f"vary has {change} twice: leave one out")
        return self


class Design(Section):
    """What is fixed before a study is run. An arm is the value of `columns: {arm: ...}`."""

    reference: Name = Field(description="The arm that the others are compared with.")
    chance: Name = Field(description="The reference with other draws.")
    verdict: Name = Field(description="The arm that is asked about.")
    at_least: Annotated[Count, Field(ge=2)] = Field(description="Seeds, at least so many.")
    half_width: dict[Literal["linf", "trades"], Positive] = Field(
        description="Of the 95 % interval, in points; seeds are added until it is reached."
    )


class Item(Section):
    """params/<table or figure>.yaml."""

    title: Name = Field(description="As the paper has it, shortened.")
    runs: tuple[Group, ...] = Field(min_length=1, description="What is trained for it.")
    design: Design | None = Field(default=None, description="Of a study.")
    apart: Flag = Field(default=False, description="Not among what `make all` makes.")

    @model_validator(mode="after")
    def arms(self):
        if self.design is not None:
            known = [str(group.columns.get("arm")) for group in self.runs]
            for name in (self.design.reference, self.design.chance, self.design.verdict):
                refuse_unknown("design", [name], known)
        return self


class AttackNumbers(Section):
    """One attack of Table C1."""

    bound: Positive = Field(description="Its epsilon, in the units that the paper prints.")
    iterations: Count | None = Field(
        default=None, description="Steps; null for AutoAttack, which has its own."
    )


class Suite(Section):
    """The attacks of Table C1 for one data set."""

    side: Count = Field(description="Side in pixels of the images that l2 bounds are for.")
    attacks: dict[
        Literal["autoattack_l2", "autoattack_linf", "jpeg", "stadv", "recolor", "ppgd", "lpa"],
        AttackNumbers,
    ] = Field(description="In the paper's order.")


class Attacks(Section):
    """params/attacks.yaml: Table C1."""

    cifar10: Suite = Field(description="For CIFAR-10.")
    imagenet12: Suite = Field(description="For ImageNet-12.")


SUITES = tuple(Attacks.model_fields)

Balls = dict[Literal["linf", "l2"], Positive]


class Theorem1Common(Section):
    """What params/theorem1.yaml has for every profile."""

    epsilon: Balls = Field(
        description="The attack's bound by norm, in units of an image, whose norm is at most 1."
    )
    radius: Balls = Field(
        description="l2 radius of the ball that theta is kept in, part (1), by the attack's norm."
    )
    strongly_convex_radius: Positive = Field(description="The same, part (2), for either norm.")
    mu: Positive = Field(description="Strong convexity, part (2), in loss per squared theta.")
    fraction: Part = Field(
        description="Size of the coresets where iterations vary, a share of the samples."
    )


class Theorem1Profile(Section):
    """What it has for one."""

    fractions: tuple[Part, ...] = Field(
        min_length=1, description="Sizes of coresets, as shares of the samples."
    )
    iterations: tuple[Count, ...] = Field(
        min_length=1, description="Lengths of gradient descent, in steps."
    )


class Theorem1(Section):
    """params/theorem1.yaml."""

    title: Name = Field(description="As the paper has it, shortened.")
    common: Theorem1Common = Field(description="For every profile.")
    profiles: dict[Name, Theorem1Profile] = Field(description="By profile.")


class TimeCommon(Section):
    """What params/time.yaml has for every profile."""

    selection_steps: tuple[Count, ...] = Field(
        min_length=1, description="Of the attack on the images to select from."
    )


class TimeProfile(Section):
    """What it has for one."""

    images: Annotated[Count, Field(ge=2)] = Field(description="A batch, which is all there is.")
    rounds: Count = Field(description="How many times each part is timed; the median counts.")


class Time(Section):
    """params/time.yaml."""

    title: Name = Field(description="What it shows, in a line.")
    common: TimeCommon = Field(description="For every profile.")
    profiles: dict[Name, TimeProfile] = Field(description="By profile.")


FILES: dict[str, type[Section]] = {
    "settings": Settings,
    "attacks": Attacks,
    "theorem1": Theorem1,
    "time": Time,
}
BY_THEMSELVES = ("theorem1", "time")  # items that train no runs: a notebook makes each whole


# ---- mistakes as sentences

Checked = TypeVar("Checked", bound=BaseModel)


def checked(where: str, model: type[Checked], content: Any) -> Checked:
    """`content` as a model. Raises ParamsError, a sentence with all that is wrong with it."""
    plugins.load_files()  # what is wrong with them is not wrong with this
    try:
        return model.model_validate(content)
    except ValidationError as error:
        mistakes = [one for one in error.errors() if not _emptied(one, error.errors())]
        said = dict.fromkeys(in_a_sentence(where, model, mistake) for mistake in mistakes)
        raise ParamsError("; ".join(said)) from None


def _emptied(mistake: Any, others: Sequence[Any]) -> bool:
    """Whether a list is too short only because of mistakes inside of it."""
    path = mistake["loc"]
    inside = any(one["loc"][: len(path)] == path and one["loc"] != path for one in others)
    return mistake["type"] == "too_short" and inside


def in_a_sentence(where: str, model: type[BaseModel], mistake: Any) -> str:
    """One pydantic error as a sentence with the place, the value, the limit and the way out."""
    kind, path, value = mistake["type"], mistake["loc"], shown(mistake["input"])
    missing = kind in ("extra_forbidden", "missing") or path[-1:] == ("[key]",)
    holder, depth = _holder(model, path[:-1] if missing else path)
    place, rest = ", ".join([where, *map(str, path[:depth])]), path[depth:]
    name = str(rest[0]) if rest else ""
    if kind == "extra_forbidden":
        said = (
            f"{short(name)} is not a parameter"
            if holder is Setting
            else f"{shown(name)} is not known"
        )
        return f"{place}: {said}{nearest(name, holder.model_fields)}"
    if kind == "missing":
        own = ", or in your own have the setting extend another one"
        file = f" to params/settings.yaml{own}" if holder is Setting else ""
        return f"{place}: {name} is missing: add it{file}"
    if kind == "string_type" and not isinstance(mistake["input"], list | dict):
        return f"{place}: {value} is no name as YAML reads it: write it in quotes"
    if name == "[key]":
        known = re.findall("'([^']*)'", mistake["msg"]) if kind == "literal_error" else []
        return f"{place}: {value} is not known{nearest(mistake['input'], known) if known else ''}"
    if kind in ("model_type", "dict_type", "mapping_type"):
        return f"{place}{': ' * bool(name)}{name} holds {value}, names with values are needed"
    if kind == "tuple_type":
        return f"{place}: {name} holds {value}, a list of {name} is needed"
    if kind == "bool_type":
        return f"{place}: {name} is {value}, it must be true or false"
    message = mistake["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = re.sub(r"^\w+ (should have .*) after validation.*", r"\1", message)
    message = re.sub(r"[0-9]{12,}", lambda digits: f"{float(digits[0]):g}", message)
    if kind == "int_parsing_size":
        message = "is too large"
    return f"{place}: {name} is {value}, it {message}" if name else f"{place}: {message}"


def _holder(model: type[BaseModel], path: tuple) -> tuple[type[BaseModel], int]:
    """The innermost model that a path leads into, and how many of its parts lead there."""
    depth = 0
    for position, part in enumerate(path, 1):
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field is not None:
            inner = _model_in(field.annotation)
            if inner is None:
                break
            model = inner
        depth = position  # where there is no such field, it is a key or an index on the way
    return model, depth


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in a type such as dict[str, Model]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def shown(value: Any) -> str:
    """A value as sentences quote it."""
    return short(repr(value))


def short(text: str) -> str:
    """The beginning of a text that somebody else wrote, so that a sentence stays one."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def nearest(name: object, known: Collection[str]) -> str:
    """A hint for a mistyped name."""
    lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(str(name).lower(), list(lower), n=1)
    if close:
        return f": did you mean {lower[close[0]]!r}?"
    return f": choose one of {', '.join(known)}" if known else ": there is none"


def refuse_unknown(where: str, given: Iterable[object], known: Collection[str]) -> None:
    """Raise ParamsError for the first name that is not known, with the nearest that is."""
    for name in given:
        if name not in known:
            raise ParamsError(f"{where}: {shown(name)} is not known{nearest(name, known)}")
