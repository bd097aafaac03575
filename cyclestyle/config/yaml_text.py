"""YAML in and out: plain data only, never code; duplicate keys, syntax errors and odd files refused in one line.

Scalars follow YAML 1.2's core: only true and false are booleans (`cache: on` stays text), `2e-4` is a number, and
neither `010` nor `2024_01` nor `2024-01-01` is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cyclestyle.errors import ConfigError

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


for _tag, _pattern, _first in _CORE_SCALARS:
    _regexp = re.compile(rf"(?:{_pattern})$")
    _Loader.add_implicit_resolver(_tag, _regexp, ["" if letter == "\0" else letter for letter in _first])
    # The writer keeps YAML 1.1's rules beside ours: it quotes what any reader might take for something but text.
    _Dumper.add_implicit_resolver(_tag, _regexp, ["" if letter == "\0" else letter for letter in _first])


def read_yaml(text: str, source: str) -> tuple[Any, dict[str, int]]:
    """The plain data in `text` and the line (from 1) of each dotted key; `source` names the text in errors."""
    try:
        loader = _Loader(text)  # looks for forbidden characters already
        try:
            node = loader.get_single_node()
            lines: dict[str, int] = {}
            _note_lines(node, "", lines, source)
            return (None if node is None else loader.construct_document(node)), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}, line {mark.line + 1}" if mark else source
        raise ConfigError(f"{place}: no valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:  # characters that YAML does not allow; numbers beyond Python's limit
        raise ConfigError(f"{source}: no valid YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: nested too deeply, or an alias (*) that contains itself") from error


def read_yaml_file(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file and the line of each dotted key; an empty file is an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file; --config needs an existing .yaml file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8, so no YAML") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    data, lines = read_yaml(text, str(path))
    if data is None:
        return {}, lines
    if not isinstance(data, Mapping):
        kind = "list" if isinstance(data, list) else "single value"
        raise ConfigError(f"{path}: holds a {kind}, but a config is a mapping of keys to values (train: ...)")
    return dict(data), lines


def write_yaml(data: Mapping[str, Any]) -> str:
    """`data` as YAML that `read_yaml` reads back to the same."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _note_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int], source: str) -> None:
    """Walk the parsed text: remember where each key stands, and refuse a key given twice (PyYAML keeps the last)."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            # Keys inside lists have no dotted name, but a duplicate is one there too.
            _note_lines(item, f"{prefix}[].", {}, source)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen and key != "<<":
            raise ConfigError(f"{source}, line {line}: {prefix}{key} is given twice (first in line {seen[key]})")
        seen[key] = lines[prefix + key] = line
        _note_lines(value_node, f"{prefix}{key}.", lines, source)
