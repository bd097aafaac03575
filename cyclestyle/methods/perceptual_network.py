"""The network of perceptual terms, from a file of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cyclestyle.checkpoint import load_pickled
from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.networks.vgg import URL, VGG19Features


def load_vgg19(file: str | None, layers: Sequence[str]) -> VGG19Features:
    """VGG19 up to the deepest of `layers`, on the CPU; never downloads.

    Args:
        file: of torchvision's VGG19 weights (`method.perceptual.file`); None for the one that torch keeps of `URL`.
        layers: relu1_1 .. relu5_4.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: it is damaged, or holds something else.
    """
    kept = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]
    path = kept if file is None else Path(file).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"method.perceptual.file: the weights of content_... and style_... terms need VGG19, and there is no file "
            f"{path}: fetch {URL} and put it at {kept} or name its file with method.perceptual.file; without such "
            "terms (method.weights) it is not needed"
        )
    try:
        return VGG19Features(load_pickled(path), layers, source=str(path))
    except CheckpointError as error:
        raise CheckpointError(f"method.perceptual.file, for content_... and style_... terms: {error}") from None
