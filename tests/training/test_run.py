"""Runs as their user meets them: what they leave, what they refuse, how they go on."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cyclestyle
from cyclestyle.checkpoint import load_checkpoint, save_checkpoint
from cyclestyle.config.loading import config_from_mapping, load_config
from cyclestyle.devices import Precision
from cyclestyle.errors import CheckpointError, ConfigError, DataError
from cyclestyle.training import learner
from cyclestyle.training import run as run_module
from cyclestyle.training.layout import score_tag, tensorboard_tag
from cyclestyle.training.learner import can_record
from cyclestyle.training.run import resume, train


def start(settings: list[str], *more: str) -> Path:
    return train(load_config(None, [*settings, *more]))


def test_a_run_leaves_what_it_promises(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = start(tiny, "train.steps=10", "train.keep_checkpoints=2")
    assert {path.name for path in run.iterdir() if not path.name.startswith(("events", "."))} == {
        "config.yaml", "metrics.jsonl", "evaluations.jsonl", "samples", "checkpoints", "translators",
    }  # fmt: skip
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "index.json", "step_00000008.pt", "step_00000010.pt",
    ]  # fmt: skip
    assert json.loads((run / "checkpoints" / "index.json").read_text())["latest"] == "step_00000010.pt"
    assert {path.name for path in (run / "translators").iterdir()} == {
        "photo_to_painting.safetensors", "painting_to_photo.safetensors",
    }  # fmt: skip
    steps = {re.match(r"step_(\d+)_", path.name)[1] for path in (run / "samples").iterdir()}
    assert steps == {"00000004", "00000008", "00000010"}
    assert load_config(run / "config.yaml").train.steps == 10
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "trained: 10 steps"
    assert out[-1] == f"run: {run}"
    assert any(line == f"curves: tensorboard --logdir {run.parent}" for line in out)


def test_metrics_and_tensorboard_have_every_scalar(tiny: list[str]) -> None:
    run = start(tiny, "train.steps=4", "method.weights.gradient_penalty=1", "discriminator.norm=none", "doctor.every=0")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 4]  # the last are the scores at the end
    sides = {"adversarial_ab", "adversarial_ba", "cycle_a", "cycle_b", "identity_a", "identity_b", "discriminator_a",
             "discriminator_b", "gradient_penalty_a", "gradient_penalty_b", "score_real_a", "score_fake_a",
             "score_real_b", "score_fake_b", "accuracy_a", "accuracy_b",
             "grad_norm_generators", "grad_norm_discriminators", "lr_generators",
             "lr_discriminators", "seconds_per_step", "images_per_second", "data_wait", "memory_gb"}  # fmt: skip
    assert set(rows[0]) == {"step", *sides}
    assert rows[0]["accuracy_a"] == pytest.approx(0.5, abs=0.5)
    reader = EventAccumulator(str(run))
    reader.Reload()
    scores = {name for name in set(rows[2]) - {"step"} if rows[2][name] is not None}
    assert {"kid_ab", "fid_ba", "swd_ab", "luminance_correlation_ab", "change_ba"} <= scores
    shown = set(reader.Tags()["scalars"])
    assert {tensorboard_tag(name) for name in sides} <= shown
    assert {score_tag(name) for name in scores} <= shown
    assert set(reader.Tags()["images"]) == {"samples/photo_to_painting", "samples/painting_to_photo"}
    assert {"config/text_summary", "run/text_summary"} <= set(reader.Tags()["tensors"])


def test_finished_says_how_to_lengthen_and_lengthening_goes_on(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = start(tiny, "train.steps=4")
    capsys.readouterr()
    start(tiny, "train.steps=4")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "already finished: 4 steps; to train on, raise its length, e.g. train.steps=8"
    assert out[-1] == f"run: {run}"
    start(tiny, "train.steps=6")
    assert load_checkpoint(run / "checkpoints" / "step_00000006.pt")["position"] == 6
    assert resume(run, ["train.steps=7"]) == run.resolve()
    assert (run / "checkpoints" / "step_00000007.pt").exists()


def test_length_in_epochs_counts_the_larger_domain(tiny: list[str]) -> None:
    run = start(tiny, "train.epochs=2", "train.batch_size=2")
    # 2 epochs of 5 images, the larger domain's number, in batches of 2
    assert load_checkpoint(run / "checkpoints" / "step_00000005.pt")["num_steps"] == 5
    start(tiny, "train.epochs=2", "train.batch_size=2")  # finished


def test_a_run_of_another_form_is_refused(tiny: list[str]) -> None:
    start(tiny, "train.steps=1")
    with pytest.raises(ConfigError, match=r"generator\.filters was 4, is 8.*choose another name"):
        start(tiny, "train.steps=2", "generator.filters=8")


def test_changed_settings_are_named(tiny: list[str], caplog: pytest.LogCaptureFixture) -> None:
    start(tiny, "train.steps=1")
    start(tiny, "train.steps=2", "optimizer.generator_lr=0.1", "log.scalars_every=1")
    assert "going on with a changed setting: optimizer.generator_lr was 0.0002, is 0.1" in caplog.text
    assert "log.scalars_every" not in caplog.text


def test_a_moved_run_goes_on_where_it_lies(tiny: list[str], tmp_path: Path) -> None:
    run = start(tiny, "train.steps=1")
    moved = run.rename(tmp_path / "elsewhere")
    assert resume(moved, ["train.steps=2"]) == moved
    assert not run.exists()


def test_the_checkpoint_before_a_damaged_one_is_used(tiny: list[str], caplog: pytest.LogCaptureFixture) -> None:
    run = start(tiny, "train.steps=8")
    newest = run / "checkpoints" / "step_00000008.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    start(tiny, "train.steps=8")
    assert "going on from step_00000004.pt: 4 steps are lost" in caplog.text
    assert load_checkpoint(newest)["step"] == 8
    for path in (run / "checkpoints").glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        start(tiny, "train.steps=8")


def test_a_full_disk_keeps_the_checkpoint_before(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tiny, "train.steps=4")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*free some space"):
        start(tiny, "train.steps=8")
    monkeypatch.undo()
    assert load_checkpoint(run / "checkpoints" / "step_00000004.pt")["step"] == 4
    assert not list((run / "checkpoints").glob(".*"))


def test_broken_images_are_counted_at_the_end(tiny: list[str], dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    (dataset / "trainA" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    start(tiny, "train.steps=1", "data.max_bad_fraction=0.5")
    assert "broken.png" in caplog.text
    assert "broken image files that were left out: 1" in caplog.text


def test_another_crop_size_goes_on_with_an_empty_pool(tiny: list[str]) -> None:
    start(tiny, "train.steps=3", "method.pool_size=2")
    run = start(tiny, "train.steps=5", "method.pool_size=2", "data.crop_size=20")
    state = load_checkpoint(run / "checkpoints" / "step_00000005.pt")
    assert state["method"]["pool_a._extra_state"]["images"].shape[-2:] == (20, 20)


def test_a_diverged_training_goes_back_and_stops_in_the_end(tiny: list[str], caplog: pytest.LogCaptureFixture) -> None:
    run = start(tiny, "train.steps=4")
    before = (run / "translators" / "photo_to_painting.safetensors").read_bytes()
    settings = ["train.steps=40", "optimizer.generator_lr=1e30", "optimizer.max_skipped=3", "optimizer.max_setbacks=2"]
    with pytest.raises(ConfigError, match=r"diverged at step \d+: .* after 2 setbacks; .*step 4, is good.*_lr"):
        start(tiny, *settings, "generator.norm=instance")
    assert "back to step 4, with 0.5 times the learning rates (setback 1 of 2" in caplog.text
    assert "back to step 4, with 0.25 times the learning rates (setback 2 of 2" in caplog.text
    assert load_checkpoint(max((run / "checkpoints").glob("*.pt")))["step"] == 4
    assert (run / "translators" / "photo_to_painting.safetensors").read_bytes() == before
    assert "NaN" not in (run / "metrics.jsonl").read_text()


def poison(monkeypatch: pytest.MonkeyPatch, is_poisoned: Callable[[int], bool]) -> list[float]:
    """Make gradients of these calls of a step NaN; gives the learning rates of all."""
    rates: list[float] = []
    plain = learner.learn

    def learn(method: Any, optimization: Any, precision: Any, parts: Any) -> Any:
        rates.append(optimization.learning_rates(0)["generators"])
        if is_poisoned(len(rates)):
            parts = [replace(part, real_a=part.real_a * math.nan) for part in parts]
        return plain(method, optimization, precision, parts)

    monkeypatch.setattr(learner, "learn", learn)
    return rates


def test_single_broken_steps_are_skipped_and_counted(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, lambda call: call in (2, 5))
    run = start(tiny, "train.steps=8", "method.pool_size=0")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("skipped_steps", 0) for row in rows if "seconds_per_step" in row] == [1, 0, 1, 0]
    assert all("cycle_a" in row for row in rows if "seconds_per_step" in row)  # the mean of the other step


@pytest.mark.parametrize("first_checkpoint", [4, 100])
def test_after_many_broken_steps_in_a_row_it_goes_back_with_half_the_rates(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, first_checkpoint: int
) -> None:
    rates = poison(monkeypatch, lambda call: 6 <= call <= 12)
    run = start(tiny, "train.steps=10", "optimizer.max_skipped=4", f"train.checkpoint_every={first_checkpoint}")
    back = 4 if first_checkpoint == 4 else 0  # without any checkpoint: to the start
    assert f"steps in a row were skipped, their gradients are not finite; back to step {back}, with 0.5" in caplog.text
    state = load_checkpoint(max((run / "checkpoints").glob("*.pt")))
    assert (state["step"], state["setbacks"], state["optimization"]["lr_scale"]) == (10, 1, 0.5)
    assert rates[0] == 2 * rates[-1]


@pytest.mark.parametrize("part", ["method", "averages", "optimization", "tracker", "random"])
def test_a_checkpoint_that_holds_something_else_is_refused_in_one_line(tiny: list[str], part: str) -> None:
    run = start(tiny, "train.steps=2")
    path = run / "checkpoints" / "step_00000002.pt"
    state = load_checkpoint(path)
    save_checkpoint(path, {**{key: value for key, value in state.items() if key != "format"}, part: {"means": 3}})
    with pytest.raises(CheckpointError, match="the checkpoint of step 2 does not fit this run"):
        start(tiny, "train.steps=4")


def test_missing_translators_of_a_finished_run_come_back(tiny: list[str]) -> None:
    run = start(tiny, "train.steps=2")
    path = run / "translators" / "photo_to_painting.safetensors"
    before = path.read_bytes()
    path.unlink()
    start(tiny, "train.steps=2")
    assert path.read_bytes() == before


def test_a_folder_that_vanishes_costs_no_steps(tiny: list[str], dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyclestyle.training.trainer.Trainer._draw_samples", lambda self: shutil.rmtree(dataset))
    with pytest.raises(DataError):
        start(tiny, "train.steps=9", "data.cache=off", "log.samples_every=2", "train.checkpoint_every=100")
    run = Path(next(s for s in tiny if s.startswith("output_dir=")).partition("=")[2]) / "tiny"
    assert load_checkpoint(run / "checkpoints" / "step_00000002.pt")["step"] == 2


def test_resume_refuses_another_place(tiny: list[str]) -> None:
    run = start(tiny, "train.steps=1")
    with pytest.raises(ConfigError, match="name=other was given with --resume"):
        resume(run, ["name=other"])


def test_out_of_memory_is_one_line(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*args: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("cyclestyle.methods.cyclegan.CycleGAN.forward_batch", forward)
    with pytest.raises(
        ConfigError, match=r"out of memory on cpu: set train\.checkpointing=true, lower data\.crop_size"
    ):
        start(tiny, "train.steps=1")


def test_recomputed_activations_change_nothing(tiny: list[str]) -> None:
    plain = load_file(start(tiny, "train.steps=3") / "translators" / "photo_to_painting.safetensors")
    run = start(tiny, "train.steps=3", "train.checkpointing=true", "name=less")
    less = load_file(run / "translators" / "photo_to_painting.safetensors")
    assert all(torch.equal(less[name], value) for name, value in plain.items())


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at its inputs
def test_compiled_networks_train_and_keep_their_names(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by torch.compile, but run as they are: its code generator would take minutes."""
    compiled: list[str] = []
    original = torch.nn.Module.compile

    def compile_without_code(network: torch.nn.Module, **options: object) -> None:
        compiled.append(type(network).__name__)
        original(network, backend="eager", fullgraph=True, **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_without_code)
    plain = load_file(start(tiny, "train.steps=3") / "translators" / "photo_to_painting.safetensors")
    assert compiled == []
    run = start(tiny, "train.steps=3", "train.compile=true", "name=compiled")
    assert compiled == ["ResnetGenerator"] * 2 + ["PatchDiscriminator"] * 2
    found = load_file(run / "translators" / "photo_to_painting.safetensors")
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_a_failing_compiler_is_one_line(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise torch._dynamo.exc.BackendCompilerFailed(failing, RuntimeError("No working C++ compiler found"), None)

    monkeypatch.setattr("cyclestyle.methods.cyclegan.CycleGAN.forward_batch", failing)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    with pytest.raises(ConfigError, match=r"train\.compile=true failed .*: set train\.compile=false"):
        start(tiny, "train.steps=1", "train.compile=true")


def test_steps_are_recorded_where_that_can_be() -> None:
    def can(device: str, precision: str = "bf16", **settings: object) -> bool:
        train = {"steps": 1, **{name: value for name, value in settings.items() if name != "dropout"}}
        generator = {"dropout": settings.get("dropout", 0.0)}
        config = config_from_mapping({"data": {"root": "unused"}, "train": train, "generator": generator})
        return can_record(config, torch.device(device), Precision(precision, ""))

    assert can("cuda")
    assert can("cuda", "fp32", checkpointing=True)
    assert can("cuda", dropout=0.5)
    assert not can("cpu")
    assert not can("cuda", "fp16")
    assert not can("cuda", cuda_graph=False)
    assert not can("cuda", checkpointing=True, dropout=0.5)


def test_a_profile_lies_in_the_run_folder(tiny: list[str]) -> None:
    run = start(tiny, "train.steps=8", "train.profile=2")
    assert [path.name for path in (run / "profile").iterdir()] == ["step_00000007.pt.trace.json.gz"]


def test_other_processes_say_only_warnings_and_only_in_the_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("cyclestyle")
    monkeypatch.setattr(run_module, "is_first", lambda: False)
    monkeypatch.setattr(run_module, "rank", lambda: 3)
    with caplog.at_level(logging.INFO, logger="cyclestyle"):
        with run_module._one_voice():
            logger.warning("common")
            with run_module._own_voices():
                logger.info("well")
                logger.warning("skipped %s", "a.png")
            logger.warning("common")
        logger.info("again")
    assert caplog.messages == ["process 3: skipped a.png", "again"]


def test_more_processes_than_images_of_a_batch_are_refused(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"3 processes, but train.batch_size=2 does not have an image for each"):
        start(tiny, "train.steps=1", "train.batch_size=2")
    with pytest.raises(ConfigError, match=r"train.batch_size=4 in 2 parts does not have"):
        start(tiny, "train.steps=1", "train.batch_size=4", "optimizer.accumulation=2")


def test_batch_statistics_of_one_image_are_refused(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = ["train.steps=1", "discriminator.batch_statistics=true", "optimizer.accumulation=2"]
    with pytest.raises(
        ConfigError, match=r"2 processes, but train.batch_size=6 leaves some .* train.batch_size=8 or more"
    ):
        start(tiny, *settings, "train.batch_size=6")


def test_a_missing_folder_leaves_no_run_behind(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root"):
        start(tiny, "train.steps=1", f"data.root={tmp_path / 'absent'}")
    assert not (tmp_path / "runs").exists()


def test_from_python_with_a_mapping(dataset: Path, tmp_path: Path) -> None:
    run = cyclestyle.train(
        {
            "name": "mapped",
            "output_dir": str(tmp_path),
            "data": {"root": str(dataset), "load_size": 16, "crop_size": 16},
            "generator": {"filters": 4, "blocks": 1},
            "discriminator": {"filters": 4, "layers": 1},
            "train": {"steps": 1},
        }
    )
    assert run == tmp_path / "mapped"


def test_a_toy_translation_is_learned(tmp_path: Path) -> None:
    """Dark pictures to bright ones: after some steps translations are brighter than their sources by far."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for folder, low in (("trainA", 20), ("trainB", 180)):
        (tmp_path / folder).mkdir()
        for index in range(8):
            pixels = random.integers(low, low + 50, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    settings = ["data.load_size=16", "data.crop_size=16", "generator.filters=8", "generator.blocks=1",
                "generator.norm=none", "generator.init=xavier", "generator.init_gain=1", "discriminator.filters=8",
                "discriminator.layers=1", "discriminator.norm=none", "method.weights.identity_a=0",
                "method.weights.identity_b=0", "method.weights.cycle_a=1", "method.weights.cycle_b=1",
                "optimizer.generator_lr=0.002", "optimizer.discriminator_lr=0.002", "ema.decay=0.9",
                "train.steps=150", "train.device=cpu", "train.precision=fp32", "data.a.name=dark",
                "data.b.name=bright", f"data.root={tmp_path}", f"output_dir={tmp_path / 'runs'}"]  # fmt: skip
    translator = cyclestyle.Translator.load(train(load_config(None, settings)), to="bright")
    dark = random.integers(20, 70, (16, 16, 3), dtype=np.uint8)
    assert dark.mean() == pytest.approx(45, abs=5)
    assert translator(dark).mean() > 130  # bright pictures have a mean of 205
