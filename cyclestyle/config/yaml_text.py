"""YAML in and out: plain data only, never code; duplicate keys, syntax errors and odd files refused in one line.

Scalars follow YAML 1.2's core: only true and false are booleans (`cache: on` stays text), `2e-4` is a number, and
neither `010` nor `2024_01` nor `2024-01-01` is. A file may come from anywhere: its length, its depth, and what its
aliases unfold to are bounded before anything is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from cyclestyle.errors import ConfigError

LONGEST = 2**16
"""Bytes of a YAML file; the largest config written by hand has a few thousand."""
DEEPEST = 20
"""Levels of mappings and lists; `data.augment`, the deepest option, needs 5."""
MOST_VALUES = 20_000
"""Values, those counted twice that an alias repeats: ten lines of aliases can stand for billions."""
LARGEST_INTEGER = 2**63 - 1

_CORE_SCALARS = (
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own class attribute, replaced on purpose)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_TOO_LONG = f"longer than {LONGEST // 1024} KiB, which no config is"
_TOO_DEEP = "nested too deeply, or an alias (*) that contains itself"
_FORMS = {tag: re.compile(rf"(?:{pattern})$") for tag, pattern, _ in _CORE_SCALARS}
_TEXT, _LIST, _MAPPING = (f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map"))
for _tag, _, _first in _CORE_SCALARS:
    _Loader.add_implicit_resolver(_tag, _FORMS[_tag], ["" if letter == "\0" else letter for letter in _first])
    # The writer keeps YAML 1.1's rules beside ours: it quotes what any reader might take for something but text.
    _Dumper.add_implicit_resolver(_tag, _FORMS[_tag], ["" if letter == "\0" else letter for letter in _first])


def read_yaml(text: str, source: str) -> tuple[Any, dict[str, int]]:
    """The plain data in `text` and the line (from 1) of each dotted key; `source` names the text in errors."""
    if len(text) > LONGEST:
        raise ConfigError(f"{source}: {_TOO_LONG}")
    try:
        loader = _Loader(text)  # looks for forbidden characters already
        try:
            node = loader.get_single_node()
            lines: dict[str, int] = {}
            _Walk(source).visit(node, "", lines)
            return (None if node is None else loader.construct_document(node)), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}, line {mark.line + 1}" if mark else source
        raise ConfigError(f"{place}: no valid YAML: {_cut(str(error.problem or error.context))}") from error
    except (yaml.YAMLError, ValueError) as error:  # characters that YAML does not allow
        raise ConfigError(f"{source}: no valid YAML: {_cut(str(error).splitlines()[0])}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: {_TOO_DEEP}") from error


def read_yaml_file(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file and the line of each dotted key; an empty file is an empty mapping."""
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST + 1)  # no more than is needed to refuse it: it may be a disk
        text = "" if len(data) > LONGEST else data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file; --config needs an existing .yaml file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8, so no YAML") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > LONGEST:
        raise ConfigError(f"{path}: {_TOO_LONG}")
    values, lines = read_yaml(text, str(path))
    if values is None:
        return {}, lines
    if not isinstance(values, Mapping):
        kind = "list" if isinstance(values, list) else "single value"
        raise ConfigError(f"{path}: holds a {kind}, but a config is a mapping of keys to values (train: ...)")
    return dict(values), lines


def plain_data(value: Any) -> Any:
    """Mappings, sequences and paths as dicts, lists and strings, all the way down.

    Raises:
        ConfigError: other things than numbers and text, or deeper or more of them than a config has: one from a
            checkpoint may come from anywhere, contain itself or name one list a million times.
    """
    num_left = MOST_VALUES

    def copied(value: Any, depth: int) -> Any:
        nonlocal num_left
        num_left -= 1
        if num_left < 0 or depth > DEEPEST:
            raise ConfigError("the config is nested more deeply, or holds more values, than any is")
        if isinstance(value, Mapping):
            return {_key(key): copied(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [copied(inner, depth + 1) for inner in value]
        if isinstance(value, PurePath):
            return str(value)
        if not (value is None or isinstance(value, (str, float)) or _is_small(value)):
            raise ConfigError(f"the config holds {_kind(value)}, but needed are numbers and text")
        return value

    return copied(value, 0)


def _key(name: object) -> str:
    return str(name) if name is None or isinstance(name, (str, float)) or _is_small(name) else _kind(name)


def _is_small(value: object) -> bool:
    return isinstance(value, int) and abs(value) <= LARGEST_INTEGER


def _kind(value: object) -> str:
    return "a huge number" if isinstance(value, int) else f"a {type(value).__name__}"


def write_yaml(data: Mapping[str, Any]) -> str:
    """`data` as YAML that `read_yaml` reads back to the same."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _cut(text: str) -> str:
    """For messages, whatever a file is made of."""
    return text if len(text) <= 200 else text[:197] + "..."


class _Walk:
    """Goes through the parsed text as its aliases unfold, before anything is made of it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._num_left = MOST_VALUES

    def visit(self, node: yaml.Node | None, prefix: str, lines: dict[str, int], depth: int = 0) -> None:
        """Remember where each key stands; refuse a key given twice (PyYAML keeps the last) and all but plain data."""
        self._num_left -= 1
        if depth > DEEPEST:
            raise ConfigError(f"{self._source}: {_TOO_DEEP}")
        if self._num_left < 0:
            raise ConfigError(f"{self._source}: stands for more than {MOST_VALUES} values; no config has so many")
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            self._refuse_unless(node.tag == _LIST, node, f"the tag {_cut(node.tag)}")
            for item in node.value:
                # Keys inside lists have no dotted name, but a duplicate is one there too.
                self.visit(item, f"{prefix}[].", {}, depth + 1)
        elif isinstance(node, yaml.MappingNode):
            self._refuse_unless(node.tag == _MAPPING, node, f"the tag {_cut(node.tag)}")
            seen: dict[str, int] = {}
            for key_node, value_node in node.value:
                self._refuse_unless(isinstance(key_node, yaml.ScalarNode), key_node, "a list or mapping as a key")
                self._check_scalar(key_node)
                key, line = str(key_node.value), key_node.start_mark.line + 1
                if key in seen and key != "<<":
                    raise ConfigError(
                        f"{self._source}, line {line}: {_cut(prefix + key)} is given twice (first in line {seen[key]})"
                    )
                seen[key] = lines[prefix + key] = line
                self.visit(value_node, f"{prefix}{key}.", lines, depth + 1)

    def _check_scalar(self, node: yaml.ScalarNode) -> None:
        """Only what YAML 1.2's core writes so: `!!bool 7`, `!!timestamp x` and the like break PyYAML."""
        if node.tag == _TEXT:
            return
        form = _FORMS.get(node.tag)
        self._refuse_unless(form is not None, node, f"the tag {_cut(node.tag)}")
        self._refuse_unless(
            form is not None and form.match(node.value) is not None, node, f"{node.tag} of {node.value[:40]!r}"
        )
        if node.tag.endswith(":int"):
            is_small = len(node.value) < 30 and abs(int(node.value)) <= LARGEST_INTEGER
            self._refuse_unless(is_small, node, f"a whole number as large as {node.value[:40]}")

    def _refuse_unless(self, condition: bool, node: yaml.Node, what: str) -> None:
        if not condition:
            place = f"{self._source}, line {node.start_mark.line + 1}"
            raise ConfigError(f"{place}: no valid YAML: {what} is not read here")
