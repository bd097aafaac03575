"""What a run writes down: scalars to metrics.jsonl and TensorBoard, grids and texts to TensorBoard.

The only file that imports tensorboard.

Writing may fail (a full disk, a removed folder); that is said once and never ends a training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger("cyclestyle")

# Where each scalar of metrics.jsonl stands in TensorBoard; what is not listed is a loss term.
_TENSORBOARD_GROUPS = {"lr_": "learning_rate", "score_": "score", "grad_norm_": "gradient_norm"}
_SPEED = ("seconds_per_step", "images_per_second", "data_wait", "gpu_memory_gb")


class Tracker:
    """Means of scalars between two log points, and the files they go to.

    Args:
        folder: the run folder: event files and metrics.jsonl.
        step: the step a run goes on from; rows and points beyond it, of steps that will be taken again, are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._metrics_file = folder / "metrics.jsonl"
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._warned = False
        self._writer: SummaryWriter | None = None
        self._attempt(lambda: _drop_rows_after(self._metrics_file, step))
        self._attempt(lambda: self._open(folder, step))

    def _open(self, folder: Path, step: int) -> None:
        # Readers drop points of older event files from purge_step on: no point is shown twice after a resume,
        # nor after a run that was killed before its first checkpoint.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def _attempt(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # OSError of a disk, or whatever the event writer's own thread died of
            if not self._warned:
                self._warned = True
                logger.warning(
                    "logging failed (%s: %s); training goes on without what is lost", type(error).__name__, error
                )

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Take scalars of one step into the means; they stay on their device, nothing waits for it."""
        for name, scalar in scalars.items():
            value = scalar.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Means since the last call, by name: one transfer, the only place where the loop waits for the device."""
        if not self._sums:
            return {}
        values = torch.stack([self._sums[name] / self._counts[name] for name in self._sums]).tolist()
        means = dict(zip(self._sums, values, strict=True))
        self._sums, self._counts = {}, {}
        return means

    def not_finite(self) -> list[str]:
        """Names of scalars that became infinite or NaN since the last call of `means`; waits for the device."""
        if not self._sums:
            return []
        finite = torch.stack(list(self._sums.values())).isfinite().tolist()
        return [name for name, is_finite in zip(self._sums, finite, strict=True) if not is_finite]

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write the row of `step`."""
        row = {"step": step, **scalars}
        self._attempt(lambda: self._append(row))
        self._attempt(lambda: self._write_events(row))

    def _append(self, row: dict[str, float]) -> None:
        with open(self._metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _write_events(self, row: dict[str, float]) -> None:
        if self._writer is None:
            return
        step = int(row["step"])
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(tensorboard_tag(name), value, step)
        self._writer.flush()

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """A picture, H x W x C uint8, under the Images tab."""
        if self._writer is not None:
            writer = self._writer
            self._attempt(lambda: writer.add_image(tag, pixels, step, dataformats="HWC"))

    def picture(self, path: Path, pixels: np.ndarray) -> None:
        """A picture, H x W x C uint8, as a file of its own."""
        self._attempt(lambda: Image.fromarray(pixels).save(path))

    def text(self, tag: str, text: str, step: int) -> None:
        """Markdown under the Text tab."""
        if self._writer is not None:
            writer = self._writer
            self._attempt(lambda: writer.add_text(tag, text, step))

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._attempt(self._writer.close)

    def state_dict(self) -> dict[str, Any]:
        """Sums since the last log point, so that the next row after a resume is that of an uninterrupted run."""
        return {"sums": {name: value.cpu() for name, value in self._sums.items()}, "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from `state_dict`."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = dict(state["counts"])


def tensorboard_tag(name: str) -> str:
    """The group and name under which a scalar of metrics.jsonl stands in TensorBoard: cycle_a -> loss/cycle_a."""
    if name in _SPEED:
        return f"speed/{name}"
    for prefix, group in _TENSORBOARD_GROUPS.items():
        if name.startswith(prefix):
            return f"{group}/{name.removeprefix(prefix)}"
    return f"loss/{name}"


def _drop_rows_after(path: Path, step: int) -> None:
    """Keep the rows of metrics.jsonl up to `step`; a last line cut off by a crash goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)
