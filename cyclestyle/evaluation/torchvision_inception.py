"""torchvision's Inception v3: features for those who have its weights and not torch-fidelity's."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.checkpoint import load_pickled
from cyclestyle.evaluation.cache import file_hash
from cyclestyle.evaluation.inception import check_channels, find_weights, wrong_weights
from cyclestyle.images import to_pixels, to_tensor

URL = "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth"
_SIZE = 299
_AT_ONCE = 16


class TorchvisionInception:
    """Inception v3 trained on ImageNet (IMAGENET1K_V1), 2048 pooled features; scores are not those of papers."""

    name = "torchvision"
    num_features = 2048

    def __init__(self, weights: str | Path | None, device: torch.device, channels: int) -> None:
        """Raises `ConfigError` and `CheckpointError` as `features.build_extractor` says; never downloads."""
        check_channels(channels, self.name)
        import torchvision

        path = find_weights(weights, URL, self.name)
        state = load_pickled(path)
        # Networks are born with random weights: the run's own random numbers stay as they were.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            # These weights want pixels in [-1, 1], which is what comes in: transform_input would undo ImageNet's own.
            network = torchvision.models.inception_v3(aux_logits=True, transform_input=False, init_weights=False)
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise wrong_weights(path, URL, self.name) from error
        network.fc = nn.Identity()
        self.fingerprint = f"torchvision {torchvision.__version__} {file_hash(path)}"
        self._network = network.eval().requires_grad_(False).to(device)
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """N x C x H x W in [-1, 1] => N x 2048 float32 on the CPU."""
        rows = [torch.zeros(0, self.num_features)]
        with torch.autocast(self._device.type, enabled=False):
            for part in images.split(_AT_ONCE):
                rounded = to_tensor(to_pixels(part)).to(self._device)  # as a saved picture would be
                resized = F.interpolate(rounded, (_SIZE, _SIZE), mode="bilinear", antialias=True, align_corners=False)
                rows.append(self._network(resized.expand(-1, 3, -1, -1)).float().cpu())
        return torch.cat(rows)
