"""Configs from anywhere: YAML, `key=value` and the mapping inside a checkpoint give a config or one line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclestyle.config.keys import options_of
from cyclestyle.config.loading import config_from_mapping, load_config, to_mapping, to_yaml
from cyclestyle.config.schema import Config
from cyclestyle.errors import ConfigError

from .fuzzing import anything, damaged, fuzzed, limits

CONFIGS = Path(__file__).parents[2] / "configs"
SEEDS = [
    *(path.read_bytes() for path in sorted(CONFIGS.glob("*.yaml"))),
    to_yaml(load_config(None, ["data.root=x", "train.steps=1", "data.augment=[{name: Blur, p: 0.5}]"])).encode(),
    b"train: &t {steps: 5, batch_size: 2}\ndata: {root: x, a: {name: y}}\nlog: {<<: *t}\n",
    b"seed: !!int 5\nname: !!str 7\n? complex\n: |\n  text\n  more\n",
    b"a0: &a0 [x, x, x, x, x, x, x, x]\na1: &a1 [*a0, *a0, *a0, *a0, *a0]\na2: [*a1, *a1, *a1]\n%YAML 1.1\n---\n...\n",
]
KEYS = sorted(options_of())
MAPPING = to_mapping(load_config(None, ["data.root=x", "train.steps=1"]))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "given.yaml"


def _check(config: Config) -> None:
    """It goes through a file and back, and its run folder lies in its output folder."""
    assert config_from_mapping(to_mapping(config)) == config
    assert (Path(config.output_dir) / config.name).resolve().parent == Path(config.output_dir).resolve()
    for letter in (config.data.a, config.data.b):
        assert letter.name is not None
        assert letter.name.replace("-", "").replace("_", "").isalnum()


def _is_a_line(error: ConfigError) -> None:
    assert 0 < len(str(error)) < 1500, str(error)[:200]


@given(damaged(SEEDS))
@fuzzed(90)
def test_damaged_files(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with limits():
        try:
            _check(load_config(file, ["data.root=x"]))
        except ConfigError as error:
            _is_a_line(error)


VALUES = st.text(max_size=20) | st.sampled_from(
    [
        "",
        "~",
        "null",
        "1e9",
        "1e400",
        "-1",
        ".nan",
        "[",
        "{",
        "]",
        "&a [*a]",
        "!!binary aGk=",
        "${x}",
        "???",
        "..",
        "'",
        "[" * 50,
    ]
)


@given(st.lists(st.tuples(st.sampled_from([*KEYS, "data", "x", "train.", ""]), VALUES), max_size=4))
@fuzzed(60)
def test_words_of_a_command_line(words: list[tuple[str, str]]) -> None:
    with limits():
        try:
            _check(load_config(None, ["data.root=x", "train.steps=1", *(f"{key}={value}" for key, value in words)]))
        except ConfigError as error:
            _is_a_line(error)


ODD = anything(st.sampled_from([b"x", {1, 2}, 1j, object(), (1, 2), {1: 2}, float]))


@given(st.lists(st.tuples(st.sampled_from([*KEYS, "data", "method", "x"]), ODD), min_size=1, max_size=3), st.booleans())
@fuzzed(24)
def test_mappings_of_a_checkpoint(changes: list[tuple[str, Any]], replaces_all: bool) -> None:
    mapping: Any = copy.deepcopy(MAPPING)
    for key, value in changes:
        inner = mapping
        *sections, name = key.split(".")
        for section in sections:
            inner = inner[section] if isinstance(inner.get(section), dict) else inner
        inner[name] = value
    with limits():
        try:
            _check(config_from_mapping(changes[0][1] if replaces_all else mapping))
        except ConfigError as error:
            _is_a_line(error)
