"""Scalars as TensorBoard's own reader sees them, across resumes and failing disks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclestyle.training.layout import tensorboard_tag
from cyclestyle.training.tracker import Tracker


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder: Path) -> EventAccumulator:
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return reader


def write_steps(tracker: Tracker, steps: range, offset: float = 0.0) -> None:
    for step in steps:
        tracker.add({"cycle_a": torch.tensor(step + offset)})
        tracker.write(step, {**tracker.means(), "lr_generators": 0.1, "images_per_second": 2.0})


def test_rows_are_means_since_the_last_row(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    for value in (1.0, 2.0, 6.0):
        tracker.add({"cycle_a": torch.tensor(value)})
    tracker.add({"rare": torch.tensor(4.0)})
    tracker.write(3, tracker.means())
    tracker.add({"cycle_a": torch.tensor(10.0)})
    tracker.write(4, tracker.means())
    tracker.close()
    assert rows(tmp_path) == [{"step": 3, "cycle_a": 3.0, "rare": 4.0}, {"step": 4, "cycle_a": 10.0}]


def test_tensorboard_has_the_same_scalars(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    write_steps(tracker, range(1, 4))
    tracker.close()
    reader = events(tmp_path)
    assert set(reader.Tags()["scalars"]) == {"loss/cycle_a", "learning_rate/generators", "speed/images_per_second"}
    for name in ("cycle_a", "lr_generators", "images_per_second"):
        points = [(point.step, point.value) for point in reader.Scalars(tensorboard_tag(name))]
        assert points == [(row["step"], pytest.approx(row[name])) for row in rows(tmp_path)]


def test_a_resume_leaves_no_doubled_and_no_stale_points(tmp_path: Path) -> None:
    first = Tracker(tmp_path, 0)
    write_steps(first, range(1, 8))  # went on to 7, but the checkpoint is of step 4
    first.close()
    second = Tracker(tmp_path, 4)
    write_steps(second, range(5, 10), offset=100.0)
    second.close()
    expected = [(step, float(step)) for step in range(1, 5)] + [(step, step + 100.0) for step in range(5, 10)]
    assert [(row["step"], row["cycle_a"]) for row in rows(tmp_path)] == expected
    assert [(point.step, point.value) for point in events(tmp_path).Scalars("loss/cycle_a")] == expected


def test_a_run_killed_before_its_first_checkpoint_starts_clean(tmp_path: Path) -> None:
    for _ in range(2):
        tracker = Tracker(tmp_path, 0)
        write_steps(tracker, range(1, 4))
        tracker.close()
    assert [point.step for point in events(tmp_path).Scalars("loss/cycle_a")] == [1, 2, 3]
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "cycle_a": 1.0}\n{"step": 2, "cyc')
    Tracker(tmp_path, 5).close()
    assert rows(tmp_path) == [{"step": 1, "cycle_a": 1.0}]


def test_sums_since_the_last_row_survive_a_resume(tmp_path: Path) -> None:
    first = Tracker(tmp_path / "a", 0)
    first.add({"cycle_a": torch.tensor(1.0)})
    second = Tracker(tmp_path / "b", 0)
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    second.add({"cycle_a": torch.tensor(3.0)})
    assert second.means() == {"cycle_a": 2.0}
    first.close()
    second.close()


def test_pictures_and_texts_are_there(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    pixels = np.full((4, 6, 3), 200, np.uint8)
    tracker.image("samples/photo_to_painting", pixels, 7)
    tracker.picture(tmp_path / "grid.png", pixels)
    tracker.text("config", "name: tiny", 0)
    tracker.close()
    reader = events(tmp_path)
    (image,) = reader.Images("samples/photo_to_painting")
    assert (image.step, image.width, image.height) == (7, 6, 4)
    assert "config/text_summary" in reader.Tags()["tensors"]
    assert (tmp_path / "grid.png").is_file()


class BrokenWriter:
    """An event writer on a full disk."""

    def __getattr__(self, name: str) -> object:
        def fail(*args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

        return fail


def test_a_failing_disk_warns_once_and_never_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.close()
    tracker._writer = BrokenWriter()  # type: ignore[assignment]
    tracker._folder = tmp_path / "gone"
    write_steps(tracker, range(1, 4))
    tracker.image("grid", np.zeros((2, 2, 3), np.uint8), 1)
    tracker.picture(tmp_path / "gone" / "grid.png", np.zeros((2, 2, 3), np.uint8))
    tracker.text("config", "", 0)
    tracker.close()
    assert len([record for record in caplog.records if "logging failed" in record.message]) == 1


def test_a_folder_that_cannot_be_written_does_not_stop_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    tracker = Tracker(tmp_path / "file", 0)
    write_steps(tracker, range(1, 3))
    tracker.close()
    assert "logging failed" in caplog.text
