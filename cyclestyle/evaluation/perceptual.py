"""LPIPS, where it is there: how different two pictures look, in features that were learned from photographs.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", over AlexNet. The only file
that imports lpips, when it is asked for. Nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclestyle.checkpoint import load_pickled
from cyclestyle.errors import CheckpointError

URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
_LEAST_SIDE = 32  # below 31 pixels AlexNet's poolings have nothing left to look at


def build_lpips(device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """LPIPS over AlexNet, or None where its package or AlexNet's weights are missing (`why_no_lpips` tells).

    Returns:
        A function of two batches, N x C x H x W in [-1, 1] each, C 1 or 3 => N distances, float32 on the CPU, no
        gradients: 0 for equal pictures. nan for other numbers of channels, which AlexNet does not know.
    """
    network = _load()
    if isinstance(network, str):
        return None
    network = network.to(device)

    @torch.no_grad()
    def distance(images: Tensor, others: Tensor) -> Tensor:
        assert images.shape == others.shape, f"pictures of one shape are compared, got {images.shape}, {others.shape}"
        if images.shape[1] not in (1, 3):
            return torch.full((len(images),), torch.nan)
        with torch.autocast(device.type, enabled=False):
            pairs = zip(images.split(1), others.split(1), strict=True)
            rows = [network(_prepared(one, device), _prepared(two, device)).flatten().cpu() for one, two in pairs]
        return torch.cat([torch.zeros(0), *rows])

    return distance


def why_no_lpips() -> str | None:
    """One line that says what LPIPS wants here, or None where it is ready."""
    network = _load()
    return network if isinstance(network, str) else None


def _load() -> Any:
    """The network, or what it lacks in one line."""
    if importlib.util.find_spec("lpips") is None:
        return 'LPIPS is left out: pip install "cyclestyle[metrics]"'
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]
    if not path.is_file():
        return f"LPIPS is left out: fetch AlexNet's weights from {URL} and put them at {path}"
    try:
        state = load_pickled(path)
        # Networks are born with random weights: the run's own random numbers stay as they were.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            import lpips

            # pnet_rand: a trunk of random weights, which lpips would otherwise download by itself.
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        # lpips' "slice2.3.weight" is torchvision's "features.3.weight"
        trunk = network.net
        trunk.load_state_dict({name: state[f"features.{name.split('.', 1)[1]}"] for name in trunk.state_dict()})
    except (CheckpointError, ImportError, LookupError, RuntimeError, TypeError) as error:
        return f"LPIPS is left out ({' '.join(str(error).split())[:160]}): AlexNet's weights are at {URL}"
    return network.eval().requires_grad_(False)


def _prepared(images: Tensor, device: torch.device) -> Tensor:
    """Float32 colour on `device`; tiny pictures are enlarged to what AlexNet can look at."""
    images = images.to(device, torch.float32).expand(-1, 3, -1, -1)
    side = min(images.shape[-2:])
    if side >= _LEAST_SIDE:
        return images
    size = [max(_LEAST_SIDE, round(length * _LEAST_SIDE / side)) for length in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
