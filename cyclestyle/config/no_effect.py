"""Settings that do nothing beside the others: which, when and why. They are allowed, and warned of.

Only what a person set deserves a warning, so callers say which keys those are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cyclestyle.config import rules
from cyclestyle.config.keys import options_of, shown, value_of
from cyclestyle.config.methods import ContrastConfig, ContrastiveConfig, active_terms
from cyclestyle.config.schema import Config


@dataclass(frozen=True)
class Idle:
    """Options that do nothing while `when` holds, and why, as a clause after "has no effect"."""

    keys: tuple[str, ...]
    when: Callable[[Config], bool]
    why: str


def _is_on_cpu(config: Config) -> bool:
    return config.train.device == "cpu"


def _has_weight(config: Config, *kinds: str) -> bool:
    return any(name.startswith(kinds) for name in active_terms(config.method.weights))


def _contrast(config: Config) -> ContrastConfig:
    """Of a method that has the section."""
    assert isinstance(config.method, ContrastiveConfig)
    return config.method.contrast


IDLE: tuple[Idle, ...] = (
    Idle(("data.load_size",), lambda c: c.data.resize == "none", "with data.resize=none"),
    Idle(("data.cache_limit_gb",), lambda c: c.data.cache != "auto", "unless data.cache=auto"),
    Idle(
        ("data.root",),
        lambda c: bool(c.data.a.train and c.data.a.test and c.data.b.train and c.data.b.test),
        "beside the four folders data.a.train, data.a.test, data.b.train and data.b.test",
    ),
    Idle(
        ("method.gradient_penalty",),
        lambda c: c.method.weights.gradient_penalty == 0,
        "with method.weights.gradient_penalty=0",
    ),
    Idle(
        ("method.consistency_size",),
        lambda c: not _has_weight(c, "consistency_"),
        "without a weight of a consistency_... term",
    ),
    Idle(
        ("method.consistency_size",),
        lambda c: _has_weight(c, "consistency_") and c.method.consistency_size >= c.data.crop_size,
        "on crops no larger than that (data.crop_size): single pixels are compared",
    ),
    Idle(
        ("method.perceptual.file",),
        lambda c: not _has_weight(c, "content_", "style_"),
        "without a weight of a content_... or style_... term",
    ),
    Idle(
        ("method.perceptual.content_layers",),
        lambda c: not _has_weight(c, "content_"),
        "without a weight of a content_... term",
    ),
    Idle(
        ("method.perceptual.style_layers",),
        lambda c: not _has_weight(c, "style_"),
        "without a weight of a style_... term",
    ),
    Idle(
        tuple(f"method.contrast.{name}" for name in ("layers", "num_places", "width")),
        lambda c: not _has_weight(c, "nce_", "src_"),
        "without a weight of an nce_... or src_... term",
    ),
    Idle(
        ("method.contrast.loss", "method.contrast.temperature"),
        lambda c: not _has_weight(c, "nce_"),
        "without a weight of an nce_... term",
    ),
    Idle(
        ("method.contrast.hardness",),
        lambda c: _contrast(c).loss == "hdce" and not _has_weight(c, "nce_"),
        "without a weight of an nce_... term",
    ),
    Idle(("method.contrast.hardness",), lambda c: _contrast(c).loss == "nce", "with method.contrast.loss=nce"),
    Idle(
        ("generator.blocks", "generator.padding", "generator.antialias", "generator.attention"),
        lambda c: rules.is_unet(c.generator),
        "in a U-Net",
    ),
    Idle(("generator.depth",), lambda c: not rules.is_unet(c.generator), "in a ResNet"),
    Idle(
        ("generator.dropout",),
        lambda c: rules.is_unet(c.generator) and rules.resolved_depth(c.generator) < rules.UNET_DROPOUT_DEPTH,
        f"in a U-Net of generator.depth below {rules.UNET_DROPOUT_DEPTH}",
    ),
    Idle(("generator.init_gain",), lambda c: c.generator.init == "kaiming", "with generator.init=kaiming"),
    Idle(("discriminator.init_gain",), lambda c: c.discriminator.init == "kaiming", "with discriminator.init=kaiming"),
    Idle(
        ("discriminator.layers", "discriminator.antialias", "discriminator.batch_statistics"),
        lambda c: c.discriminator.name == "pixel",
        "with discriminator.name=pixel",
    ),
    Idle(
        tuple(f"discriminator.augment_{name}" for name in ("probability", "target", "images")),
        lambda c: not c.discriminator.augment,
        "without discriminator.augment",
    ),
    Idle(
        ("discriminator.augment",),
        lambda c: c.discriminator.augment_probability == 0 and not c.discriminator.augment_adaptive,
        "with discriminator.augment_probability=0",
    ),
    Idle(
        ("discriminator.augment_target", "discriminator.augment_images"),
        lambda c: bool(c.discriminator.augment) and not c.discriminator.augment_adaptive,
        "unless discriminator.augment_adaptive=true",
    ),
    Idle(
        ("discriminator.scales",),
        lambda c: c.discriminator.name != "multiscale",
        "unless discriminator.name=multiscale",
    ),
    Idle(
        ("optimizer.decay_start",),
        lambda c: c.optimizer.schedule not in ("linear", "cosine"),
        "unless optimizer.schedule is linear or cosine",
    ),
    Idle(
        ("optimizer.step_every", "optimizer.step_factor"),
        lambda c: c.optimizer.schedule != "step",
        "unless optimizer.schedule=step",
    ),
    Idle(("ema.warmup",), lambda c: c.ema.decay == 0, "with ema.decay=0"),
    Idle(("train.tf32", "train.deterministic", "train.cuda_graph"), _is_on_cpu, "with train.device=cpu"),
    Idle(
        tuple(
            f"evaluate.{name}"
            for name in (
                "num_images",
                "extractor",
                "weights",
                "best",
                "direction",
                "least_content",
                "patience",
                "least_steps",
            )
        ),
        lambda c: c.evaluate.every == 0,
        "with evaluate.every=0",
    ),
    Idle(("evaluate.weights",), lambda c: c.evaluate.extractor == "builtin", "with evaluate.extractor=builtin"),
    Idle(("evaluate.least_steps",), lambda c: c.evaluate.patience == 0, "with evaluate.patience=0"),
    Idle(("doctor.on_alarm",), lambda c: c.doctor.every == 0, "with doctor.every=0"),
)


def warnings_of(config: Config, explicitly_set: Iterable[str]) -> tuple[str, ...]:
    """One line for each of these options that does nothing in this config."""
    given = set(explicitly_set)
    order = list(options_of(config.method.name))
    found = [
        (order.index(key), f"{key}={shown(value_of(config, key))} has no effect {idle.why}")
        for idle in IDLE
        for key in idle.keys  # `when` may look at what only the methods that have this key have
        if key in given and value_of(config, key) is not None and idle.when(config)
    ]
    return tuple(line for _, line in sorted(found))
