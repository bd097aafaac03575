"""The dotted keys of the schema: which exist, of what type, with which default, and which one a misspelt key meant."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclestyle.config.methods import METHODS, MethodConfig
from cyclestyle.config.schema import Config
from cyclestyle.errors import ConfigError

DEFAULT_METHOD = Config().method.name


@dataclass(frozen=True)
class Option:
    """One settable key, as the schema declares it."""

    key: str
    type: Any
    default: Any
    owner: type
    """The dataclass that has the field, its own or inherited."""

    @property
    def field(self) -> str:
        """The last part of the key: the field's name in `owner`."""
        return self.key.rpartition(".")[2]


def method_config(name: object) -> type[MethodConfig]:
    """The dataclass of `method.name`'s options."""
    if not isinstance(name, str) or name not in METHODS:
        settings = "; FastCUT is CUT with the settings of configs/fastcut.yaml" if name == "fastcut" else ""
        raise ConfigError(f"method.name: got {shown(name)}, expected one of {', '.join(METHODS)}{settings}")
    return METHODS[name].options


def options_of(method: str = DEFAULT_METHOD) -> dict[str, Option]:
    """Every option by its dotted key, in the schema's order, with the section of this method."""
    return {option.key: option for option in _walk(Config(method=method_config(method)()), "")}


def sections_of(method: str = DEFAULT_METHOD) -> dict[str, tuple[str, ...]]:
    """Every section's dotted key (the root's is empty) with the names that stand directly in it."""
    sections: dict[str, list[str]] = {}
    for key in options_of(method):
        parts = key.split(".")
        for depth, name in enumerate(parts):
            members = sections.setdefault(".".join(parts[:depth]), [])
            if name not in members:
                members.append(name)
    return {section: tuple(members) for section, members in sections.items()}


def value_of(config: Config, key: str) -> Any:
    """The value of one dotted key."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _walk(section: Any, prefix: str) -> list[Option]:
    """The options below a section, an instance made of defaults alone: it knows them, wherever they were declared."""
    hints = get_type_hints(type(section))
    found: list[Option] = []
    for field in dataclasses.fields(section):
        key, default = prefix + field.name, getattr(section, field.name)
        if dataclasses.is_dataclass(default):
            found += _walk(default, key + ".")
        else:
            found.append(Option(key, hints[field.name], default, type(section)))
    return found


# ---------------------------------------------------------------------------------------------------- types


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types a value may have: the members of a union, or the one type itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def accepts(kind: Any, wanted: type) -> bool:
    """Whether `wanted` is one of the types a value may have."""
    return wanted in alternatives(kind)


def choices(kind: Any) -> tuple[str, ...]:
    """What a Literal allows; empty for other types."""
    return get_args(kind) if get_origin(kind) is Literal else ()


def is_words(kind: Any) -> bool:
    """Whether values are lists of words."""
    return get_origin(kind) is tuple and get_args(kind) == (str, Ellipsis)


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def spoken(kind: Any) -> str:
    """A type in words, for messages: "a whole number or null", "one of auto, on, off"."""
    if choices(kind):
        return "one of " + ", ".join(choices(kind))
    if get_origin(kind) is tuple:
        members = get_args(kind)
        if is_words(kind):
            return "a list of words such as [one, two], also of one: [one]"
        if members[-1] is Ellipsis:
            return "a list of mappings such as [{name: ColorJitter, p: 0.3}]"
        return f"a list of {len(members)} numbers such as [0.5, 0.999]"
    return " or ".join(_NAMES[member] for member in alternatives(kind))


def shown(value: Any) -> str:
    """A value as it would be written in YAML, on one line, with quotes around text."""
    if isinstance(value, bool) or value is None:
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, float):
        text = f"{value:.12g}"
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(inner) for inner in value) + "]"
    else:
        text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


# ---------------------------------------------------------------------------------------------------- near misses


def advice_for(key: str, method: str = DEFAULT_METHOD) -> str:
    """What to say after "unknown key": which method's it is, the nearest known key, else what its section holds."""
    owners = [other for other in METHODS if key in options_of(other)]
    if owners:
        return f"it is an option of method.name={' or '.join(owners)}, and method.name is {method}"
    sections = sections_of(method)
    near = _nearest(key.lower(), list(options_of(method)), [section for section in sections if section])
    if near:
        return f"did you mean {' or '.join(near)}?"
    parent = key.rpartition(".")[0]
    while parent not in sections:
        parent = parent.rpartition(".")[0]
    return f"{parent or 'a config'} has {', '.join(sections[parent])}"


def _nearest(key: str, known: list[str], sections: list[str]) -> list[str]:
    """At most two keys that `key` may have meant, the likeliest first."""

    def likeness(candidate: str) -> float:
        return difflib.SequenceMatcher(None, key, candidate).ratio()

    def called(name: str) -> list[str]:
        found = sorted((k for k in known if k.rpartition(".")[2] == name), key=likeness, reverse=True)
        return [k for k in found if likeness(k) > likeness(found[0]) - 0.1][:2]

    section, _, word = key.rpartition(".")
    names = {k.rpartition(".")[2] for k in known}
    longer = [k for k in known if len(word) > 1 and word in k.rpartition(".")[2].split("_")][:2]
    # The right name in a wrong section, part of a name in the right one (optimizer.lr: optimizer.generator_lr),
    # a misspelt key, a misspelt name, part of a name anywhere.
    return (
        called(word)
        or [k for k in longer if k.rpartition(".")[0] == section]
        or difflib.get_close_matches(key, known if "." in key else known + sections, n=1, cutoff=0.75)
        or [k for name in difflib.get_close_matches(word, names, n=1, cutoff=0.75) for k in called(name)]
        or longer
    )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
