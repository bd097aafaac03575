"""What the tests of bulk translating share: a translator whose answer is known, small pictures, the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from cyclestyle.checkpoint import save_translator
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.devices import Precision
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.inference.translator import Translator
from cyclestyle.networks.build import build_generator

REPOSITORY = Path(__file__).parents[2]


class Invert(nn.Module):
    """x -> -x, that is 255 - v; notes the sizes of its batches."""

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return -images


def inverter(channels: int = 3, **changes: object) -> Translator:
    facts = {"source": "photo", "target": "negative", "direction": "ab", "generator": {}, "channels": channels}
    facts |= {"resize": "shorter", "load_size": 286, "crop_size": 256, **changes}
    spec = TranslatorSpec(**facts)  # type: ignore[arg-type]
    return Translator(spec, Invert(), torch.device("cpu"), Precision("fp32", ""), tile=None)


def noise(height: int, width: int, channels: int = 3, *, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    """Random pixels of the whole range."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def save(pixels: np.ndarray, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def tiny_translator(path: Path) -> Path:
    """A translator file with random weights, which takes milliseconds a picture."""
    torch.manual_seed(0)
    config = GeneratorConfig(filters=4, blocks=1)
    metadata = {
        "source": "photo", "target": "painting", "direction": "ab", "generator": {"filters": 4, "blocks": 1},
        "channels": 3, "resize": "shorter", "load_size": 286, "crop_size": 256, "step": 1,
    }  # fmt: skip
    save_translator(path, build_generator(config, 3).state_dict(), metadata)
    return path


# The command; each picture takes SLOW seconds more.
_COMMAND = """
import os, sys, time
from cyclestyle.cli.main import main
from cyclestyle.inference.translator import Translator
plain = Translator.pixels
def slow(self, *args, **kwargs):
    time.sleep(float(os.environ.get("SLOW", "0")))
    return plain(self, *args, **kwargs)
Translator.pixels = slow
sys.exit(main(["translate", *sys.argv[1:]]))
"""


def start(*words: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start `cyclestyle translate WORDS` on the CPU in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, "--device", "cpu", "--precision", "fp32", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
    )
