"""How a translation is laid over its source: at which scale, how strongly, with whose colours, where.

Plain arithmetic on tensors in [-1, 1]; where the source is to stay it stays to the bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclestyle.errors import ConfigError
from cyclestyle.inference.options import Look

# ITU-R BT.601, as JPEG has it.
_LUMA = (0.299, 0.587, 0.114)


def lay_over(source: Tensor, translated: Tensor, look: Look, weight: Tensor | None = None) -> Tensor:
    """The source with its translation over it.

    Args:
        source, translated: N x C x H x W in [-1, 1].
        look: strength and colours.
        weight: where to translate, 0 (source) to 1, broadcast to N x 1 x H x W; None: everywhere.

    Returns:
        N x C x H x W. Exactly `source` where strength x weight is 0.

    Raises:
        ConfigError: colours of a picture that has none.
    """
    translated = translated.clamp(-1.0, 1.0)
    if look.keep_colors:
        translated = with_colors_of(source, translated)
    if weight is None and look.strength == 1.0:
        return translated
    amount: Tensor | float = look.strength if weight is None else weight * look.strength
    return source + amount * (translated - source)


def with_colors_of(source: Tensor, translated: Tensor) -> Tensor:
    """Luminance of `translated`, colour differences of `source` (BT.601 Y'CbCr): N x 3 x H x W, clipped to [-1, 1].

    Raises:
        ConfigError: other than 3 channels.
    """
    if source.shape[1] != 3:
        raise ConfigError(f"--keep-colors was given, but this translator has {source.shape[1]} channels, needed is 3")
    # The same step in R, G and B changes luminance alone: Cb and Cr are differences from it.
    weights = source.new_tensor(_LUMA).view(1, 3, 1, 1)
    step = ((translated - source) * weights).sum(1, keepdim=True)
    return (source + step).clamp(-1.0, 1.0)


def work_shape(height: int, width: int, work_size: int | None) -> tuple[int, int]:
    """Height and width at which the generator works: the shorter side is `work_size`, the aspect kept."""
    if work_size is None:
        return height, width
    scale = work_size / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """N x C x H x W to N x C x height x width: bicubic, antialiased where it shrinks, clipped to [-1, 1]."""
    if images.shape[-2:] == (height, width):
        return images
    with torch.autocast(images.device.type, enabled=False):
        larger = F.interpolate(images, (height, width), mode="bicubic", align_corners=False, antialias=True)
    return larger.clamp_(-1.0, 1.0)
