"""What tests share: small folders of pictures, a small run config, deterministic torch."""

from __future__ import annotations

import os
from pathlib import Path

# Tests run side by side, and on tiny tensors: more threads only wait for each other, here and in processes they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.summary.writer import event_file_writer

torch.set_num_threads(1)  # whatever the environment says


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into its user's cache of features."""
    monkeypatch.setenv("CYCLESTYLE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _numbered_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files of one second are read in the order of their names, which end in a count of the whole process: 9
    would come after 10 in tests that write several in a second, as no run does."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def write_pictures(folder: Path, count: int, *, size: tuple[int, int] = (40, 36), seed: int = 0) -> Path:
    """`count` different smooth PNG pictures of `size` (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for index in range(count):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"picture_{index:02d}.png")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A root with trainA, trainB, testA, testB of unequal sizes."""
    root = tmp_path / "data"
    for number, (name, count) in enumerate({"trainA": 5, "trainB": 3, "testA": 2, "testB": 2}.items()):
        write_pictures(root / name, count, seed=number)
    return root


TINY = (
    "generator.filters=4",
    "generator.blocks=1",
    "discriminator.filters=4",
    "discriminator.layers=1",
    "data.load_size=20",
    "data.crop_size=16",
    "data.num_workers=0",
    "data.a.name=photo",
    "data.b.name=painting",
    "train.device=cpu",
    "train.precision=fp32",
    "log.scalars_every=2",
    "log.samples_every=4",
    "log.num_samples=2",
    "train.checkpoint_every=4",
)
"""`key=value`s of a run that takes a second."""


@pytest.fixture
def tiny(dataset: Path, tmp_path: Path) -> list[str]:
    """`key=value`s of a tiny run on `dataset`, under tmp_path/runs/tiny."""
    return [*TINY, f"data.root={dataset}", f"output_dir={tmp_path / 'runs'}", "name=tiny"]
