"""Features are kept by content: found again for the same pictures and eye, computed anew for anything else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclestyle.evaluation.cache import FeatureCache, cached_features, default_cache_folder, file_hash


class Eye:
    """An extractor that counts: features are the means of the channels, the height and the width."""

    name = "eye"
    num_features = 5

    def __init__(self, fingerprint: str = "eye 1") -> None:
        self.fingerprint = fingerprint
        self.batches: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        size = torch.tensor([images.shape[-2:]] * len(images), dtype=torch.float32)
        return torch.cat([images.mean((2, 3)), size], 1)


def pictures(count: int = 5, size: tuple[int, int] = (6, 4), seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache")


def test_features_are_those_of_the_pictures_in_order() -> None:
    pixels = [*pictures(3), *pictures(2, (4, 6)), *pictures(1)]
    eye = Eye()
    features = cached_features(eye, pixels, batch_size=2)
    means = np.stack([picture.mean((0, 1)) / 127.5 - 1 for picture in pixels])
    sizes = np.array([picture.shape[:2] for picture in pixels])
    np.testing.assert_allclose(features.numpy(), np.concatenate([means, sizes], 1), atol=1e-6)
    assert eye.batches == [2, 1, 2, 1]  # neighbours of one size, two at a time


def test_the_second_time_they_are_read(cache: FeatureCache) -> None:
    first = cached_features(Eye(), pictures(), cache=cache)
    eye = Eye()
    assert torch.equal(cached_features(eye, pictures(), cache=cache), first)
    assert eye.batches == []


def test_without_a_cache_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLESTYLE_CACHE", str(tmp_path))
    cached_features(Eye(), pictures())
    assert not list(tmp_path.iterdir())


def one_grey_level(pixels: list[np.ndarray]) -> list[np.ndarray]:
    changed = [picture.copy() for picture in pixels]
    changed[-1][-1, -1, -1] ^= 1  # the very last byte
    return changed


CHANGES = {
    "one grey level of one pixel": one_grey_level,
    "the order": lambda pixels: pixels[::-1],
    "one picture more": lambda pixels: [*pixels, pixels[0]],
    "one picture fewer": lambda pixels: pixels[:-1],
    "the shape of the same bytes": lambda pixels: [picture.reshape(4, 6, 3) for picture in pixels],
    "where one picture ends": lambda pixels: [np.concatenate(pixels[:2]), *pixels[2:]],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_pictures_are_computed_anew(change, cache: FeatureCache) -> None:  # type: ignore[no-untyped-def]
    cached_features(Eye(), pictures(), cache=cache)
    changed = change(pictures())
    eye = Eye()
    features = cached_features(eye, changed, cache=cache)
    assert sum(eye.batches) == len(changed)
    assert torch.equal(features, cached_features(Eye(), changed))


def test_the_same_bytes_of_another_type_are_other_pictures(cache: FeatureCache) -> None:
    pixels = [picture.astype(np.uint16) for picture in pictures()]
    cached_features(Eye(), pixels, cache=cache)
    eye = Eye()
    cached_features(eye, [picture.view(np.float16) for picture in pixels], cache=cache)
    assert eye.batches == [5]


def test_another_eye_looks_for_itself(cache: FeatureCache) -> None:
    cached_features(Eye(), pictures(), cache=cache)
    eye = Eye("eye 2")
    cached_features(eye, pictures(), cache=cache)
    assert eye.batches == [5]


def test_a_view_is_known_by_what_it_shows(cache: FeatureCache) -> None:
    flipped = [picture[:, ::-1] for picture in pictures()]
    first = cached_features(Eye(), flipped, cache=cache)
    eye = Eye()
    assert torch.equal(cached_features(eye, [picture.copy() for picture in flipped], cache=cache), first)
    assert eye.batches == []


@pytest.mark.parametrize("damage", [b"", b"no features", None])
def test_a_damaged_entry_is_computed_anew_and_mended(damage: bytes | None, cache: FeatureCache) -> None:
    first = cached_features(Eye(), pictures(), cache=cache)
    (entry,) = cache.folder.iterdir()
    entry.write_bytes(entry.read_bytes()[:-3] if damage is None else damage)
    eye = Eye()
    assert torch.equal(cached_features(eye, pictures(), cache=cache), first)
    assert eye.batches == [5]
    cached_features(eye, pictures(), cache=cache)
    assert eye.batches == [5]


def test_an_entry_of_another_size_is_no_entry(cache: FeatureCache) -> None:
    cached_features(Eye(), pictures(), cache=cache)
    (entry,) = cache.folder.iterdir()
    cache.save(entry.name.partition(".")[0], torch.zeros(4, 5))
    eye = Eye()
    assert cached_features(eye, pictures(), cache=cache).shape == (5, 5)
    assert eye.batches == [5]


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    eye = Eye()
    features = cached_features(eye, pictures(), cache=FeatureCache(tmp_path / "file" / "cache"))
    assert torch.equal(features, cached_features(Eye(), pictures()))


def test_a_full_disk_does_not_matter(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cached_features(Eye(), pictures(), cache=cache).shape == (5, 5)
    assert not list(cache.folder.iterdir())  # nothing half written either


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=3 * 5000)
    table = torch.zeros(1000)  # 4000 bytes and a header
    for age, key in enumerate(("a", "b", "c")):
        cache.save(key, table)
        os.utime(next(tmp_path.glob(f"{key}.*")), (1000 + age, 1000 + age))
    assert cache.load("a") is not None  # used just now: younger than b and c
    (tmp_path / "own.txt").write_bytes(bytes(50000))  # somebody else's: neither counted nor removed
    cache.save("d", table)
    kept = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
    assert kept == {"a", "c", "d", "own"}


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CYCLESTYLE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    assert default_cache_folder() == Path("/home/someone/.cache/cyclestyle")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert default_cache_folder() == Path("/local/cyclestyle")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_folder() == Path("/xdg/cyclestyle")
    monkeypatch.setenv("CYCLESTYLE_CACHE", "~/mine")
    assert default_cache_folder() == FeatureCache().folder == Path("/home/someone/mine")


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "long").write_bytes(content)
    assert file_hash(tmp_path / "long") == hashlib.sha256(content).hexdigest()


def test_no_pictures(cache: FeatureCache) -> None:
    assert cached_features(Eye(), [], cache=cache).shape == (0, 5)
