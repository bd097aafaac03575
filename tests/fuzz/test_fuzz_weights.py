"""Checkpoints, translators and old generators from anywhere: a generator that fits, or one line."""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cyclestyle.checkpoint import load_checkpoint, save_checkpoint, save_translator
from cyclestyle.config.loading import config_from_mapping, load_config, to_mapping
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.errors import CheckpointError, ConfigError, CyclestyleError
from cyclestyle.inference.files import TranslatorSpec, build_translator_network, read_translators
from cyclestyle.networks.build import build_generator

from .fuzzing import anything, damaged, fuzzed, limits

GENERATOR = GeneratorConfig(filters=2, blocks=1)
WEIGHTS = build_generator(GENERATOR, 3).state_dict()
DESCRIPTION = asdict(
    TranslatorSpec(
        source="photo", target="vangogh", direction="ab", generator=asdict(GENERATOR), channels=3, resize="shorter",
        load_size=20, crop_size=16, step=7, scores={"kid": 0.1},
    )
)  # fmt: skip
STATE: dict[str, Any] = {
    "format": 1,
    "step": 9,
    "config": to_mapping(load_config(None, ["data.root=x", "train.steps=1"])),
    "method": {"gen_ab.model.1.weight": torch.zeros(1)},
    "translators": {"gen_ab": DESCRIPTION, "gen_ba": DESCRIPTION | {"direction": "ba", "source": "b", "target": "a"}},
    "averages": {"gen_ab": WEIGHTS, "gen_ba": WEIGHTS},
}


def _bytes_of(state: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


def _in_a_zip(stream: bytes) -> bytes:
    """A checkpoint without checksums whose pickle is `stream`."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_bytes_of(STATE))) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, stream if entry.filename.endswith("data.pkl") else old.read(entry))
    return file.getvalue()


with zipfile.ZipFile(io.BytesIO(_bytes_of(STATE))) as _archive:
    PICKLES = [_archive.read("archive/data.pkl"), pickle.dumps({"format": 1, "method": {}, "averages": [(1, 2.5)]}, 2)]
OLD_LAYOUT = [_bytes_of(each, _use_new_zipfile_serialization=False) for each in (STATE, WEIGHTS)]
SAFETENSORS = [
    safetensors.torch.save(WEIGHTS, {"cyclestyle": json.dumps({"format": 1, **DESCRIPTION})}),
    safetensors.torch.save({"w": torch.zeros(2, dtype=torch.bfloat16)}, {"cyclestyle": "{}"}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_checkpoint(folder / "whole.pt", STATE)
    save_translator(folder / "whole.safetensors", WEIGHTS, DESCRIPTION)
    return folder


def _check(path: Path) -> None:
    with limits(megabytes=768):
        try:
            for spec, weights in read_translators(path):
                network = build_translator_network(spec, weights, path)
                assert all(bool(weight.isfinite().all()) for weight in network.state_dict().values())
        except CheckpointError as error:
            _is_a_line(error)
        try:
            config_from_mapping(load_checkpoint(path).get("config", {}))
        except (CheckpointError, ConfigError) as error:
            _is_a_line(error)


def _is_a_line(error: CyclestyleError) -> None:
    line = str(error)
    assert 0 < len(line.replace(str(Path(line).parent), "")) < 1000, line[:300]
    assert "memory" not in line, line


@given(damaged(PICKLES).map(_in_a_zip))
@fuzzed(200)
def test_pickles_in_a_zip(folder: Path, data: bytes) -> None:
    (folder / "c.pt").write_bytes(data)
    _check(folder / "c.pt")


@given(damaged([_bytes_of(STATE), _in_a_zip(PICKLES[0])]))
@fuzzed(150)
def test_zips(folder: Path, data: bytes) -> None:
    (folder / "c.pt").write_bytes(data)
    _check(folder / "c.pt")


@given(damaged(OLD_LAYOUT))
@fuzzed(250)
def test_the_old_layout(folder: Path, data: bytes) -> None:
    (folder / "c.pth").write_bytes(data)
    _check(folder / "c.pth")


@given(damaged(SAFETENSORS))
@fuzzed(250)
def test_translators(folder: Path, data: bytes) -> None:
    (folder / "t.safetensors").write_bytes(data)
    _check(folder / "t.safetensors")


@given(damaged([json.dumps({"format": 1, **DESCRIPTION}).encode(), b'{"format": 1}', b"[" * 3000]))
@fuzzed(150)
def test_descriptions(folder: Path, data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    safetensors.torch.save_file(WEIGHTS, folder / "t.safetensors", {"cyclestyle": text})
    _check(folder / "t.safetensors")


TENSORS = st.sampled_from(
    [
        torch.zeros(1).expand(10**6, 10**6), torch.zeros(0), torch.tensor(1.0), torch.full((2, 3, 7, 7), float("nan")),
        torch.zeros(2, 3, 7, 7, dtype=torch.complex64), torch.zeros(2, 3, 7, 7, dtype=torch.int32),
        torch.zeros(2, 3, 7, 7, dtype=torch.float8_e4m3fn), torch.zeros(2, 3, 7, 7, dtype=torch.float16),
        torch.zeros(10**6, 0), torch.zeros(2, 3, 7, 7).to_sparse(), torch.zeros(2, device="meta"),
        torch.nn.Parameter(torch.ones(2, 3, 7, 7)), torch.zeros(2, 3, 7, 7, dtype=torch.bool),
        torch.zeros(2, dtype=torch.uint16),
    ]
)  # fmt: skip
ODD = anything(
    TENSORS
    | st.sampled_from(
        [
            {1: torch.zeros(2)},
            {"x": torch.zeros(2)},
            b"x",
            {1, 2},
            torch.float32,
            torch.Size([1]),
            (1, 2),
            {1: 2},
            {(1, 2): {}},
            1j,
        ]
    )
)


def _replaced(state: Any, path: list[int], value: Any) -> Any:
    """A copy in which the entry at the end of the path (indices of entries, taken round) is another."""
    if not path or not isinstance(state, dict | list) or not state:
        return value
    changed = copy.copy(state)
    key = list(state)[path[0] % len(state)] if isinstance(state, dict) else path[0] % len(state)
    changed[key] = _replaced(state[key], path[1:], value)
    return changed


@given(st.lists(st.tuples(st.lists(st.integers(0, 40), max_size=4), ODD), min_size=1, max_size=3), st.booleans())
@fuzzed(90)
def test_states_made_up(folder: Path, changes: list[tuple[list[int], Any]], is_zip: bool) -> None:
    state: Any = STATE
    for path, value in changes:
        state = _replaced(state, path, value)
    try:
        data = _bytes_of(state, _use_new_zipfile_serialization=is_zip)
    except Exception:  # not what can be saved at all
        return
    (folder / "c.pt").write_bytes(data)
    _check(folder / "c.pt")


@given(
    st.dictionaries(
        st.sampled_from(list(WEIGHTS)) | st.sampled_from([1, (), None, "", "model.0.weight", "x\n"]), ODD, max_size=3
    )
)
@fuzzed(100)
def test_old_generators_made_up(folder: Path, changes: dict[Any, Any]) -> None:
    try:
        data = _bytes_of({**WEIGHTS, **changes})
    except Exception:
        return
    (folder / "c.pth").write_bytes(data)
    _check(folder / "c.pth")


@given(st.dictionaries(st.sampled_from(list(WEIGHTS)), TENSORS, min_size=1, max_size=2))
@fuzzed(60)
def test_weights_of_any_kind_in_a_translator(folder: Path, changes: dict[str, Tensor]) -> None:
    try:
        data = safetensors.torch.save({**WEIGHTS, **changes}, {"cyclestyle": json.dumps({"format": 1, **DESCRIPTION})})
    except Exception:
        return
    (folder / "t.safetensors").write_bytes(data)
    _check(folder / "t.safetensors")
