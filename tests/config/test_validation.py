"""Ranges of all numbers, and each combination that cannot work, refused with its cure."""

from __future__ import annotations

import pytest

from cyclestyle.config import rules
from cyclestyle.config.keys import alternatives, options_of
from cyclestyle.config.loading import load_config
from cyclestyle.config.methods import METHODS
from cyclestyle.config.validation import AUGMENTS, RANGES, Range
from cyclestyle.errors import ConfigError

ENOUGH = {"data.root": "pictures", "train.steps": "7"}


def load(*overrides: str, without: str = "") -> object:
    enough = [
        f"{key}={value}" for key, value in ENOUGH.items() if key != without and f"{key}=" not in " ".join(overrides)
    ]
    return load_config(None, [*enough, *overrides])


def refusal(*overrides: str, without: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        load(*overrides, without=without)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- ranges


def test_every_number_has_a_range_and_every_range_a_number() -> None:
    options = {key: option for method in METHODS for key, option in options_of(method).items()}
    numeric = {key for key, option in options.items() if {int, float} & set(alternatives(option.type))}
    numeric.add("optimizer.betas")  # a pair of numbers
    assert set(RANGES) == numeric, "give the new field a range in cyclestyle/config/validation.py"


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("train.steps=0", "at least 1"),
        ("train.batch_size=0", "at least 1 and at most 65536"),
        ("train.checkpoint_every=-1", "at least 1"),
        ("seed=-1", "at least 0 and at most 4294967295"),
        ("data.channels=0", "at least 1 and at most 4096"),
        ("data.num_workers=-1", "at least 0 and at most 1024"),
        ("data.max_bad_fraction=1.1", "at least 0 and at most 1"),
        ("method.weights.cycle_a=-0.1", "at least 0"),
        ("generator.dropout=1", "at least 0 and below 1"),
        ("generator.depth=1", "at least 2 and at most 16"),
        ("optimizer.generator_lr=0", "above 0"),
        ("optimizer.discriminator_lr=.nan", "above 0"),
        ("optimizer.discriminator_lr=.inf", "above 0"),
        ("optimizer.betas=[0.9, 1]", "at least 0 and below 1"),
        ("optimizer.decay_start=-0.5", "at least 0 and at most 1"),
        ("optimizer.step_factor=0", "above 0 and at most 1"),
        ("ema.decay=1", "at least 0 and below 1"),
    ],
)
def test_a_number_out_of_range_is_refused(override: str, allowed: str) -> None:
    key, _, value = override.partition("=")
    assert (
        refusal(override)
        == f"{key}: got {value.lstrip('.') if '.n' in value or '.i' in value else value}, must be {allowed}"
    )


@pytest.mark.parametrize(
    "override",
    ["train.steps=1", "method.weights.cycle_a=0", "generator.dropout=0", "ema.decay=0", "optimizer.decay_start=1"],
)
def test_bounds_that_are_allowed_are_allowed(override: str) -> None:
    load(override)


def test_ranges_know_their_bounds() -> None:
    assert [Range(0, 1, high_open=True).holds(x) for x in (-0.1, 0, 0.5, 1)] == [False, True, True, False]
    assert [Range(0, low_open=True).holds(x) for x in (0, 1e-9, float("inf"))] == [False, True, False]


# ---------------------------------------------------------------------------------------------------- combinations


def test_without_images_both_ways_to_name_them_are_said() -> None:
    line = refusal(without="data.root")
    assert line == (
        "no images to train on: give data.root=FOLDER that holds trainA and trainB, "
        "or both data.a.train=FOLDER and data.b.train=FOLDER"
    )
    assert refusal("data.a.train=x", without="data.root").endswith("(data.b.train is missing)")
    load("data.a.train=x", "data.b.train=y", without="data.root")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "end.", "-dash", "a b", "a\nb"])
def test_run_names_are_safe_folder_names(name: str) -> None:
    assert refusal(f'name="{name}"'.replace("\n", "\\n")).startswith("name: got ")


@pytest.mark.parametrize("name", ["../up", "van gogh", "_x", "a.b"])
def test_domain_names_are_safe_in_file_names(name: str) -> None:
    line = refusal(f"data.b.name={name}")
    assert line.startswith(f"data.b.name: got {name!r}")
    assert "letters, digits, '_' and '-'" in line


@pytest.mark.parametrize("names", [("x", "x"), ("Photo", "photo"), ("b", "B")])
def test_domains_need_two_names(names: tuple[str, str]) -> None:
    line = refusal(f"data.a.name={names[0]}", f"data.b.name={names[1]}")
    assert line == f"both domains are called {names[0]!r}: set data.a.name and data.b.name to two different names"


def test_folders_of_one_name_need_names() -> None:
    assert "both domains are called 'train'" in refusal("data.a.train=cats/train", "data.b.train=dogs/train")


def test_workers_are_a_number_or_auto() -> None:
    assert refusal("data.num_workers=all") == "data.num_workers: got 'all', expected a whole number or auto"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ("generator.name=resnet_6", "generator.blocks=9"),
            "generator.blocks: got 9, but generator.name=resnet_6 means 6; "
            "set generator.name=resnet or leave generator.blocks out",
        ),
        (
            ("generator.name=unet_128", "generator.depth=8"),
            "generator.depth: got 8, but generator.name=unet_128 means 7; "
            "set generator.name=unet or leave generator.depth out",
        ),
    ],
)
def test_presets_cannot_be_contradicted(settings: tuple[str, ...], line: str) -> None:
    assert refusal(*settings) == line
    load(settings[0])
    load(
        settings[0], line.split("means ")[1][0].join(settings[1].rsplit(settings[1][-1], 1))
    )  # the preset's own number


def test_crops_fit_into_the_loaded_image() -> None:
    assert refusal("data.load_size=200") == (
        "data.crop_size: got 256, more than data.load_size=200; lower it, or set data.load_size=256 or more"
    )
    load("data.load_size=200", "data.resize=none")
    load("data.load_size=256")


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        (("data.crop_size=250",), "no multiple of 4, the stride of generator resnet; 248 and 252 are"),
        (("data.crop_size=3",), "no multiple of 4, the stride of generator resnet; 4 is"),
        (
            ("data.crop_size=192", "generator.name=unet_128"),
            "no multiple of 128, the stride of generator unet_128; 128 and 256 are (or lower generator.depth)",
        ),
        (("data.crop_size=4", "discriminator.name=pixel"), "needs at least 8 with generator resnet"),
    ],
)
def test_crops_are_multiples_of_the_generators_stride(settings: tuple[str, ...], cure: str) -> None:
    assert refusal(*settings) == f"data.crop_size: got {settings[0].partition('=')[2]}, {cure}"


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        # 32 px: halved 4 times leaves 2, and the two last convolutions take one each: nothing.
        (("discriminator.layers=4",), "got 4, which leave no output at data.crop_size=32; at most 3 fit"),
        (
            ("discriminator.layers=3", "discriminator.name=multiscale"),
            "got 3, which leave no output at data.crop_size=32 at discriminator.scales=2; at most 2 fit",
        ),
        (
            ("discriminator.layers=3", "discriminator.name=multiscale", "discriminator.scales=6"),
            "at discriminator.scales=6, and fewer do neither; set a larger data.crop_size or fewer scales",
        ),
    ],
)
def test_discriminators_leave_an_output(settings: tuple[str, ...], cure: str) -> None:
    line = refusal("data.crop_size=32", *settings)
    assert line.startswith("discriminator.layers: ")
    assert cure in line


def test_the_number_of_layers_that_fit_does_fit() -> None:
    config = load_config(None, ["data.root=x", "train.steps=1", "data.crop_size=32", "discriminator.layers=3"])
    assert rules.discriminator_output_size(config.discriminator, 32) >= 1


def test_fp16_does_not_train_on_the_processor() -> None:
    line = refusal("train.precision=fp16", "train.device=cpu")
    assert line.startswith(
        "train.precision: got fp16, which train.device=cpu cannot train in; set train.precision=fp32"
    )
    load("train.precision=fp16", "train.device=cuda")


def test_batches_split_evenly() -> None:
    assert refusal("train.batch_size=4", "optimizer.accumulation=3") == (
        "train.batch_size: got 4, not divisible by optimizer.accumulation=3; "
        "set train.batch_size=6 or another optimizer.accumulation"
    )
    load("train.batch_size=6", "optimizer.accumulation=3")


def test_wgan_needs_its_penalty() -> None:
    line = refusal("method.adversarial=wgan")
    assert line.startswith("method.adversarial: got wgan")
    assert "method.weights.gradient_penalty=10" in line
    load("method.adversarial=wgan", "method.weights.gradient_penalty=10")


@pytest.mark.parametrize("name", ["gradient_penalty", "r1"])
def test_a_gradient_penalty_and_batch_norm_exclude_each_other(name: str) -> None:
    line = refusal(f"method.weights.{name}=0.5", "discriminator.norm=batch")
    assert line.startswith("discriminator.norm: got batch")
    assert f"method.weights.{name}=0.5 measures one by one" in line
    assert "set discriminator.norm=instance or none" in line
    load("discriminator.norm=batch")
    for norm in ("instance", "none"):
        load(f"method.weights.{name}=0.5", f"discriminator.norm={norm}")


def test_augmentations_are_known_ones() -> None:
    assert refusal("discriminator.augment=[color,blur]") == (
        "discriminator.augment: got 'blur', expected any of color, translation, cutout"
    )
    for each in AUGMENTS:
        load(f"discriminator.augment=[{each}]")


def test_nothing_to_adapt_is_refused() -> None:
    line = refusal("discriminator.augment_adaptive=true")
    assert line == (
        "discriminator.augment_adaptive: got true, but discriminator.augment names nothing to adapt; set "
        "discriminator.augment=[color,translation,cutout]"
    )
    load("discriminator.augment_adaptive=true", line.partition("; set ")[2])


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ((), "train.batch_size=1 shows one at a time; set train.batch_size=2 or more"),
        (
            ("train.batch_size=4", "optimizer.accumulation=4"),
            "train.batch_size=4 in 4 parts shows one at a time; set train.batch_size=8 or more",
        ),
    ],
)
def test_batch_statistics_need_two_images_at_once(settings: tuple[str, ...], cure: str) -> None:
    line = refusal("discriminator.batch_statistics=true", *settings)
    assert line.startswith("discriminator.batch_statistics: got true, but images alone do not differ")
    assert line.endswith(cure)
    advised = line.partition("; set ")[2].removesuffix(" or more")
    load("discriminator.batch_statistics=true", *settings, advised)


@pytest.mark.parametrize("method", ["cut", "dclgan"])
@pytest.mark.parametrize(
    ("settings", "given", "known"),
    [
        (
            ("method.contrast.layers=[image,down_3]", "generator.blocks=2"),
            "'down_3', which generator resnet of this size does not have",
            "image, down_1, down_2, block_1, block_2, block_middle",
        ),
        (("generator.blocks=0",), "'block_1', which generator resnet of this size does not have",
         "image, down_1, down_2"),
        (("method.contrast.layers=[]", "generator.blocks=0"), "none", "image, down_1, down_2"),
        (
            ("generator.name=unet", "generator.depth=3"),
            "'block_1', which generator unet of this size does not have",
            "image, down_1, down_2, down_3",
        ),
    ],
)  # fmt: skip
def test_contrast_is_of_layers_that_the_generator_has(
    method: str, settings: tuple[str, ...], given: str, known: str
) -> None:
    settings = (f"method.name={method}", *settings)
    assert refusal(*settings) == f"method.contrast.layers: got {given}; it has {known}"
    load(*settings, f"method.contrast.layers=[{known}]")


def test_a_layer_is_compared_once() -> None:
    layers = "method.contrast.layers=[down_1,image,down_1]"
    assert refusal("method.name=cut", layers) == (
        "method.contrast.layers: got 'down_1' more than once, expected each layer once"
    )


@pytest.mark.parametrize("direction", ["ab", "ba", "both"])
def test_what_is_scored_is_trained(direction: str) -> None:
    asked = ("evaluate.every=5", f"evaluate.direction={direction}", "generator.norm=instance")
    load(*asked)
    load(*asked, "method.name=dclgan")
    if direction == "ba":
        assert refusal("method.name=cut", *asked) == (
            "evaluate.direction: got ba, but method.name=cut translates only ab; set evaluate.direction=ab"
        )
        load("method.name=cut", *asked, "evaluate.every=0")
    else:
        load("method.name=cut", *asked)


@pytest.mark.parametrize("key", ["content_layers", "style_layers"])
@pytest.mark.parametrize(("layers", "given"), [("[relu4_2,relu5_5]", "'relu5_5'"), ("[]", "none")])
def test_perceptual_layers_are_vggs(key: str, layers: str, given: str) -> None:
    """Also without a weight: nobody finds out in a run of days."""
    assert refusal(f"method.perceptual.{key}={layers}") == (
        f"method.perceptual.{key}: got {given}, expected any of relu1_1, relu1_2, relu2_1, ... relu5_4"
    )
    load(f"method.perceptual.{key}=[relu1_2,relu5_4]", "method.weights.content_ab=1", "method.weights.style_ab=1")


@pytest.mark.parametrize("name", ["content_ab", "style_ba"])
def test_vgg_looks_at_grey_or_colour(name: str) -> None:
    line = refusal("data.channels=5", f"method.weights.{name}=2")
    assert line == (
        f"method.weights.{name}: VGG19 looks at 1 or 3 channels, and data.channels is 5; set method.weights.{name}=0"
    )
    load("data.channels=5", line.rpartition("set ")[2])
    for channels in (1, 3):
        load(f"data.channels={channels}", f"method.weights.{name}=2")


def test_crops_leave_something_for_vggs_layers() -> None:
    """Halved before each block but the first: 12 px are none after four."""
    small = ("data.crop_size=12", "discriminator.layers=1", "method.weights.style_ab=1")
    assert refusal(*small) == (
        "data.crop_size: got 12, of which nothing is left for relu5_1 of VGG19 (method.weights.style_ab), which needs "
        "16; raise it, or choose earlier layers"
    )
    load(*small, "data.crop_size=16")
    load(*small, "method.perceptual.style_layers=[relu1_1,relu4_4]")
    load(*small, "method.weights.style_ab=0")
    load(*small, "method.weights.style_ab=0", "method.weights.content_ab=1")  # relu4_2


@pytest.mark.parametrize(
    ("method", "key", "owner"),
    [
        ("cut", "method.weights.cycle_a", "cyclegan"),
        ("cut", "method.weights.adversarial_ba", "cyclegan or dclgan"),
        ("cyclegan", "method.weights.nce_ab", "cut or dclgan"),
        ("cyclegan", "method.contrast.width", "cut or dclgan"),
        ("dclgan", "method.flip_equivariance", "cut"),
    ],
)
def test_options_of_another_method_are_refused(method: str, key: str, owner: str) -> None:
    assert refusal(f"method.name={method}", f"{key}=1") == (
        f"unknown key {key}: it is an option of method.name={owner}, and method.name is {method}"
    )
    for name in owner.split(" or "):
        load(f"method.name={name}", f"{key}=1")


@pytest.mark.parametrize(
    "override",
    ["generator.filters=1e9", "generator.blocks=1e9", "generator.depth=1e6", "discriminator.filters=1e9",
     "discriminator.layers=1e6", "discriminator.scales=1e6", "data.channels=1e9", "data.load_size=1e9",
     "data.num_workers=1e6", "train.batch_size=1e9", "log.num_samples=1e9"],
)  # fmt: skip
def test_what_would_take_all_memory_is_refused_before_anything_is_made(override: str) -> None:
    assert " and at most " in refusal(override)


def test_names_fit_into_file_names() -> None:
    assert (
        load_config(None, ["train.steps=1", "data.root=x", f"name={'x' * 128}", f"data.a.name={'a' * 64}"]).data.a.name
        == "a" * 64
    )
    assert "at most 128" in refusal(f"name={'x' * 129}")
    assert "at most 64" in refusal(f"data.a.name={'a' * 65}")
    named = load_config(None, ["train.steps=1", f"data.a.train={'p' * 200}", "data.b.train=x"])
    assert named.data.a.name == "p" * 64
