"""What a config may hold: the range of every number, and the combinations that cannot work.

Pure arithmetic on the config: whether folders exist or a GPU is there is checked where they are opened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cyclestyle.config import rules
from cyclestyle.config.keys import options_of, shown, value_of
from cyclestyle.config.methods import (
    METHODS,
    ContrastiveConfig,
    TwoWayWeights,
    active_terms,
    term_names,
    vgg_layers,
)
from cyclestyle.config.schema import Config, DiscriminatorConfig
from cyclestyle.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The numbers a field may have; `None` is no bound, and a bound is allowed itself unless `open`."""

    low: float
    high: float | None = None
    low_open: bool = False
    high_open: bool = False

    def holds(self, number: float) -> bool:
        """Whether this number is allowed (infinities and NaN never are)."""
        above = number > self.low or (number == self.low and not self.low_open)
        below = self.high is None or number < self.high or (number == self.high and not self.high_open)
        return math.isfinite(number) and above and below

    def __str__(self) -> str:
        low = f"above {self.low:.12g}" if self.low_open else f"at least {self.low:.12g}"
        if self.high is None:
            return low
        return f"{low} and {'below' if self.high_open else 'at most'} {self.high:.12g}"


COUNT = Range(1)
WHOLE = Range(0)  # counts that may be none
POSITIVE = Range(0, low_open=True)
WEIGHT = Range(0)
FRACTION = Range(0, 1)
BELOW_ONE = Range(0, 1, high_open=True)
# Far beyond what is of use: a config from anywhere is not to take all memory or start a million processes.
SIDE = Range(1, 65536)  # pixels
FILTERS = Range(1, 4096)

RANGES: dict[str, Range] = {
    "seed": Range(0, 2**32 - 1),  # what every random generator takes
    "data.channels": Range(1, 4096),
    "data.load_size": SIDE,
    "data.crop_size": SIDE,
    "data.cache_limit_gb": WHOLE,
    "data.num_workers": Range(0, 1024),
    "data.max_bad_fraction": FRACTION,
    "method.pool_size": WHOLE,
    "method.consistency_size": SIDE,
    "method.contrast.num_places": Range(2, 65536),
    "method.contrast.temperature": Range(0.001, 1000),
    "method.contrast.width": FILTERS,
    "method.contrast.hardness": Range(0.001, 1e6),
    **{f"method.weights.{name}": WEIGHT for entry in METHODS.values() for name in term_names(entry.options().weights)},
    "generator.filters": FILTERS,
    "generator.blocks": Range(0, 1000),
    "generator.depth": Range(rules.MIN_UNET_DEPTH, 16),
    "generator.dropout": BELOW_ONE,
    "generator.init_gain": POSITIVE,
    "discriminator.filters": FILTERS,
    "discriminator.layers": Range(1, 16),
    "discriminator.scales": Range(1, 16),
    "discriminator.noise": Range(0, 100),
    "discriminator.augment_probability": FRACTION,
    "discriminator.augment_target": FRACTION,
    "discriminator.augment_images": COUNT,
    "discriminator.init_gain": POSITIVE,
    "optimizer.generator_lr": POSITIVE,
    "optimizer.discriminator_lr": POSITIVE,
    "optimizer.betas": BELOW_ONE,
    "optimizer.decay_start": FRACTION,
    "optimizer.step_every": COUNT,
    "optimizer.step_factor": Range(0, 1, low_open=True),
    "optimizer.warmup_steps": WHOLE,
    "optimizer.accumulation": COUNT,
    "optimizer.clip_norm": WHOLE,
    "optimizer.max_skipped": COUNT,
    "optimizer.max_setbacks": WHOLE,
    "ema.decay": BELOW_ONE,
    "train.steps": COUNT,
    "train.epochs": POSITIVE,
    "train.batch_size": Range(1, 65536),
    "train.checkpoint_every": COUNT,
    "train.keep_checkpoints": COUNT,
    "train.max_seconds": Range(0),
    "train.timeout_seconds": POSITIVE,
    "train.profile": WHOLE,
    "log.scalars_every": COUNT,
    "log.samples_every": COUNT,
    "log.num_samples": Range(1, 1024),
    "evaluate.every": WHOLE,
    "evaluate.num_images": Range(2),
    "evaluate.least_content": Range(-1, 1),
    "evaluate.patience": WHOLE,
    "evaluate.least_steps": WHOLE,
    "doctor.every": WHOLE,
}
"""The one place that says how far each number (each member, for tuples) may go."""

AUGMENTS = ("color", "translation", "cutout")
"""What `discriminator.augment` may name."""

# Short, since file systems limit names to 255 bytes, and two of the first are in a translator's.
_DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_RUN_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9_-])?")


def check(config: Config) -> None:
    """Raise `ConfigError` for the first thing that cannot work."""
    _check_ranges(config)
    for problem in (
        _length_problem,
        _names_problem,
        _folders_problem,
        _workers_problem,
        _preset_problem,
        _crop_problem,
        _discriminator_problem,
        _precision_problem,
        _batch_problem,
        _penalty_problem,
        _augment_problem,
        _statistics_problem,
        _contrast_problem,
        _perceptual_problem,
        _direction_problem,
    ):
        line = problem(config)
        if line is not None:
            raise ConfigError(line)


def _check_ranges(config: Config) -> None:
    options = options_of(config.method.name)
    for key, allowed in RANGES.items():
        if key not in options:  # of another method
            continue
        value = value_of(config, key)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, (int, float)) and not allowed.holds(number):
                raise ConfigError(f"{key}: got {shown(value)}, must be {allowed}")


# ---------------------------------------------------------------------------------------------------- combinations


def _length_problem(config: Config) -> str | None:
    if config.train.steps is None and config.train.epochs is None:
        return "how long to train is not given: set train.steps (such as train.steps=10000) or train.epochs"
    return None


def _names_problem(config: Config) -> str | None:
    if not _RUN_NAME.fullmatch(config.name):
        return (
            f"name: got {shown(config.name)}, but the run's folder is named so: letters, digits, '.', '_' and '-', "
            "the first a letter or digit, at most 128"
        )
    if not config.output_dir:
        return "output_dir: got '', needs the folder of all runs, such as runs"
    for letter, domain in (("a", config.data.a), ("b", config.data.b)):
        if not _DOMAIN_NAME.fullmatch(domain.name or ""):
            return (
                f"data.{letter}.name: got {shown(domain.name)}, but it becomes part of file names: "
                "letters, digits, '_' and '-', the first a letter or digit, at most 64"
            )
    a, b = config.data.a.name or "", config.data.b.name or ""
    if a.lower() == b.lower():  # files are named by both, and some file systems do not tell upper from lower case
        return f"both domains are called {a!r}: set data.a.name and data.b.name to two different names"
    return None


def _folders_problem(config: Config) -> str | None:
    data = config.data
    if data.root or (data.a.train and data.b.train):
        return None
    missing = " and ".join(f"data.{letter}.train" for letter in "ab" if not getattr(data, letter).train)
    given = "" if missing.count("data") == 2 else f" ({missing} is missing)"
    return (
        "no images to train on: give data.root=FOLDER that holds trainA and trainB, "
        f"or both data.a.train=FOLDER and data.b.train=FOLDER{given}"
    )


def _workers_problem(config: Config) -> str | None:
    workers = config.data.num_workers
    if isinstance(workers, str) and workers != "auto":
        return f"data.num_workers: got {workers!r}, expected a whole number or auto"
    return None


def _preset_problem(config: Config) -> str | None:
    generator = config.generator
    if rules.is_unet(generator):
        option, given, plain = "depth", generator.depth, "unet"
        preset = rules.resolved_depth(replace(generator, depth=None))
    else:
        option, given, plain = "blocks", generator.blocks, "resnet"
        preset = rules.resolved_blocks(replace(generator, blocks=None))
    if generator.name == plain or given is None or given == preset:
        return None
    return (
        f"generator.{option}: got {given}, but generator.name={generator.name} means {preset}; "
        f"set generator.name={plain} or leave generator.{option} out"
    )


def _crop_problem(config: Config) -> str | None:
    data, stride = config.data, rules.generator_stride(config.generator)
    if data.resize != "none" and data.crop_size > data.load_size:
        return (
            f"data.crop_size: got {data.crop_size}, more than data.load_size={data.load_size}; "
            f"lower it, or set data.load_size={data.crop_size} or more"
        )
    if data.crop_size % stride:
        below = data.crop_size // stride * stride
        fits = f"{below} and {below + stride} are" if below else f"{stride} is"
        unet = " (or lower generator.depth)" if rules.is_unet(config.generator) else ""
        return (
            f"data.crop_size: got {data.crop_size}, no multiple of {stride}, the stride of generator "
            f"{config.generator.name}; {fits}{unet}"
        )
    if not rules.is_unet(config.generator) and data.crop_size < 2 * stride:
        # Features of one pixel can neither be reflected at their borders nor normalised over the image.
        return (
            f"data.crop_size: got {data.crop_size}, needs at least {2 * stride} with generator {config.generator.name}"
        )
    return None


def _discriminator_problem(config: Config) -> str | None:
    judge, crop = config.discriminator, config.data.crop_size
    if rules.discriminator_output_size(judge, crop) >= 1:
        return None
    smallest = f" at discriminator.scales={judge.scales}" if judge.name == "multiscale" else ""
    start = f"discriminator.layers: got {judge.layers}, which leave no output at data.crop_size={crop}{smallest}"
    fitting = _most_layers(judge, crop)
    if fitting:
        return f"{start}; at most {fitting} fit{'s' if fitting == 1 else ''}"
    return f"{start}, and fewer do neither; set a larger data.crop_size" + (" or fewer scales" if smallest else "")


def _most_layers(judge: DiscriminatorConfig, crop: int) -> int:
    fitting = 0
    while fitting < judge.layers and rules.discriminator_output_size(replace(judge, layers=fitting + 1), crop) >= 1:
        fitting += 1
    return fitting


def _precision_problem(config: Config) -> str | None:
    if config.train.precision == "fp16" and config.train.device == "cpu":
        return (
            "train.precision: got fp16, which train.device=cpu cannot train in; set train.precision=fp32, bf16 or auto"
        )
    return None


def _batch_problem(config: Config) -> str | None:
    batch, parts = config.train.batch_size, config.optimizer.accumulation
    if batch % parts == 0:
        return None
    return (
        f"train.batch_size: got {batch}, not divisible by optimizer.accumulation={parts}; "
        f"set train.batch_size={math.ceil(batch / parts) * parts} or another optimizer.accumulation"
    )


def _penalty_problem(config: Config) -> str | None:
    weights = config.method.weights
    if config.method.adversarial == "wgan" and weights.gradient_penalty == 0:
        return (
            "method.adversarial: got wgan, which does not train without a gradient penalty; "
            "set method.weights.gradient_penalty=10 and method.gradient_penalty=one_centered"
        )
    penalties = {name: getattr(weights, name) for name in ("gradient_penalty", "r1") if getattr(weights, name)}
    if penalties and config.discriminator.norm == "batch":
        named = " and ".join(f"method.weights.{name}={weight:g}" for name, weight in penalties.items())
        return (
            "discriminator.norm: got batch, which mixes the images whose gradients "
            f"{named} measure{'s' if len(penalties) == 1 else ''} one by one; set discriminator.norm=instance or none"
        )
    return None


def _unknown(words: Iterable[str], known: Iterable[str]) -> list[str]:
    """The words that are not known, in their order."""
    allowed = set(known)
    return [word for word in words if word not in allowed]


def _augment_problem(config: Config) -> str | None:
    judge = config.discriminator
    unknown = _unknown(judge.augment, AUGMENTS)
    if unknown:
        return f"discriminator.augment: got {unknown[0]!r}, expected any of {', '.join(AUGMENTS)}"
    if judge.augment_adaptive and not judge.augment:
        return (
            "discriminator.augment_adaptive: got true, but discriminator.augment names nothing to adapt; set "
            f"discriminator.augment=[{','.join(AUGMENTS)}]"
        )
    return None


def _statistics_problem(config: Config) -> str | None:
    at_once = config.train.batch_size // config.optimizer.accumulation
    judge = config.discriminator
    if not judge.batch_statistics or judge.name == "pixel" or at_once > 1:
        return None
    parts = f" in {config.optimizer.accumulation} parts" if config.optimizer.accumulation > 1 else ""
    return (
        "discriminator.batch_statistics: got true, but images alone do not differ from each other: "
        f"train.batch_size={config.train.batch_size}{parts} shows one at a time; set train.batch_size="
        f"{2 * config.optimizer.accumulation} or more"
    )


def _contrast_problem(config: Config) -> str | None:
    method = config.method
    if not isinstance(method, ContrastiveConfig):
        return None
    known = rules.encoder_layers(config.generator, config.data.channels)
    layers = method.contrast.layers
    twice = next((name for name in layers if layers.count(name) > 1), None)
    if twice is not None:
        return f"method.contrast.layers: got {twice!r} more than once, expected each layer once"
    unknown = _unknown(layers, known)
    if layers and not unknown:
        return None
    given = f"{unknown[0]!r}, which generator {config.generator.name} of this size does not have" if unknown else "none"
    return f"method.contrast.layers: got {given}; it has {', '.join(known)}"


def _perceptual_problem(config: Config) -> str | None:
    perceptual, weights = config.method.perceptual, config.method.weights
    for key, layers in (("content_layers", perceptual.content_layers), ("style_layers", perceptual.style_layers)):
        unknown = _unknown(layers, vgg_layers())
        if unknown or not layers:
            given = repr(unknown[0]) if unknown else "none"
            return f"method.perceptual.{key}: got {given}, expected any of relu1_1, relu1_2, relu2_1, ... relu5_4"
    used = [name for name in active_terms(weights) if name.startswith(("content_", "style_"))]
    if used and config.data.channels not in (1, 3):
        return (
            f"method.weights.{used[0]}: VGG19 looks at 1 or 3 channels, and data.channels is {config.data.channels}; "
            f"set {' and '.join(f'method.weights.{name}=0' for name in used)}"
        )
    if not used:
        return None
    deep = [
        *(perceptual.content_layers if any(name.startswith("content_") for name in used) else ()),
        *(perceptual.style_layers if any(name.startswith("style_") for name in used) else ()),
    ]
    least = max(2 ** (int(layer[4]) - 1) for layer in deep)  # a halving before each block but the first
    if config.data.crop_size < least:
        return (
            f"data.crop_size: got {config.data.crop_size}, of which nothing is left for {max(deep)} of VGG19 "
            f"(method.weights.{used[0]}), which needs {least}; raise it, or choose earlier layers"
        )
    return None


def _direction_problem(config: Config) -> str | None:
    """What scores choose the best by has to be a direction that is trained."""
    section = config.evaluate
    if not section.every or section.direction != "ba" or isinstance(config.method.weights, TwoWayWeights):
        return None
    name = config.method.name
    return f"evaluate.direction: got ba, but method.name={name} translates only ab; set evaluate.direction=ab"
