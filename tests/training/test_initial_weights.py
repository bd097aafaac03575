"""Runs that start from generators which exist: the same translations, fresh judges, clear refusals."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cyclestyle
from cyclestyle.checkpoint import load_checkpoint, save_translator
from cyclestyle.config.loading import load_config
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.inference.files import TranslatorSpec, read_translator
from cyclestyle.networks.build import build_generator
from cyclestyle.training.initial_weights import read_initial_weights
from cyclestyle.training.run import resume

CONFIG = GeneratorConfig(filters=4, blocks=1)
STANDSTILL = ("train.steps=1", "optimizer.generator_lr=1e-12", "optimizer.discriminator_lr=1e-12")


def translator_file(path: Path, config: GeneratorConfig = CONFIG, **changes: object) -> Path:
    spec = TranslatorSpec(
        source="photo", target="painting", direction="ab", generator=asdict(config), channels=3, resize="shorter",
        load_size=20, crop_size=16,
    )  # fmt: skip
    spec = replace(spec, **changes)
    network = build_generator(replace(config, init_gain=0.2), spec.channels)
    save_translator(path, network.state_dict(), asdict(spec))
    return path


def train(settings: list[str], *more: str, init_from: object = ()) -> Path:
    return cyclestyle.train(load_config(None, [*settings, *more]), init_from=init_from)


@pytest.fixture
def source(tiny: list[str]) -> Path:
    """A run of a few steps that learn fast, so that both directions are far from where they started."""
    return train(tiny, "name=source", "train.steps=4", "optimizer.generator_lr=0.05")


@pytest.mark.parametrize("kind", ["run", "checkpoint", "two files"])
def test_translations_are_the_sources_and_judges_are_fresh(source: Path, tiny: list[str], kind: str) -> None:
    files = {
        "run": source,  # one, as itself
        "checkpoint": [str(source / "checkpoints" / "step_00000004.pt")],
        "two files": sorted((source / "translators").iterdir()),
    }
    run = train(tiny, *STANDSTILL, "seed=5", init_from=files[kind])
    picture = np.random.default_rng(0).integers(0, 256, (20, 16, 3), dtype=np.uint8)
    state, before = (load_checkpoint(next((folder / "checkpoints").glob("*.pt"))) for folder in (run, source))
    for domain, name in (("painting", "gen_ab"), ("photo", "gen_ba")):
        found, expected = (cyclestyle.Translator.load(folder, domain, precision="fp32") for folder in (run, source))
        np.testing.assert_array_equal(found(picture), expected(picture))
        for key, weight in before["averages"][name].items():  # both what learns and its average
            torch.testing.assert_close(state["method"][f"{name}.{key}"], weight, rtol=0, atol=1e-9)
            torch.testing.assert_close(state["averages"][name][key], weight, rtol=0, atol=1e-9)
    for key in ("disc_a.model.0.weight", "disc_b.model.0.weight"):
        assert (state["method"][key] - before["method"][key]).abs().max() > 0.01


def test_the_judges_are_those_of_a_fresh_run(source: Path, tiny: list[str]) -> None:
    """Nor does reading a file move the random numbers of anything else."""
    started, fresh = (
        load_checkpoint(
            train(tiny, *STANDSTILL, f"name=n{len(files)}", init_from=files) / "checkpoints/step_00000001.pt"
        )
        for files in ([source], [])
    )
    for key, weight in fresh["method"].items():
        if key.startswith("disc") and isinstance(weight, torch.Tensor):
            torch.testing.assert_close(started["method"][key], weight, rtol=0, atol=1e-9)
    assert torch.equal(started["random"]["cpu"], fresh["random"]["cpu"])


def test_one_direction_is_enough_and_the_run_records_it(
    source: Path, tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = source / "translators" / "painting_to_photo.safetensors"
    with caplog.at_level(logging.INFO):
        run = train(tiny, *STANDSTILL, init_from=[file])
    assert "gen_ab starts fresh: --init-from gave nothing for it" in caplog.messages
    assert f"gen_ba starts from: {file} (painting to photo, 4 steps)" in caplog.messages
    weights = load_checkpoint(run / "checkpoints" / "step_00000001.pt")["averages"]
    given = read_translator(file, None)[1]["model.1.weight"]
    torch.testing.assert_close(weights["gen_ba"]["model.1.weight"], given, rtol=0, atol=1e-9)
    assert weights["gen_ab"]["model.1.weight"].std() < 0.1  # as initialised, 0.02
    reader = EventAccumulator(str(run), size_guidance={"tensors": 0})
    reader.Reload()
    text = reader.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"gen_ba starts from | {file}" in text


def test_a_run_that_began_with_it_resumes_bit_for_bit(
    source: Path, tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    settings = [*tiny, "train.steps=8", "train.checkpoint_every=4"]
    run = train(settings, init_from=[source])
    last = run / "checkpoints" / "step_00000008.pt"
    whole = load_checkpoint(last)
    last.unlink()
    caplog.clear()
    train(settings, init_from=[source])
    assert f"--init-from was ignored: {run} goes on from its own checkpoint" in caplog.text
    again = load_checkpoint(last)
    tensors = {key: value for key, value in whole["method"].items() if isinstance(value, torch.Tensor)}
    assert len(tensors) > 20
    assert all(torch.equal(again["method"][key], value) for key, value in tensors.items())
    for name, average in whole["averages"].items():
        assert all(torch.equal(again["averages"][name][key], value) for key, value in average.items())
    resume(run, ["train.steps=9"], [Path("absent.pth")])  # not even read
    assert caplog.text.count("--init-from was ignored") == 2


# ---------------------------------------------------------------------------------------------------- which generator


@pytest.mark.parametrize(
    ("names", "direction", "expected"),
    [
        (("photo", "painting"), "ab", "gen_ab"),
        (("photo", "painting"), "ba", "gen_ab"),  # by names, whatever its own run called A and B
        (("painting", "photo"), "ab", "gen_ba"),
        (("landscape", "painting"), "ba", "gen_ab"),  # by the target
        (("painting", "landscape"), "ab", "gen_ba"),
        (("photo", "monet"), "ba", "gen_ab"),  # by the source
        (("monet", "photo"), "ab", "gen_ba"),
        (("horse", "zebra"), "ab", "gen_ab"),  # by its own direction
        (("horse", "zebra"), "ba", "gen_ba"),
    ],
)
def test_which_generator(tmp_path: Path, names: tuple[str, str], direction: str, expected: str) -> None:
    file = translator_file(tmp_path / "t.safetensors", direction=direction)
    assert list(read_initial_weights([file], CONFIG, 3, names)) == [expected]


def test_two_files_for_one_direction_are_refused(tmp_path: Path) -> None:
    files = [translator_file(tmp_path / f"{name}.safetensors") for name in "ab"]
    with pytest.raises(ConfigError, match=r"two files for gen_ab: .*a\.safetensors .*b\.safetensors.*one for each"):
        read_initial_weights(files, CONFIG, 3, ("photo", "painting"))


# ---------------------------------------------------------------------------------------------------- another form


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"blocks": 2, "norm": "batch"}, "generator.blocks=2 generator.norm=batch"),
        ({"filters": 2, "upsample": "resize", "padding": "zero"},
         "generator.filters=2 generator.upsample=resize generator.padding=zero"),
        ({"dropout": 0.5}, "generator.dropout=0.5"),
        ({"name": "unet", "blocks": None, "depth": 3}, "generator.name=unet generator.depth=3"),
        ({"name": "unet_128", "blocks": None, "padding": "zero"}, "generator.name=unet generator.depth=7"),
        ({"blocks": None}, "generator.blocks=9"),
        ({"blocks": None, "name": "resnet_6"}, "generator.blocks=6"),
        ({"init": "xavier", "init_gain": 1.0}, ""),
        ({"channels": 1}, "data.channels=1"),
    ],
)  # fmt: skip
def test_another_form_is_refused_with_what_to_set(tmp_path: Path, changes: dict[str, object], settings: str) -> None:
    channels = {key: changes.pop(key) for key in ("channels",) if key in changes}
    file = translator_file(tmp_path / "t.safetensors", replace(CONFIG, **changes), **channels)
    if not settings:
        assert list(read_initial_weights(file, CONFIG, 3, ("photo", "painting"))) == ["gen_ab"]
        return
    with pytest.raises(ConfigError) as refusal:
        read_initial_weights(file, CONFIG, 3, ("photo", "painting"))
    assert str(refusal.value).endswith(f"another generator than the config's: set {settings}")


def test_presets_are_named_by_their_plain_form(tmp_path: Path) -> None:
    file = translator_file(tmp_path / "t.safetensors")
    with pytest.raises(ConfigError, match=r"set generator\.name=resnet generator\.blocks=1 generator\.filters=4$"):
        read_initial_weights([file], GeneratorConfig(name="resnet_9"), 3, ("photo", "painting"))


def test_settings_as_advised_are_taken(tmp_path: Path, tiny: list[str]) -> None:
    file = translator_file(tmp_path / "t.safetensors", replace(CONFIG, blocks=2, norm="batch"))
    with pytest.raises(ConfigError) as refusal:
        train(tiny, *STANDSTILL, init_from=file)
    advice = str(refusal.value).partition(": set ")[2].split()
    train(tiny, *STANDSTILL, *advice, init_from=file)


def test_a_missing_file_is_refused_before_anything_is_made(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*absent\.pth"):
        train(tiny, *STANDSTILL, init_from=tmp_path / "absent.pth")
    assert not (tmp_path / "runs" / "tiny").exists()


# ---------------------------------------------------------------------------------------------------- one direction


def test_a_one_sided_method_takes_its_direction_of_two(
    source: Path, tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cyclestyle")
    run = train(tiny, *STANDSTILL, "method.name=cut", "method.contrast.num_places=8", "seed=5", init_from=source)
    state, before = (load_checkpoint(next((folder / "checkpoints").glob("*.pt"))) for folder in (run, source))
    for key, weight in before["averages"]["gen_ab"].items():
        torch.testing.assert_close(state["averages"]["gen_ab"][key], weight, rtol=0, atol=1e-9)
    left_out = (
        f"--init-from: {source} (painting to photo, 4 steps) is for gen_ba, which this method.name does not train"
    )
    assert f"{left_out}; left out" in caplog.text
    assert f"gen_ab starts from: {source} (photo to painting, 4 steps)" in caplog.text
    assert "starts fresh" not in caplog.text


def test_the_other_direction_alone_is_refused(tmp_path: Path, tiny: list[str]) -> None:
    file = translator_file(tmp_path / "t.safetensors", source="painting", target="photo", direction="ba")
    with pytest.raises(ConfigError, match=r"is for gen_ba, which this method\.name does not train") as refusal:
        train(tiny, *STANDSTILL, "method.name=cut", init_from=file)
    assert str(refusal.value).startswith("--init-from: ")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "runs" / "tiny").exists()
    train(tiny, *STANDSTILL, init_from=file)  # of two directions it is one
