"""Features that were computed once are kept on disk, under a name made of all that they depend on: never stale."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cyclestyle.checkpoint import replacing
from cyclestyle.evaluation.features import Extractor
from cyclestyle.images import to_tensor

MAX_BYTES = 512 * 2**20
_SUFFIX = ".features.safetensors"


def default_cache_folder() -> Path:
    """$CYCLESTYLE_CACHE, else the system's folder for things that can be computed anew."""
    if os.environ.get("CYCLESTYLE_CACHE"):
        return Path(os.environ["CYCLESTYLE_CACHE"]).expanduser()
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):  # Linux and the like, Windows
        if os.environ.get(variable):
            return Path(os.environ[variable]) / "cyclestyle"
    return Path(os.path.expanduser("~")) / ".cache" / "cyclestyle"


class FeatureCache:
    """A bounded folder of feature tables, each in a file named by its key.

    Keys are hashes of content, so an entry never goes stale; whatever fails (a full disk, no rights, a damaged file) is
    as if the entry had never been kept.
    """

    def __init__(self, folder: Path | None = None, *, max_bytes: int = MAX_BYTES) -> None:
        """Args:
        folder: made when the first entry is kept; None: `default_cache_folder()`.
        max_bytes: the least recently used entries are removed beyond it.
        """
        self.folder = default_cache_folder() if folder is None else Path(folder)
        self.max_bytes = max_bytes

    def load(self, key: str) -> Tensor | None:
        """The features kept under `key`, or None."""
        path = self._path(key)
        try:
            features: Tensor = safetensors.torch.load_file(path)["features"]
            os.utime(path)  # used just now: among the last to be removed
        except Exception:  # absent, damaged, unreadable: each means computing anew
            return None
        return features

    def save(self, key: str, features: Tensor) -> None:
        """Keep `features` under `key` where that is possible."""
        with suppress(OSError, RuntimeError, safetensors.SafetensorError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._path(key)) as partial:
                safetensors.torch.save_file({"features": features.contiguous()}, partial)
            self._remove_oldest()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _remove_oldest(self) -> None:
        entries = sorted(
            ((path.stat(), path) for path in self.folder.glob(f"*{_SUFFIX}")), key=lambda e: -e[0].st_mtime
        )
        total = 0
        for stat, path in entries:
            total += stat.st_size
            if total > self.max_bytes:
                path.unlink(missing_ok=True)


def cached_features(
    extractor: Extractor,
    pixels: Sequence[np.ndarray],
    *,
    batch_size: int = 16,
    cache: FeatureCache | None = None,
) -> Tensor:
    """Features of pictures, computed once for these pictures in this order and this extractor.

    Args:
        extractor: see `cyclestyle.evaluation.features`.
        pixels: H x W x C uint8 or uint16; sizes may differ, neighbours of one size go through together.
        batch_size: the most pictures that go through at once.
        cache: where features are kept; None: they are not.

    Returns:
        N x D float32.
    """
    key = _key(extractor, pixels) if cache is not None else ""
    found = cache.load(key) if cache is not None else None
    if found is not None and found.shape == (len(pixels), extractor.num_features):
        return found
    rows = [extractor(to_tensor(np.stack(batch))) for batch in _batches(pixels, batch_size)]
    features = torch.cat([torch.zeros(0, extractor.num_features), *rows])
    if cache is not None:
        cache.save(key, features)
    return features


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _key(extractor: Extractor, pixels: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256(extractor.fingerprint.encode())
    for picture in pixels:
        # Shape and type before the bytes: no two lists of pictures read the same.
        digest.update(f"|{picture.shape} {picture.dtype.str}|".encode())
        digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def _batches(pixels: Sequence[np.ndarray], batch_size: int) -> Iterator[list[np.ndarray]]:
    """Runs of neighbours of one shape and type, each at most `batch_size` long."""
    batch: list[np.ndarray] = []
    for picture in pixels:
        if batch and (len(batch) == batch_size or (picture.shape, picture.dtype) != (batch[0].shape, batch[0].dtype)):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch
