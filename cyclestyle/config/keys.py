"""The dotted keys of the schema: which exist, of what type, with which default, and which one a misspelt key meant."""

from __future__ import annotations

import dataclasses
import difflib
import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclestyle.config.methods import METHOD_CONFIGS, CycleGANConfig
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
    """The dataclass that declares the field."""

    @property
    def field(self) -> str:
        """The last part of the key: the field's name in `owner`."""
        return self.key.rpartition(".")[2]


def method_config(name: object) -> type[CycleGANConfig]:
    """The dataclass of `method.name`'s options."""
    if not isinstance(name, str) or name not in METHOD_CONFIGS:
        raise ConfigError(f"method.name: {name!r} is no method; choose from {', '.join(METHOD_CONFIGS)}")
    return METHOD_CONFIGS[name]


def options_of(method: str = DEFAULT_METHOD) -> dict[str, Option]:
    """Every option by its dotted key, in the schema's order, with the section of this method."""
    return {option.key: option for option in _walk(Config, "", method_config(method))}


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


def _walk(owner: type, prefix: str, method: type) -> list[Option]:
    hints = get_type_hints(owner)
    found: list[Option] = []
    for field in dataclasses.fields(owner):
        key = prefix + field.name
        kind = method if key == "method" else hints[field.name]
        if dataclasses.is_dataclass(kind):
            found += _walk(kind, key + ".", method)
            continue
        # An instance made of defaults alone knows them, whether they stand in the field or come from a factory.
        default = getattr(owner(), field.name)
        found.append(Option(key, kind, default, owner))
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


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def spoken(kind: Any) -> str:
    """A type in words, for messages: "a whole number or null", "one of auto, on, off"."""
    if choices(kind):
        return "one of " + ", ".join(choices(kind))
    if get_origin(kind) is tuple:
        members = get_args(kind)
        if members[-1] is Ellipsis:
            return "a list of mappings such as [{name: ColorJitter, p: 0.3}]"
        return f"a list of {len(members)} numbers such as [0.5, 0.999]"
    return " or ".join(_NAMES[member] for member in alternatives(kind))


# ---------------------------------------------------------------------------------------------------- near misses


def advice_for(key: str, method: str = DEFAULT_METHOD) -> str:
    """What to say after "unknown key": the nearest known key anywhere, else what the key's section holds."""
    near = _nearest(key, [*options_of(method), *filter(None, sections_of(method))])
    if near:
        return f"did you mean {' or '.join(near)}?"
    sections = sections_of(method)
    parent = key.rpartition(".")[0]
    while parent not in sections:
        parent = parent.rpartition(".")[0]
    return f"{parent or 'the config'} has {', '.join(sections[parent])}"


def _nearest(key: str, known: list[str]) -> list[str]:
    def likeness(candidate: str) -> float:
        return difflib.SequenceMatcher(None, key.lower(), candidate).ratio()

    def last(dotted: str) -> str:
        return dotted.rpartition(".")[2].lower()

    word = last(key)
    # The right name in the wrong section, then a misspelt name, then a part of a longer name (lr: generator_lr).
    same = [candidate for candidate in known if last(candidate) == word]
    if same:
        return sorted(same, key=likeness, reverse=True)[: 1 if likeness(max(same, key=likeness)) > 0.8 else 2]
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.75)
    if close:
        return close
    names = difflib.get_close_matches(word, {last(candidate) for candidate in known}, n=1, cutoff=0.75)
    if names:
        return sorted((c for c in known if last(c) == names[0]), key=likeness, reverse=True)[:2]
    return [candidate for candidate in known if word in last(candidate).split("_")][:2]
