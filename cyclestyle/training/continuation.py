"""Whether a run can go on from its checkpoint with the config that it is given now."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclestyle.config.keys import flatten, options_of
from cyclestyle.config.methods import METHODS
from cyclestyle.config.schema import TrainConfig
from cyclestyle.config.yaml_text import plain_data
from cyclestyle.errors import ConfigError

logger = logging.getLogger("cyclestyle")

# A checkpoint fits another config only where these agree; any other key may change between two starts.
_SHAPES = (
    "method.name",
    "generator",
    "discriminator",
    "method.contrast.layers",
    "method.contrast.width",
    "data.channels",
    "data.a.name",
    "data.b.name",
)
# Below these, but no weight depends on them.
_NO_SHAPES = ("discriminator.noise", "discriminator.augment", "discriminator.augment_probability",
              "discriminator.augment_adaptive", "discriminator.augment_target",
              "discriminator.augment_images")  # fmt: skip
# These change nothing of what is learned, so nothing is said about them.
_INCIDENTAL = ("output_dir", "log", "evaluate", "doctor", "train.steps", "train.epochs", "train.checkpoint_every",
               "train.keep_checkpoints", "data.num_workers", "data.cache", "data.cache_limit_gb")  # fmt: skip


def known_length(config: TrainConfig, state: Mapping[str, Any]) -> float:
    """Length of a run by epochs as its checkpoint knows it; infinite where `epochs` or `batch_size` changed."""
    before = state["config"]["train"]
    same = (before["epochs"], before["batch_size"]) == (config.epochs, config.batch_size)
    return state["num_steps"] if same else math.inf


def check_fits(settings: Mapping[str, Any], state: Mapping[str, Any], run: Path) -> None:
    """Name settings that change under way; `settings` is the whole config as nested plain values.

    Raises:
        ConfigError: the checkpoint `state` of the run in folder `run` cannot go on with them.
    """
    before, now = _complete(flatten(state["config"])), flatten(settings)
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    words = {key: f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed}
    clashing = [words[key] for key in changed if _is_below(key, _SHAPES) and key not in _NO_SHAPES]
    if "method.name" in changed:  # what only one of both methods has follows from that
        clashing = [words["method.name"]]
    if clashing:
        raise ConfigError(
            f"{run} holds a run of another form ({'; '.join(clashing)}): choose another name=..., "
            "or give the settings that it began with"
        )
    for key in changed:
        if not _is_below(key, (*_INCIDENTAL, "name")):
            logger.warning("going on with a changed setting: %s", words[key])


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults of options that came after the version that wrote it: they do what it did."""
    method = settings.get("method.name")
    if not isinstance(method, str) or method not in METHODS:
        return dict(settings)
    return {**{key: plain_data(option.default) for key, option in options_of(method).items()}, **settings}


def _is_below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)
