"""YAML in which a value is what a person reads, and a name is given once.

PyYAML reads YAML 1.1, in which 030 is 24, 1:30 is 90, 1_0 is 10 and `no` is false. Here plain words
are numbers, true, false or null as in YAML 1.2's core schema, without its 0x10, 0o17 and leading
zeros; everything else is text, and whoever wants a number refuses it.
"""

import re
from typing import Any, ClassVar

import yaml

from acslib.paper.values import DECIMAL, number

TAG = "tag:yaml.org,2002:"
VALUES_AT_MOST = 100_000
CONSTRUCTED = ("map", "seq", "str", "null", "bool", "int", "float")


class Loader(yaml.SafeLoader):
    """Raises YAMLError where a mapping has a name twice: the first value would be ignored."""

    yaml_implicit_resolvers: ClassVar[dict] = {}
    yaml_constructors: ClassVar[dict] = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in [TAG + kind for kind in CONSTRUCTED]
    }

    def compose_mapping_node(self, anchor):
        # before aliases are merged: what a mapping takes over from another one, it may replace
        node = super().compose_mapping_node(anchor)
        seen = set()
        for name, mark in names(node):
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r:.200} is there twice", mark
                )
            seen.add(name)
        for key, value in node.value:
            if key.tag == f"{TAG}merge" and isinstance(value, yaml.SequenceNode):
                self.refuse_repeated(value, key.start_mark)
        return node

    def refuse_repeated(self, several: yaml.SequenceNode, mark) -> None:
        """`<<: [*a, *b]` where both give a name."""
        merged = [name for node in several.value for name, _ in names(node)]
        for name in merged:
            if merged.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r:.200} is merged twice", mark
                )


def names(node: yaml.Node) -> list[tuple[str, Any]]:
    """The names that a mapping gives, and where they stand."""
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    return [(key.value, key.start_mark) for key in keys]


def to_number(loader: Loader, node: yaml.ScalarNode) -> Any:
    if re.fullmatch(r"[-+]?[0-9]+", node.value):
        return int(node.value)
    try:
        return number(node.value)
    except ValueError:
        return node.value  # 1e400, which is refused with its name and as it was written


for kind, pattern, first in (
    ("merge", "<<", "<"),
    ("null", "~|null|Null|NULL", "~nN"),
    ("null", "", [""]),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?(?:0|[1-9][0-9]{0,30})", "-+0123456789"),
    ("float", f"[-+]?{DECIMAL}", "-+.0123456789"),
):
    Loader.add_implicit_resolver(TAG + kind, re.compile(rf"(?:{pattern})\Z"), list(first))
for kind in ("int", "float"):
    Loader.add_constructor(TAG + kind, to_number)


def size(content: Any, known: dict[int, int]) -> int:
    """How many values there are, aliases followed; `known` holds what has been counted."""
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        known[id(content)] = 1  # while it is counted: what holds itself is shown as [...] there
        parts = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(size(part, known) for part in parts)
    return known[id(content)]


def load_yaml(text: str) -> Any:
    """A YAML document. Raises ValueError, which says what is wrong and where, on one line."""
    try:
        content = yaml.load(text, Loader)
        if size(content, {}) > VALUES_AT_MOST:
            raise ValueError(f"it has more than {VALUES_AT_MOST} values, when aliases are followed")
        return content
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split()).replace(' in "<unicode string>",', ",")
        raise ValueError(said if len(said) <= 600 else f"{said[:600]}...") from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
