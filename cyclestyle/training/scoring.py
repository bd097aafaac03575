"""A run's evaluator, built from its config: which pictures are compared, at which size."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cyclestyle.config.rules import generator_stride
from cyclestyle.config.schema import DataConfig, EvaluateConfig, GeneratorConfig
from cyclestyle.data.fixed import Fixed, load_fixed
from cyclestyle.data.folders import DomainFolders
from cyclestyle.evaluation.cache import FeatureCache, default_cache_folder
from cyclestyle.evaluation.evaluate import Evaluator, Pictures, truth_of
from cyclestyle.evaluation.features import build_extractor
from cyclestyle.evaluation.perceptual import build_lpips

logger = logging.getLogger("cyclestyle")

# Pixels of a side: larger pictures in grids and evaluations would take longer than the steps between them.
_LARGEST = 512
# Windows of SSIM and the coarsest level of a pyramid want so many.
_SMALLEST = 16
# Training pictures of the target that translations are compared with, to find copies.
_NUM_TRAINING = 128


def square_size(data: DataConfig, generator: GeneratorConfig) -> int:
    """Pixels of the squares that grids show and evaluations compare: whole pictures at the scale of training."""
    # Whole pictures say more than crops of them; networks that have seen crops take any size.
    largest = data.crop_size if data.resize == "none" else min(data.load_size, _LARGEST)
    stride = generator_stride(generator)
    return max(data.crop_size, largest // stride * stride)


def build_evaluator(
    config: EvaluateConfig,
    data: DataConfig,
    generator: GeneratorConfig,
    *,
    folders: Sequence[DomainFolders],
    directions: Sequence[str],
    device: torch.device,
) -> Evaluator | None:
    """What scores the translations of a run; None, with a warning, where there is too little to compare.

    Args:
        config: the `evaluate` section.
        data, generator: the sections that say how pictures are prepared.
        folders: of domain A and domain B.
        directions: that the run's method has: "ab", "ba".
        device: where features are computed.

    Raises:
        ConfigError: the extractor is not there.
    """
    extractor = build_extractor(config.extractor, config.weights, device, data.channels)
    size = square_size(data, generator)
    if size < _SMALLEST:
        logger.warning("nothing is scored: pictures of %d px are too small (data.load_size)", size)
        return None
    tests = [load_fixed(domain.test_files or domain.train_files, data, config.num_images, size) for domain in folders]
    # Without unseen pictures of a domain there is nothing to measure copying by.
    training = [load_fixed(domain.train_files, data, _NUM_TRAINING, size) if domain.test else [] for domain in folders]
    sides = []
    for direction in directions:
        source, target = ("ab".index(letter) for letter in direction)
        names = f"{folders[source].name} to {folders[target].name}"
        if min(len(tests[source]), len(tests[target])) < 2:
            logger.warning("%s is not scored: it takes 2 test pictures of each (data.a.test, data.b.test)", names)
            continue
        for domain in (folders[source], folders[target]):
            if domain.test is None:
                logger.warning(
                    "%s has no test pictures: %s is scored on training pictures, which flatters it "
                    "(data.a.test, data.b.test)", domain.name, names,
                )  # fmt: skip
        sides.append(
            Pictures(
                direction=direction,
                source=folders[source].name,
                target=folders[target].name,
                sources=tests[source],
                references=tests[target],
                training=training[target],
                truths=_truths(tests[source], folders[source], data, size),
                reference_folder=str(folders[target].test or folders[target].train),
            )
        )
    if not sides:
        return None
    perceptual = build_lpips(device) if data.channels == 3 else None
    return Evaluator(sides, extractor, size=size, perceptual=perceptual, cache=FeatureCache(default_cache_folder()))


def _truths(sources: Sequence[Fixed], source: DomainFolders, data: DataConfig, size: int) -> list[np.ndarray] | None:
    """The true translations, from `<test folder>_truth` where every picture has its own there, as in the sample set."""
    if source.test is None or not (folder := Path(f"{source.test}_truth")).is_dir():
        return None
    pairs = truth_of([picture.path for picture in sources], source.test, folder)
    if len(pairs) < len(sources):
        return None
    found = [load_fixed([pairs[picture.path]], data, 1, size) for picture in sources]
    return [truth[0].pixels for truth in found] if all(found) else None
