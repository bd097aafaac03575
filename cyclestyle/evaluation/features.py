"""What a feature extractor is, and which one a name stands for.

FID, KID and memorisation compare features, not pixels; any extractor of the shape below will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

ExtractorName = Literal["builtin", "inception", "torchvision"]


class Extractor(Protocol):
    """Pictures to features: the eye behind FID, KID and memorisation.

    Attributes:
        name: what scores are labelled with: "builtin-1", "inception", "torchvision".
        fingerprint: changes with everything that changes features (weights, version, channels); part of cache keys.
        num_features: D below.
    """

    name: str
    fingerprint: str
    num_features: int

    def __call__(self, images: Tensor) -> Tensor:
        """N x C x H x W in [-1, 1] on any device => N x D float32 on the CPU, no gradients, whatever N is."""
        ...


def build_extractor(name: ExtractorName, weights: str | Path | None, device: torch.device, channels: int) -> Extractor:
    """The extractor that `evaluate.extractor` or `--extractor` names.

    Args:
        name: "builtin" (fixed filters, always there), "inception" (torch-fidelity's, the one behind published FID and
            KID) or "torchvision" (torchvision's Inception).
        weights: file of the Inception's weights; None: where torch keeps downloads. The builtin has none.
        device: where an Inception runs; the builtin always runs on the processor, so that every machine gives the
            same score.
        channels: of the pictures.

    Raises:
        ConfigError: a package or a weight file is missing, or the Inception is asked about other than 1 or 3 channels.
        CheckpointError: the weight file is damaged or of another network.
    """
    # Each has its own heavy or optional packages: only the one asked for is imported.
    if name == "inception":
        from cyclestyle.evaluation.inception import Inception

        return Inception(weights, device, channels)
    if name == "torchvision":
        from cyclestyle.evaluation.torchvision_inception import TorchvisionInception

        return TorchvisionInception(weights, device, channels)
    from cyclestyle.evaluation.builtin import Builtin

    return Builtin(channels)
