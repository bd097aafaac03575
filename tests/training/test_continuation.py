"""Whether a run goes on: options that came later, settings that may change, and those that make another network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import cyclestyle
from cyclestyle.checkpoint import load_checkpoint, save_checkpoint
from cyclestyle.config.keys import flatten
from cyclestyle.config.loading import load_config, to_mapping
from cyclestyle.errors import ConfigError
from cyclestyle.training.continuation import check_fits

BASE = ("data.root=pictures", "train.steps=7")
LATER = (
    "method.consistency_size", "method.perceptual", "method.weights.r1", "method.weights.consistency_",
    "method.weights.content_", "method.weights.style_", "method.weights.total_variation_", "generator.antialias",
    "generator.attention", "discriminator.antialias", "discriminator.batch_statistics", "discriminator.noise",
    "discriminator.augment",
)  # fmt: skip
"""Keys that version 0.1 did not have begin so."""


def settings(*more: str) -> dict[str, Any]:
    return to_mapping(load_config(None, [*BASE, *more]))


def without_later(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """As version 0.1 would have written it."""
    kept = {name: value for name, value in tree.items() if not f"{prefix}{name}".startswith(LATER)}
    return {
        name: without_later(value, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in kept.items()
    }


def warnings_of(before: dict[str, Any], now: dict[str, Any], caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    check_fits(now, {"config": before}, Path("runs/x"))
    return [record.getMessage().removeprefix("going on with a changed setting: ") for record in caplog.records]


def test_options_that_came_later_clash_with_nothing_and_are_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    old = without_later(settings())
    left_out = set(flatten(settings())) - set(flatten(old))
    assert all(any(key.startswith(start) for key in left_out) for start in LATER)
    assert warnings_of(old, settings(), caplog) == []
    assert warnings_of(old, settings("discriminator.noise=0.1"), caplog) == ["discriminator.noise was 0.0, is 0.1"]
    with pytest.raises(ConfigError, match=r"generator\.attention was False, is True"):
        check_fits(settings("generator.attention=true"), {"config": old}, Path("runs/x"))


def test_a_run_from_before_goes_on(tiny: list[str], caplog: pytest.LogCaptureFixture) -> None:
    run = cyclestyle.train(load_config(None, [*tiny, "train.steps=2"]))
    path = run / "checkpoints" / "step_00000002.pt"
    state = {name: value for name, value in load_checkpoint(path).items() if name != "format"}
    state["method"]["_extra_state"].pop("showing")
    save_checkpoint(path, state | {"config": without_later(state["config"])})
    caplog.clear()
    cyclestyle.train(load_config(None, [*tiny, "train.steps=4"]))
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert load_checkpoint(run / "checkpoints" / "step_00000004.pt")["step"] == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("discriminator.noise=0.1", "discriminator.noise was 0.0, is 0.1"),
        ("discriminator.augment=[color,cutout]", "discriminator.augment was [], is ['color', 'cutout']"),
        ("discriminator.augment_probability=0.3", "discriminator.augment_probability was 1.0, is 0.3"),
        ("discriminator.augment_target=0.6", "discriminator.augment_target was 0.5, is 0.6"),
        ("discriminator.augment_images=9", "discriminator.augment_images was 20000, is 9"),
        ("method.contrast.num_places=9", "method.contrast.num_places was 256, is 9"),
        ("method.contrast.loss=hdce", "method.contrast.loss was nce, is hdce"),
        ("method.weights.r1=1", "method.weights.r1 was 0.0, is 1.0"),
        ("method.flip_equivariance=true", "method.flip_equivariance was False, is True"),
    ],
)
def test_what_no_weight_depends_on_may_change(change: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(settings("method.name=cut"), settings("method.name=cut", change), caplog) == [words]


@pytest.mark.parametrize(
    "change",
    [
        "method.contrast.width=128", "method.contrast.layers=[image,down_1]", "generator.antialias=true",
        "generator.attention=true", "discriminator.antialias=true", "discriminator.filters=32",
    ],
)  # fmt: skip
def test_what_makes_other_networks_clashes(change: str) -> None:
    now = settings("method.name=cut", change)
    with pytest.raises(ConfigError) as refusal:
        check_fits(now, {"config": settings("method.name=cut")}, Path("runs/x"))
    key = change.partition("=")[0]
    assert str(refusal.value).startswith(f"runs/x holds a run of another form ({key} was ")
    assert "choose another name=" in str(refusal.value)


def test_another_method_is_reason_enough() -> None:
    """What only one of both methods has is not listed as if it had been changed too."""
    with pytest.raises(ConfigError, match=r"another form \(method\.name was cut, is dclgan\): choose another name="):
        check_fits(settings("method.name=dclgan"), {"config": settings("method.name=cut")}, Path("runs/x"))


def test_batch_statistics_are_a_layer() -> None:
    more = ("train.batch_size=2",)
    with pytest.raises(ConfigError, match=r"discriminator\.batch_statistics was False, is True"):
        check_fits(settings(*more, "discriminator.batch_statistics=true"), {"config": settings(*more)}, Path("runs/x"))


def test_another_method_clashes() -> None:
    with pytest.raises(ConfigError, match=r"method\.name was cyclegan, is cut"):
        check_fits(settings("method.name=cut"), {"config": settings()}, Path("runs/x"))
