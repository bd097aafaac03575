"""VGG19's features, frozen: what perceptual terms compare (Simonyan and Zisserman 2015, trained on ImageNet).

Its weights are not a run's own: they are buffers outside the state dict, so that checkpoints, optimizers and averages
never see them, while `.to` moves them as it does all else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.config.methods import VGG_CONVOLUTIONS, vgg_layers
from cyclestyle.errors import CheckpointError

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
"""Where torchvision has the weights; nothing here fetches them."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours in [0, 1], as the weights were trained with."""


class VGG19Features(nn.Module):
    """Activations of some of VGG19's layers.

    Building it draws no random numbers and allocates nothing beside the weights that it is given.

    Args:
        state: torchvision's state dict of VGG19, or that of its features alone ("features.0.weight", ...).
        layers: relu1_1 .. relu5_4; convolutions beyond the deepest of them are neither needed in `state` nor kept.
        source: the file that `state` is from, for messages.

    Attributes:
        min_size: pixels that images need on each side, for one to be left at the deepest layer: 1 for relu1_1 and
            relu1_2, doubled by each block after that, 16 for relu5_1 and deeper.

    Raises:
        CheckpointError: `state` is that of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, state: object, layers: Sequence[str], *, source: str = "state") -> None:
        super().__init__()
        assert layers, "no layers"
        known = vgg_layers()
        self.layers = tuple(sorted(set(layers), key=known.index))
        self._names = known[: known.index(self.layers[-1]) + 1]  # of all convolutions that run
        self.min_size = 2 ** (int(self._names[-1][len("relu")]) - 1)
        weights = _checked(state, self._names, source)
        for name in self._names:
            weight, bias = weights[name]
            self.register_buffer(f"{name}_weight", weight, persistent=False)
            self.register_buffer(f"{name}_bias", bias, persistent=False)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features by layer, the shallowest first; gradients reach the images.

        Args:
            images: N x 1 x H x W (grey, shown as colour) or N x 3 x H x W in [-1, 1], sides at least `min_size`.

        Returns:
            N x C x h x w a layer, at least 0; of relu1_x C = 64 and h, w = H, W, with each block after that h and w
            are halved, rounded down. Under autocast in its precision.
        """
        assert images.shape[1] in (1, 3), f"VGG19 sees 1 or 3 channels, not {images.shape[1]}"
        x = ((images + 1) / 2 - self.mean) / self.std  # grey becomes three channels here
        features = {}
        for name in self._names:
            if name.endswith("_1") and name != "relu1_1":
                x = F.max_pool2d(x, 2)
            x = F.relu(F.conv2d(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"), padding=1))
            if name in self.layers:
                features[name] = x
        return features

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return ", ".join(self.layers)


def _positions() -> dict[str, tuple[int, int, int]]:
    """Of each convolution, by the name of its ReLU: its number in torchvision's `features`, channels in and out."""
    positions, number, channels = {}, 0, 3
    names = iter(vgg_layers())
    for block, count in enumerate(VGG_CONVOLUTIONS):
        wide = 64 * min(2**block, 8)
        for _ in range(count):
            positions[next(names)] = (number, channels, wide)
            number, channels = number + 2, wide  # the ReLU has a number too
        number += 1  # and the pooling
    return positions


def _checked(state: object, names: Sequence[str], source: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias of each named convolution, fp32, out of a state dict that is VGG19's."""

    def misfit(what: str) -> CheckpointError:
        return CheckpointError(f"{source} holds other weights than VGG19 needs ({what}): fetch {URL}")

    if not isinstance(state, Mapping):
        raise misfit(f"it is of type {type(state).__name__}, not a state dict")
    positions = _positions()
    ours = {f"features.{number}.{part}" for number, *_ in positions.values() for part in ("weight", "bias")}
    for key in state:
        # VGG16 and those with batch norm begin with the same shapes; their convolutions have other numbers.
        if isinstance(key, str) and key.startswith("features.") and key not in ours:
            raise misfit(f"{key[:80]!r} is none of its weights")
    weights = {}
    for name in names:
        number, channels, wide = positions[name]
        pair = []
        for part, shape in (("weight", (wide, channels, 3, 3)), ("bias", (wide,))):
            key = f"features.{number}.{part}"
            value = state.get(key)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise misfit(f"{key} is {'absent' if value is None else 'no tensor of numbers'}")
            if value.shape != shape:
                raise misfit(f"{key} has shape {list(value.shape)}, not {list(shape)}")
            if not bool(value.isfinite().all()):
                raise misfit(f"{key} has values that are not finite")
            pair.append(value.detach().float())
        weights[name] = (pair[0], pair[1])
    return weights
