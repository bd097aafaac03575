"""The image pool: a history of translations, from which the discriminators are shown old ones half of the time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """A buffer of past translations (Shrivastava et al. 2017, section 2.3) with a random state of its own.

    A module without parameters, so that its content is part of the method's state dict. What happens to the next
    translations is drawn ahead, on the processor: `query` itself only moves images, so that it never waits for a GPU
    and can be part of a CUDA graph.

    Args:
        size: number of images kept; 0 hands every query straight back.
        seed: fixes which images are kept and shown.
    """

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        self.size = size
        self._random = torch.Generator().manual_seed(seed)
        self._shape = torch.Size()  # C x H x W of what is kept
        self._num_kept = 0
        self._places = torch.empty(0)  # size x C x H x W, and a spare place behind them that nobody looks at

    @property
    def images(self) -> Tensor:
        """The kept translations, n x C x H x W."""
        return self._places[: self._num_kept]

    def draw(self, shape: torch.Size) -> Tensor:
        """What becomes of the next N translations: each shown, or half of the time an old one that it then replaces.

        A pool fills before it hands out anything old.

        Args:
            shape: N x C x H x W.

        Returns:
            N x 2 int64: the place where the translation is put (`size`: nowhere), and 1 where the image that was there
            is shown in its stead.
        """
        if shape[1:] != self._shape:
            self._shape, self._num_kept = shape[1:], 0  # of another crop_size, from before a resume
        return torch.tensor([self._draw_one() for _ in range(shape[0])], dtype=torch.int64)

    def _draw_one(self) -> tuple[int, int]:
        if self._num_kept < self.size:
            self._num_kept += 1
            return self._num_kept - 1, 0
        if self.size > 0 and torch.rand((), generator=self._random).item() < 0.5:
            return int(torch.randint(self.size, (), generator=self._random).item()), 1
        return self.size, 0

    def query(self, fakes: Tensor, draw: Tensor) -> Tensor:
        """Put new translations in, get as many out.

        Args:
            fakes: N x C x H x W without gradient.
            draw: what `draw` said of them, on the device of `fakes`.

        Returns:
            N x C x H x W of the same device and dtype.
        """
        assert not fakes.requires_grad, "the pool keeps images, not graphs: detach the fakes"
        if self.size == 0:
            return fakes
        self._make_room(fakes)
        shown = []
        for fake, place, is_old in zip(fakes.split(1), draw[:, 0].split(1), draw[:, 1].split(1), strict=True):
            old = self._places.index_select(0, place)
            shown.append(torch.where(is_old.bool().reshape(1, 1, 1, 1), old, fake))
            self._places.index_copy_(0, place, fake)
        return torch.cat(shown)

    def _make_room(self, fakes: Tensor) -> None:
        """See that there are places like `fakes`; after a resume the images lie on the processor until now."""
        if self._places.shape[1:] != fakes.shape[1:]:
            self._places = fakes.new_zeros((self.size + 1, *fakes.shape[1:]))
        is_last = not fakes.is_contiguous() and fakes.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_last else torch.contiguous_format
        self._places = self._places.to(fakes.device, fakes.dtype, memory_format=layout)

    def get_extra_state(self) -> dict[str, Any]:
        """Images and random state, for the state dict."""
        return {"images": self.images.cpu().clone(), "random": self._random.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from `get_extra_state`; more images than `size` (a smaller pool was configured) are dropped."""
        images = state["images"][: self.size]
        self._num_kept = len(images)
        self._shape = images.shape[1:]
        self._places = images.new_zeros((self.size + 1, *self._shape))
        self._places[: self._num_kept] = images
        self._random.set_state(state["random"].cpu())
