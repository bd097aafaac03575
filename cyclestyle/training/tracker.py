"""What a run writes down: scalars to metrics.jsonl and TensorBoard, evaluations, grids, alarms, the run's settings.

The only file that imports tensorboard. Where each number stands there: `layout.py`.

The JSON is strict: a number that is not finite is left out of its row ("a row's absent key is no point of that curve"),
since NaN is no JSON. TensorBoard is given it, and marks it.

Writing may fail (a full disk, a removed folder); that is said once and never ends a training.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import api_pb2, metadata  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import (  # type: ignore[import-untyped]
    HParamsPluginData,
    SessionEndInfo,
    SessionStartInfo,
)
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cyclestyle.checkpoint import replacing
from cyclestyle.distributed import sum_in_place
from cyclestyle.training import layout
from cyclestyle.training.layout import Setting

logger = logging.getLogger("cyclestyle")

_GRID_KEY = "cyclestyle"
"""Text chunk of a sample grid's PNG that says where its cells are."""

_HPARAMS_FILE = "events.out.tfevents.0000000000.hparams"
"""Sorts before the other event files: a TensorBoard that reads them in turn does not stay with it."""

_TYPES = {
    "bool_value": api_pb2.DATA_TYPE_BOOL,
    "string_value": api_pb2.DATA_TYPE_STRING,
    "number_value": api_pb2.DATA_TYPE_FLOAT64,
}


class Tracker:
    """Means of scalars between two log points, and the files they go to.

    Args:
        folder: the run folder: event files, metrics.jsonl, evaluations.jsonl; None: nothing is written, as in all
            processes but the first.
        step: the step a run goes on from; rows and points beyond it, of steps that will be taken again, are dropped.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._folder = folder
        self._step = step
        self._means: dict[tuple[str, ...], Means] = {}
        self._alarms: dict[str, bool] = {}  # those that ever rang: whether they do
        self._alarms_said: dict[str, tuple[int, bool]] = {}
        self._lowest: dict[str, float] = {}
        self._warned = False
        self._writer: SummaryWriter | None = None
        if folder is None:
            return
        self._attempt(lambda: _drop_rows_after(folder / "metrics.jsonl", step))
        self._attempt(lambda: self._recall(_drop_rows_after(folder / "evaluations.jsonl", step)))
        self._attempt(lambda: self._open(folder, step))

    def _open(self, folder: Path, step: int) -> None:
        # Readers drop points of older event files from purge_step on: no point is shown twice after a resume,
        # nor after a run that was killed before its first checkpoint.
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def _recall(self, evaluations: list[dict[str, Any]]) -> None:
        for row in evaluations:
            self._take_lowest(row)

    def _attempt(self, write: Callable[[], object]) -> None:
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
        if not scalars:
            return
        values = torch.stack([scalar.detach().float() for scalar in scalars.values()])
        self._means.setdefault(tuple(scalars), Means()).add(values)

    def means(self, share: float = 1.0) -> dict[str, float]:
        """Means of the finite values since the last call, over all processes, by name; NaN where there was none.

        One transfer, the only place where the loop waits for the device.

        Args:
            share: this process's part of each batch.
        """
        if not self._means:
            return {}
        totals = torch.stack([torch.cat([each.sums for each in self._means.values()]),
                              torch.cat([each.counts for each in self._means.values()])])  # fmt: skip
        sum_in_place([totals.mul_(share)])
        sums, counts = totals.tolist()
        names = [name for names in self._means for name in names]
        self._means = {}
        return {
            name: total / count if count else math.nan for name, total, count in zip(names, sums, counts, strict=True)
        }

    def write(self, step: int, scalars: Mapping[str, float], alarms: Mapping[str, str] | None = None) -> None:
        """Write the row of `step`.

        Args:
            scalars: by name; `doctor_<measure>_<side>` stands under doctor/ in TensorBoard.
            alarms: those that are active, by name: one line each.
        """
        self._step = step
        row = {"step": step, **scalars, **({"alarms": dict(alarms)} if alarms else {})}
        self._attempt(lambda: self._append("metrics.jsonl", row))
        points = {layout.tensorboard_tag(name): value for name, value in scalars.items()}
        active = alarms or {}
        self._alarms = {name: name in active for name in {*self._alarms, *active}}
        points |= self._alarm_points(step, self._alarms)
        self._attempt(lambda: self._add_scalars(points, step))

    def alarm(self, step: int, name: str, line: str, started: bool) -> None:
        """An entry under the Text tab where an alarm starts or ends: `line` says what was seen, and the knob."""
        words = line if line.startswith(name) else f"{name}: {line}"
        self.text("alarms", f"**{'started' if started else 'ended'}** {words}", step)
        self._alarms[name] = started
        points = self._alarm_points(step, [name])
        self._attempt(lambda: self._add_scalars(points, step))

    def _alarm_points(self, step: int, names: Iterable[str]) -> dict[str, float]:
        """The curves of alarms that ever rang: 1 while they do, else 0; what was said of a step is not said again."""
        fresh = {
            name: self._alarms[name] for name in names if self._alarms_said.get(name) != (step, self._alarms[name])
        }
        self._alarms_said |= {name: (step, rings) for name, rings in fresh.items()}
        return {f"alarm/{name}": float(rings) for name, rings in fresh.items()}

    def evaluation(self, row: Mapping[str, Any]) -> None:
        """Write an evaluation: whole to evaluations.jsonl, its flat scores to metrics.jsonl and TensorBoard.

        Args:
            row: "step", "scores" by name (`kid_ab`), "best" (the metric that names the best checkpoint), and all else
                that evaluations.jsonl is to hold.
        """
        self._step = step = int(row["step"])
        scores: dict[str, float] = row["scores"]
        self._attempt(lambda: self._append("evaluations.jsonl", row))
        self._attempt(lambda: self._append("metrics.jsonl", {"step": step, **scores}))
        points = dict(scores)
        for name, value in scores.items():
            error = scores.get(name.replace("kid_", "kid_error_", 1))
            if name in ("kid_ab", "kid_ba") and error is not None:
                points[name.replace("_", "_lower_")] = value - error
                points[name.replace("_", "_upper_")] = value + error
        points |= {f"lowest_{name}": value for name, value in self._take_lowest(row).items()}
        self._attempt(lambda: self._add_scalars({layout.score_tag(name): v for name, v in points.items()}, step))

    def _take_lowest(self, row: Mapping[str, Any]) -> dict[str, float]:
        """The lowest value so far of the metric that names the best checkpoint, by score; `row` included."""
        scores = strict(row["scores"])
        names = [f"{row.get('best')}_{direction}" for direction in ("ab", "ba")]
        for name in names:
            if name in scores:
                self._lowest[name] = min(scores[name], self._lowest.get(name, math.inf))
        return {name: self._lowest[name] for name in names if name in self._lowest}

    def layout(self, directions: Sequence[str], terms: Sequence[str]) -> None:
        """Lay out the custom-scalars page, once at the start of a run; see `layout.custom_scalars`."""
        if self._writer is not None:
            writer = self._writer
            self._attempt(lambda: writer.add_custom_scalars(layout.custom_scalars(directions, terms)))

    def hparams(self, settings: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """A row of TensorBoard's HParams page: the run's settings, and the scores that it ends with.

        The last call wins, also after a resume with other settings.

        Args:
            settings: the config, nested; lists become texts, what is null is left out.
            scores: by name (`kid_ab`); they stand under hparam/.
        """
        self._attempt(lambda: self._write_hparams(layout.flat_settings(settings), scores))
        self._attempt(
            lambda: self._add_scalars(
                {layout.final_score_tag(name): value for name, value in strict(dict(scores)).items()}, self._step
            )
        )

    def _write_hparams(self, settings: dict[str, Setting], scores: Collection[str]) -> None:
        # TensorBoard keeps the first settings that it reads of a run: they have a file of their own, which is replaced.
        columns = [
            api_pb2.HParamInfo(name=name, type=_TYPES[_field(value)], differs=name in layout.HEADLINE_SETTINGS)
            for name, value in settings.items()
        ]
        metrics = [
            api_pb2.MetricInfo(name=api_pb2.MetricName(tag=layout.final_score_tag(name)), display_name=name)
            for name in layout.final_score_names(scores)
        ]
        start = SessionStartInfo()
        for name, value in settings.items():
            setattr(start.hparams[name], _field(value), value)
        parts = {
            metadata.EXPERIMENT_TAG: {"experiment": api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics)},
            metadata.SESSION_START_INFO_TAG: {"session_start_info": start},
            metadata.SESSION_END_INFO_TAG: {"session_end_info": SessionEndInfo(status=api_pb2.STATUS_SUCCESS)},
        }
        now = time.time()
        if self._folder is None:
            return
        with replacing(self._folder / _HPARAMS_FILE) as partial, open(partial, "wb") as file:
            records = RecordWriter(file)
            records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            for tag, part in parts.items():
                about = metadata.create_summary_metadata(HParamsPluginData(**part))
                summary = Summary(value=[Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)])
                records.write(Event(wall_time=now, summary=summary).SerializeToString())

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if self._folder is None:
            return
        with open(self._folder / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(strict(row), allow_nan=False) + "\n")

    def _add_scalars(self, points: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            return
        for tag, value in points.items():
            self._writer.add_scalar(tag, value, step)
        self._writer.flush()

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """A picture, H x W x C uint8, under the Images tab."""
        if self._writer is not None:
            writer = self._writer
            self._attempt(lambda: writer.add_image(tag, pixels, step, dataformats="HWC"))

    def picture(self, path: Path, pixels: np.ndarray, info: Mapping[str, Any] | None = None) -> None:
        """A picture, H x W x C uint8, as a PNG of its own; `info` becomes JSON in its text chunk "cyclestyle"."""
        self._attempt(lambda: _save_png(path, pixels, info))

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
        """Sums since the last log point, and alarms: the next row after a resume is an uninterrupted run's."""
        means = [
            {"names": list(names), "sums": each.sums.cpu(), "counts": each.counts.cpu()}
            for names, each in self._means.items()
        ]
        return {"means": means, "alarms": dict(self._alarms)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from `state_dict`."""
        self._means = {
            tuple(each["names"]): Means(each["sums"].to(device), each["counts"].to(device))
            for each in state.get("means", [])  # checkpoints of version 0.1 have them in another form
        }
        self._alarms = dict(state.get("alarms", {}))


@dataclass
class Means:
    """Sums of the finite values of some scalars, and how many those were; float32 on the scalars' device."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(()))
    counts: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, values: Tensor) -> None:
        """Take in a value of each."""
        is_finite = values.isfinite()
        if not self.sums.ndim:
            self.sums, self.counts = torch.zeros_like(values), torch.zeros_like(values)
        self.sums += values.where(is_finite, 0.0)
        self.counts += is_finite


def strict(value: Any) -> Any:
    """`value` as strict JSON can hold it: without keys whose number is not finite (null in a list), paths as text."""
    if isinstance(value, Mapping):
        kept = ((key, item, strict(item)) for key, item in value.items())
        return {str(key): clean for key, item, clean in kept if clean is not None or item is None}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):  # numpy's too
        return float(value) if math.isfinite(value) else None
    return str(value)


def _field(value: Setting) -> str:
    """Where a protocol buffer `Value` holds it."""
    if isinstance(value, bool):
        return "bool_value"
    return "string_value" if isinstance(value, str) else "number_value"


def _save_png(path: Path, pixels: np.ndarray, info: Mapping[str, Any] | None) -> None:
    chunks = PngInfo()
    if info is not None:
        chunks.add_text(_GRID_KEY, json.dumps(strict(info), allow_nan=False))
    with replacing(path) as partial:  # a report may be made while the run goes on
        Image.fromarray(pixels).save(partial, format="PNG", pnginfo=chunks)


def _drop_rows_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Keep the rows up to `step`, and return them; a last line cut off by a crash goes too."""
    if not path.exists():
        return []
    kept, rows = [], []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            is_kept = row["step"] <= step
        except (ValueError, TypeError, KeyError, RecursionError):  # cut off, or not of our making
            continue
        if is_kept:
            kept.append(line + "\n")
            rows.append(row)
    with replacing(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")
    return rows
