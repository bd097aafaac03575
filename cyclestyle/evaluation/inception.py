"""The reference Inception of torch-fidelity: the features behind published FID and KID.

The only file that imports torch_fidelity, when it is asked for.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from cyclestyle.checkpoint import load_pickled
from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.evaluation.cache import file_hash
from cyclestyle.images import to_pixels

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
_AT_ONCE = 16


class Inception:
    """InceptionV3 as TensorFlow's FID used it, 2048 pooled features; pictures go in as 8 bits, at their own size."""

    name = "inception"
    num_features = 2048

    def __init__(self, weights: str | Path | None, device: torch.device, channels: int) -> None:
        """Raises `ConfigError` and `CheckpointError` as `features.build_extractor` says; never downloads."""
        check_channels(channels, self.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import torch_fidelity
                from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ConfigError(
                f'extractor=inception needs torch-fidelity ({error}): pip install "cyclestyle[metrics]"; '
                "extractor=builtin needs nothing"
            ) from error
        path = find_weights(weights, URL, self.name)
        load_pickled(path)  # plain weights and no code, before torch_fidelity reads it with less care
        try:
            # Networks are born with random weights: the run's own random numbers stay as they were.
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")
                network = FeatureExtractorInceptionV3("cyclestyle", ["2048"], feature_extractor_weights_path=str(path))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise wrong_weights(path, URL, self.name) from error
        self.fingerprint = f"inception {torch_fidelity.__version__} {file_hash(path)}"
        self._network = network.to(device)
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """N x C x H x W in [-1, 1] => N x 2048 float32 on the CPU."""
        rows = [torch.zeros(0, self.num_features)]
        with torch.autocast(self._device.type, enabled=False):
            for part in images.split(_AT_ONCE):
                pixels = torch.from_numpy(to_pixels(part)).permute(0, 3, 1, 2)  # N x H x W x C => N x C x H x W
                colour = pixels.expand(-1, 3, -1, -1).contiguous().to(self._device)
                rows.append(self._network(colour)[0].float().cpu())
        return torch.cat(rows)


def check_channels(channels: int, name: str) -> None:
    """Raises `ConfigError` unless pictures are grey (shown as colour) or have three channels."""
    if channels not in (1, 3):
        raise ConfigError(
            f"extractor={name} looks at 1 or 3 channels, these pictures have {channels}: use extractor=builtin"
        )


def find_weights(weights: str | Path | None, url: str, name: str) -> Path:
    """The file that `evaluate.weights` or `--weights` names, or the one that torch keeps of `url`.

    Raises:
        ConfigError: it is not there.
    """
    kept = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    path = kept if weights is None else Path(weights).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"extractor={name} needs its weights, and there is no file {path}: fetch {url} and put it at {kept} "
            "or name its file with evaluate.weights or --weights; extractor=builtin needs nothing"
        )
    return path


def wrong_weights(path: Path, url: str, name: str) -> CheckpointError:
    """The error for weights that are whole, but of another network."""
    return CheckpointError(f"{path} holds other weights than extractor={name} needs: fetch {url}")
