"""The image pool: a history of translations, from which the discriminators are shown old ones half of the time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """A buffer of past translations (Shrivastava et al. 2017, section 2.3) with a random state of its own.

    A module without parameters, so that its content is part of the method's state dict.

    Args:
        size: number of images kept; 0 hands every query straight back.
        seed: fixes which images are kept and shown.
    """

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        self.size = size
        self.images: list[Tensor] = []
        # On the processor, whatever the device of the images: a draw never waits for the GPU.
        self._random = torch.Generator().manual_seed(seed)

    def query(self, fakes: Tensor) -> Tensor:
        """Put new translations in, get as many out: each the new one, or half of the time an old one that it replaces.

        Args:
            fakes: N x C x H x W without gradient; a pool fills before it hands out anything old.

        Returns:
            N x C x H x W of the same device and dtype.
        """
        assert not fakes.requires_grad, "the pool keeps images, not graphs: detach the fakes"
        if self.size == 0:
            return fakes
        if self.images and self.images[0].shape != fakes.shape[1:]:
            self.images = []  # of another crop_size, from before a resume
        shown = []
        for fake in fakes:
            if len(self.images) < self.size:
                self.images.append(fake.clone())
                shown.append(fake)
            elif torch.rand((), generator=self._random).item() < 0.5:
                shown.append(self._swap(fake))
            else:
                shown.append(fake)
        return torch.stack(shown)

    def _swap(self, fake: Tensor) -> Tensor:
        place = int(torch.randint(self.size, (), generator=self._random).item())
        # After a resume the images lie on the processor until they are first shown.
        old = self.images[place].to(fake.device, fake.dtype)
        self.images[place] = fake.clone()
        return old

    def get_extra_state(self) -> dict[str, Any]:
        """Images and random state, for the state dict."""
        images = torch.stack([image.cpu() for image in self.images]) if self.images else torch.empty(0)
        return {"images": images, "random": self._random.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from `get_extra_state`; more images than `size` (a smaller pool was configured) are dropped."""
        self.images = list(state["images"][: self.size])
        self._random.set_state(state["random"].cpu())
