"""Settings that do nothing are named, if a person set them; settings that do something are not."""

from __future__ import annotations

import pytest

from cyclestyle.config.keys import options_of
from cyclestyle.config.loading import load_with_warnings
from cyclestyle.config.methods import METHODS
from cyclestyle.config.no_effect import IDLE


def warnings(*overrides: str) -> tuple[str, ...]:
    return load_with_warnings(None, ["data.root=pictures", "train.steps=7", *overrides])[1]


ADAPTIVE = "discriminator={augment: [color], augment_adaptive: true}"

CASES = [
    # setting, what makes it idle, what gives it its effect
    ("data.load_size=300", "data.resize=none", "data.resize=squash"),
    ("data.cache_limit_gb=2", "data.cache=on", "data.cache=auto"),
    ("method.gradient_penalty=one_centered", "method.weights.gradient_penalty=0", "method.weights.gradient_penalty=10"),
    ("method.consistency_size=16", "method.weights.consistency_ab=0", "method.weights.consistency_ba=1"),
    ("method.perceptual.file=vgg.pth", "method.weights.total_variation_ab=1", "method.weights.style_ab=1"),
    ("method.perceptual.content_layers=[relu3_1]", "method.weights.style_ab=1", "method.weights.content_ba=1"),
    ("method.perceptual.style_layers=[relu3_1]", "method.weights.content_ab=1", "method.weights.style_ab=1"),
    ("generator.blocks=3", "generator.name=unet", "generator.name=resnet"),
    ("generator.padding=zero", "generator.name=unet", "generator.name=resnet"),
    ("generator.antialias=true", "generator.name=unet", "generator.name=resnet"),
    ("generator.attention=true", "generator.name=unet", "generator.name=resnet"),
    ("generator.depth=7", "generator.name=resnet", "generator.name=unet"),
    ("generator.dropout=0.5", "generator={name: unet, depth: 5}", "generator={name: unet, depth: 6}"),
    ("generator.init_gain=1", "generator.init=kaiming", "generator.init=xavier"),
    ("discriminator.init_gain=1", "discriminator.init=kaiming", "discriminator.init=xavier"),
    ("discriminator.layers=2", "discriminator.name=pixel", "discriminator.name=patchgan"),
    ("discriminator.antialias=true", "discriminator.name=pixel", "discriminator.name=multiscale"),
    ("discriminator.augment_probability=0.5", "discriminator.noise=0.1", "discriminator.augment=[color]"),
    ("discriminator.augment_target=0.6", "discriminator.augment=[color]", ADAPTIVE),
    ("discriminator.augment_images=999", "discriminator.augment=[color]", ADAPTIVE),
    ("discriminator.scales=3", "discriminator.name=patchgan", "discriminator.name=multiscale"),
    ("optimizer.decay_start=0.1", "optimizer.schedule=constant", "optimizer.schedule=cosine"),
    ("optimizer.step_every=10", "optimizer.schedule=linear", "optimizer.schedule=step"),
    ("optimizer.step_factor=0.1", "optimizer.schedule=cosine", "optimizer.schedule=step"),
    ("ema.warmup=false", "ema.decay=0", "ema.decay=0.9"),
    ("train.tf32=false", "train.device=cpu", "train.device=cuda"),
    ("train.cuda_graph=false", "train.device=cpu", "train.device=cuda"),
    ("train.deterministic=true", "train.device=cpu", "train.device=auto"),
    ("evaluate.num_images=9", "evaluate.every=0", "evaluate={extractor: inception, patience: 3}"),
    ("evaluate.extractor=inception", "evaluate.every=0", "evaluate={extractor: inception, patience: 3}"),
    ("evaluate.best=fid", "evaluate.every=0", "evaluate={extractor: inception, patience: 3}"),
    ("evaluate.direction=ba", "evaluate.every=0", "evaluate={extractor: inception, patience: 3}"),
    ("evaluate.least_content=0.2", "evaluate.every=0", "evaluate={extractor: inception, patience: 3}"),
    ("evaluate.patience=2", "evaluate.every=0", "evaluate={extractor: inception, patience: 3}"),
    ("evaluate.weights=w.pth", "evaluate.extractor=builtin", "evaluate.extractor=inception"),
    ("evaluate.least_steps=9", "evaluate.patience=0", "evaluate.patience=1"),
    ("doctor.on_alarm=stop", "doctor.every=0", "doctor.every=5"),
]


WITHOUT = ("method.name=cut", "method.weights={nce_ab: 0, nce_identity_b: 0}")
ONLY_SRC = (*WITHOUT, "method.weights.src_ab=1")
COMPARING = ("method.contrast.layers=[image]", "method.contrast.num_places=9", "method.contrast.width=8")
LOSS = ("method.contrast.loss=hdce", "method.contrast.temperature=0.1")


def test_the_hardness_of_negatives_is_hdces() -> None:
    asked = ("method.name=cut", "method.contrast.hardness=10")
    assert warnings(*asked) == ("method.contrast.hardness=10 has no effect with method.contrast.loss=nce",)
    assert warnings(*asked, "method.contrast.loss=hdce") == ()
    (line,) = warnings(*ONLY_SRC, "method.contrast={loss: hdce, hardness: 10}")[1:]  # the first is of the loss
    assert line == "method.contrast.hardness=10 has no effect without a weight of an nce_... term"


@pytest.mark.parametrize("setting", [*COMPARING, *LOSS])
def test_contrast_needs_a_weight(setting: str) -> None:
    (line,) = warnings(*WITHOUT, setting)
    assert line.startswith(f"{setting.partition('=')[0]}=")
    assert line.endswith("has no effect without a weight of an nce_... or src_... term") == (setting in COMPARING)
    assert bool(warnings(*ONLY_SRC, setting)) == (setting in LOSS)
    assert warnings("method.name=cut", setting) == warnings(*WITHOUT) == ()


def test_augmentation_that_never_happens() -> None:
    asked = ("discriminator.augment=[cutout]", "discriminator.augment_probability=0")
    (line,) = warnings(*asked)
    assert line == "discriminator.augment=['cutout'] has no effect with discriminator.augment_probability=0"
    assert warnings(*asked, "discriminator.augment_adaptive=true") == ()  # it begins there


def test_coarse_consistency_needs_crops_to_average() -> None:
    asked = ("method.weights.consistency_ab=1", "method.consistency_size=64", "data.load_size=64")
    (line,) = warnings(*asked, "data.crop_size=64")
    assert line.startswith("method.consistency_size=64 has no effect on crops no larger than that")
    assert warnings(*asked, "data.load_size=68", "data.crop_size=68") == ()


def test_batch_statistics_do_nothing_for_single_pixels() -> None:
    asked = ("discriminator.batch_statistics=true", "train.batch_size=2")
    assert warnings(*asked) == ()
    (line,) = warnings(*asked, "discriminator.name=pixel")
    assert line == "discriminator.batch_statistics=true has no effect with discriminator.name=pixel"


@pytest.mark.parametrize(("setting", "idle", "useful"), CASES)
def test_a_setting_without_effect_is_named(setting: str, idle: str, useful: str) -> None:
    (line,) = warnings(setting, idle)
    assert line.startswith(f"{setting.partition('=')[0]}=")
    assert " has no effect " in line
    assert warnings(setting, useful) == ()
    assert warnings(idle) == ()  # what nobody set is nobody's mistake


def test_all_four_folders_leave_nothing_to_the_root() -> None:
    folders = [f"data.{letter}.{part}={letter}{part}" for letter in "ab" for part in ("train", "test")]
    assert warnings(*folders)[0].startswith("data.root='pictures' has no effect beside the four folders")
    assert warnings(*folders[:3]) == ()


def test_every_rule_names_real_options_and_is_tried_here() -> None:
    named = {key for idle in IDLE for key in idle.keys}
    assert named <= set().union(*(options_of(method) for method in METHODS))
    assert named == {setting.partition("=")[0] for setting, _, _ in CASES} | {
        "data.root", "discriminator.augment", "discriminator.batch_statistics", "method.contrast.hardness",
        *(setting.partition("=")[0] for setting in (*COMPARING, *LOSS)),
    }  # fmt: skip
