"""A run folder with all that a report shows: sample grids of known colours, pictures, scores, alarms."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .run_folders import DAY, make_run

NAMES = ("photo", "painting")
SOURCES = ((200, 40, 40), (40, 160, 40), (40, 40, 200))
"""Colours of the sources, a row each."""


def translation_colour(step: int, row: int) -> tuple[int, int, int]:
    """Of the translation in a grid's row at a step."""
    return 60 + step * 7 % 160, 80 * row, 120


def write_grid(
    run: Path, step: int, source: str, target: str, *, size: int = 24, rows: int = 3, label_height: int = 11
) -> Path:
    """A sample grid as the training writes it; without room for labels it does not name its pictures."""
    left, top, gap, columns = 4, 18, 4, 4
    pitch = size + label_height + gap
    sheet = Image.new("RGB", (left + columns * (size + gap), top + rows * pitch), (255, 255, 255))
    for row in range(rows):
        for column, colour in enumerate((SOURCES[row], translation_colour(step, row), (0, 0, 0), (9, 9, 9))):
            sheet.paste(colour, box(left + column * (size + gap), top + row * pitch, size))
    info = PngInfo()
    facts = {"step": step, "source": source, "target": target, "titles": [source, f"as {target}"], "left": left,
             "top": top, "gap": gap, "width": size, "height": size, "rows": rows}  # fmt: skip
    if label_height:
        pictures = [
            {"label": f"{source}_{row}.jpg", "luminance_correlation": step / 1000, "change": 0.1} for row in range(rows)
        ]
        facts |= {"label_height": label_height, "pictures": pictures}
    info.add_text("cyclestyle", json.dumps(facts))
    path = run / "samples" / f"step_{step:08d}_{source}_to_{target}.png"
    path.parent.mkdir(exist_ok=True)
    sheet.save(path, pnginfo=info)
    return path


def box(left: int, top: int, size: int) -> tuple[int, int, int, int]:
    return left, top, left + size, top + size


def training_row(step: int, **more: object) -> dict[str, Any]:
    """A row of metrics.jsonl as a training writes it."""
    wave = 1 + 0.1 * (step // 10 % 7)
    losses = {f"{term}_{side}": wave / step for term in ("cycle", "identity", "discriminator") for side in "ab"}
    losses |= {"adversarial_ab": 0.4 * wave, "adversarial_ba": 0.3 * wave}
    speed = {"seconds_per_step": 0.25, "images_per_second": 4.0, "data_wait": 0.01}
    return {"step": step, **losses, "score_real_a": 0.6, "score_fake_a": 0.4, "lr_generators": 2e-4, **speed, **more}


def evaluation_row(step: int, kid: float, pictures: Sequence[dict[str, Any]] = (), **more: object) -> dict[str, Any]:
    """A row of evaluations.jsonl with both directions."""
    scores = {"kid": kid, "kid_error": 0.01, "kid_std": 0.02, "kid_untranslated": 0.6, "fid": 100 * kid, "swd": 0.2}
    scores |= {"swd_32": 0.1, "swd_160": 0.3, "luminance_correlation": 0.8, "edge_correlation": 0.6, "ssim": 0.5}
    scores |= {"change": 0.15, "diversity": 0.9, "memorisation": 1.0}
    flat = {f"{name}_{direction}": value for direction in ("ab", "ba") for name, value in scores.items()}
    side = {"source": "photo", "target": "painting", "num_sources": 24, "num_references": 30,
            "reference_folder": "testB", "pictures": list(pictures)}  # fmt: skip
    return {"step": step, "seconds": 1.0, "size": 32, "extractor": "builtin-1", "best": "kid", "scores": flat,
            "directions": {"ab": side, "ba": {**side, "source": "painting", "target": "photo"}}, **more}  # fmt: skip


def write_pictures(folder: Path, count: int) -> list[dict[str, Any]]:
    """`count` flat pictures and as many training pictures, as the rows of an evaluation name them.

    Picture i is grey of value 20 * i, and its content score is (0.9 + 0.6 + 0.3) / 3 - i / 10.
    """
    rows = []
    for index in range(count):
        file, near = folder / f"test_{index}.png", folder / f"train_{index}.png"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), (20 * index,) * 3).save(file)
        Image.new("RGB", (40, 48), (10, 200, 20 * index)).save(near)
        scores = {"luminance_correlation": 0.9, "edge_correlation": 0.6, "ssim": 0.3 - 0.3 * index}
        rows.append({"file": str(file), **scores, "change": 0.1, "nearest": str(near), "nearest_distance": 0.5})
    return rows


ALARM = "light and dark are turned over: raise method.weights.identity_a"


def whole_run(folder: Path, *, num_steps: int = 600, best: int = 400, age: float = DAY) -> Path:
    """A finished run: rows every 10 steps, grids and evaluations every 100, one alarm from 100 until 200."""
    pictures = write_pictures(folder.parent / "pictures", 6)
    rows = [
        training_row(step, **({"alarms": {"color_inversion_ab": ALARM}} if 100 <= step < 200 else {}))
        for step in range(10, num_steps + 1, 10)
    ]
    steps = range(100, num_steps + 1, 100)
    evaluations = [evaluation_row(step, 0.1 + abs(step - best) / 1000, pictures) for step in steps]
    settings = {"train.steps": num_steps, "generator.filters": 32}
    make_run(folder, settings=settings, rows=rows, evaluations=evaluations, checkpoints=steps, best=best, age=age)
    for step in steps:
        write_grid(folder, step, *NAMES)
        write_grid(folder, step, *NAMES[::-1])
    return folder


def pixels_of(uri: str) -> np.ndarray:
    """The picture in a data URI, H x W x 3."""
    kind, data = uri.split(",", 1)
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB"))


def colour_of(uri: str) -> tuple[int, ...]:
    """Mean colour of a data URI, rounded."""
    return tuple(np.round(pixels_of(uri).reshape(-1, 3).mean(0)).astype(int).tolist())
