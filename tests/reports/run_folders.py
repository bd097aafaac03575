"""Run folders by their formats (docs/architecture.md), without a training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

NOW = 1_800_000_000.0
"""When the tests take place, in seconds since 1970."""
DAY = 86400.0

CONFIG = {
    "name": "run",
    "output_dir": "runs",
    "data": {"root": "pictures", "a": {"name": "photo"}, "b": {"name": "painting"}, "channels": 3},
    "method": {"name": "cyclegan"},
    "train": {"steps": 1000, "epochs": None},
    "log": {"scalars_every": 10},
    "evaluate": {"best": "kid", "direction": "ab", "patience": 0, "least_steps": 0},
    "doctor": {"on_alarm": "warn"},
}


def row(step: int, **more: object) -> dict[str, Any]:
    """A row of the training in metrics.jsonl."""
    return {"step": step, "cycle_a": 0.5, "seconds_per_step": 0.1, **more}


def evaluation(step: int, kid: float = 0.1, **more: Any) -> dict[str, Any]:
    """A row of evaluations.jsonl, of the direction ab and ba; `more` replaces its keys."""
    pictures = [{"file": f"pictures/testA/{index}.png", "ssim": 0.5} for index in range(3)]
    one = {"source": "photo", "target": "painting", "num_sources": 3, "num_references": 4,
           "reference_folder": "pictures/testB", "pictures": pictures}  # fmt: skip
    other = {**one, "source": "painting", "target": "photo", "num_sources": 4, "num_references": 3}
    scores = {"kid_ab": kid, "kid_error_ab": 0.001, "swd_16_ab": 2.0, "kid_ba": 3 * kid}
    return {"step": step, "seconds": 2.0, "size": 160, "extractor": "builtin-1", "best": "kid", "scores": scores,
            "directions": {"ab": one, "ba": other}, **more}  # fmt: skip


def make_run(
    path: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    evaluations: Sequence[Mapping[str, Any]] = (),
    checkpoints: Sequence[int] = (),
    best: int | None = None,
    age: float = DAY,
) -> Path:
    """A run folder.

    Args:
        settings: dotted keys that replace those of `CONFIG`.
        checkpoints: their steps; the files are empty.
        best: step of the best one.
        age: seconds since the training last wrote, counted from `NOW`.
    """
    (path / "checkpoints").mkdir(parents=True)
    config = json.loads(json.dumps(CONFIG))
    for key, value in (settings or {}).items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    (path / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    for name, lines in (("metrics.jsonl", rows), ("evaluations.jsonl", evaluations)):
        if lines:
            (path / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for step in checkpoints:
        (path / f"checkpoints/step_{step:08d}.pt").touch()
    if checkpoints:
        index: dict[str, Any] = {"latest": f"step_{max(checkpoints):08d}.pt", "best": None}
        if best is not None:
            index |= {"best": f"step_{best:08d}.pt", "best_step": best, "best_reason": "lowest kid_ab"}
        (path / "checkpoints/index.json").write_text(json.dumps(index), encoding="utf-8")
    set_age(path, age)
    return path


def set_age(path: Path, age: float) -> None:
    """Date every file of a run `age` seconds before `NOW`."""
    for file in path.rglob("*"):
        if file.is_file():
            os.utime(file, (NOW - age, NOW - age))
