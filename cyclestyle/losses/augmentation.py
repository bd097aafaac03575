"""What discriminators are shown: DiffAugment (Zhao et al. 2020), differentiable in the images.

With few pictures a discriminator learns them by heart. Shown real images and translations changed at random alike, it
has more to tell apart, and the gradient still reaches the generator through the change. All that chance
decides is drawn ahead, on the processor (`draw_augment`); `augment` only computes, so that it never waits for a GPU and
can be part of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cyclestyle.losses.widening import widened

_NUM_DRAWN = {"color": 4, "translation": 3, "cutout": 3}
"""Uniform numbers that each kind takes, in the order in which they are applied: whether it is, then how."""


def draw_augment(num_images: int, kinds: Iterable[str], generator: torch.Generator) -> Tensor:
    """All that chance decides about the augmentation of N images.

    Args:
        num_images: N.
        kinds: of "color", "translation", "cutout", in any order.
        generator: to draw with, on the CPU.

    Returns:
        N x K float32 in [0, 1) on the CPU; K depends on `kinds`.
    """
    return torch.rand(num_images, sum(_NUM_DRAWN[kind] for kind in _in_order(kinds)), generator=generator)


def augment(images: Tensor, draw: Tensor, kinds: Iterable[str], probability: float | Tensor) -> Tensor:
    """Change each image at random: its colors, then its place, then a part of it is blanked out.

    Args:
        images: N x C x H x W, usually in [-1, 1].
        draw: what `draw_augment` drew for N images and the same `kinds`, on the device of `images`.
        kinds: of "color", "translation", "cutout", in any order.
        probability: of each kind to be applied to an image, independently; a tensor is a scalar on that device, which
            is never looked at from here (Karras et al. 2020 adapt it).

    Returns:
        N x C x H x W of the same dtype and layout, not clamped. What a kind is not applied to stays bit for bit.
    """
    names = _in_order(kinds)
    numbers = [_NUM_DRAWN[name] for name in names]
    assert draw.shape == (len(images), sum(numbers)), f"draw {tuple(draw.shape)} is not of {len(images)} x {names}"
    for name, columns in zip(names, draw.split(numbers, dim=1), strict=True):
        decision, *how = columns.unbind(1)  # each N
        applied = decision < probability
        if name == "color":
            images = _color(images, applied, *how)
        elif name == "translation":
            images = _translation(images, applied, *how)
        else:
            images = _cutout(images, applied, *how)
    return images


def _in_order(kinds: Iterable[str]) -> list[str]:
    """The kinds in the order of the paper, however they were named."""
    named = set(kinds)
    assert named <= _NUM_DRAWN.keys(), f"{sorted(named)}, known: {list(_NUM_DRAWN)}"
    return [name for name in _NUM_DRAWN if name in named]


def _color(images: Tensor, applied: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Add up to 1/2 to all, stretch by up to 2 from each pixel's grey, and by 1/2 to 3/2 from the image's mean.

    Args:
        images: N x C x H x W.
        applied: N bool.
        brightness: N in [0, 1); 1/2 changes nothing, as with the other two.
        saturation: N in [0, 1).
        contrast: N in [0, 1).
    """
    brightness, saturation, contrast = (u.reshape(-1, 1, 1, 1) for u in (brightness, saturation, contrast))
    x = widened(images)  # means over an image would be coarse in half precision
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (contrast + 0.5) + mean
    return torch.where(applied.reshape(-1, 1, 1, 1), x.to(images.dtype), images)


def _translation(images: Tensor, applied: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move by whole pixels, up to 1/8 of the size each way; zeros come in.

    Args:
        images: N x C x H x W.
        applied: N bool.
        down: N in [0, 1); 1/2 changes nothing.
        right: N in [0, 1).
    """
    moves = []
    for u, size in zip((down, right), images.shape[2:], strict=True):
        most = (size + 4) // 8  # half up
        moves.append((_whole(u, 2 * most + 1) - most) * applied)
    moved: Tensor = _Move.apply(images, *moves)
    return moved


def _cutout(images: Tensor, applied: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Blank out a rectangle of half the height and width, its middle anywhere: it may hang over the border.

    Args:
        images: N x C x H x W.
        applied: N bool.
        y: N in [0, 1), of its middle.
        x: N in [0, 1).
    """
    height, width = images.shape[2:]
    rows, columns = _cut(y, height), _cut(x, width)
    hole = rows[:, None, :, None] & columns[:, None, None, :] & applied[:, None, None, None]  # N x 1 x H x W
    return torch.where(hole, 0.0, images)  # masked_fill would forget channels_last


def _cut(u: Tensor, size: int) -> Tensor:
    """N uniform numbers to N x `size` bool: the half of a side that is cut out. Offsets as in the paper's code."""
    length = (size + 1) // 2
    first = _whole(u, size + 1 - length % 2) - length // 2  # N
    places = torch.arange(size, device=u.device) - first[:, None]  # N x size
    return (places >= 0) & (places < length)


def _whole(u: Tensor, count: int) -> Tensor:
    """Uniform in [0, 1) to uniform whole numbers 0 .. count - 1. (1 - 2**-24) * count never rounds up to `count`."""
    return (u * count).long()


class _Move(torch.autograd.Function):
    """Each image moved by its own number of whole pixels; zeros come in.

    The gradient moves back the same way. By itself, torch would add it up place by place, since it does not know that
    none is read twice: slow on a GPU, or in an order that changes.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, down: Tensor, right: Tensor) -> Tensor:
        """N x C x H x W; `down` and `right` N int64, negative: up and left."""
        ctx.save_for_backward(down, right)
        num, _, height, width = images.shape
        rows = torch.arange(height, device=images.device) - down[:, None]  # N x H: where each row comes from
        columns = torch.arange(width, device=images.device) - right[:, None]  # N x W
        image = torch.arange(num, device=images.device)[:, None, None]
        # Indices on both sides of the channels: N x H x W x C.
        found = images[image, :, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        moved = torch.empty_like(images).copy_(found.permute(0, 3, 1, 2))  # in the layout of the images
        return moved.masked_fill_(~inside[:, None], 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Itself differentiable, for gradient penalties."""
        down, right = ctx.saved_tensors
        (gradient,) = gradients
        moved: Tensor = _Move.apply(gradient, -down, -right)
        return moved, None, None
