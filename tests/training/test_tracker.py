"""Scalars as TensorBoard's own reader sees them, across resumes and failing disks."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.data.provider import ListHyperparametersResult
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from cyclestyle.config.loading import to_mapping
from cyclestyle.config.schema import Config
from cyclestyle.training.layout import HEADLINE_SETTINGS, custom_scalars, flat_settings, is_loss_term, tensorboard_tag
from cyclestyle.training.tracker import Tracker, strict


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


def strict_rows(path: Path) -> list[dict[str, Any]]:
    """As a strict reader sees them: NaN and Infinity are no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, pytest.approx(point.value)) for point in events(folder).Scalars(tag)]


def texts(folder: Path, tag: str) -> list[tuple[int, str]]:
    found = events(folder).Tensors(f"{tag}/text_summary")
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in found]


def test_alarms_are_in_the_row_and_curves_that_end_at_zero(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.write(1, {"cycle_a": 1.0}, {})
    tracker.write(2, {"cycle_a": 1.0, "doctor_change_ab": 0.01}, {"does_nothing_ab": "lower identity_b"})
    tracker.write(3, {"cycle_a": 1.0}, {"does_nothing_ab": "lower identity_b", "starving": "cache"})
    tracker.write(4, {"cycle_a": 1.0}, {"starving": "cache"})
    tracker.write(5, {"cycle_a": 1.0})
    tracker.close()
    assert [row.get("alarms") for row in rows(tmp_path)] == [
        None,
        {"does_nothing_ab": "lower identity_b"},
        {"does_nothing_ab": "lower identity_b", "starving": "cache"},
        {"starving": "cache"},
        None,
    ]
    assert curve(tmp_path, "alarm/does_nothing_ab") == [(2, 1), (3, 1), (4, 0), (5, 0)]
    assert curve(tmp_path, "alarm/starving") == [(3, 1), (4, 1), (5, 0)]
    assert curve(tmp_path, "doctor/change_ab") == [(2, 0.01)]


def test_an_alarm_that_ends_after_a_resume_ends_in_tensorboard_too(tmp_path: Path) -> None:
    first = Tracker(tmp_path, 0)
    first.write(1, {"cycle_a": 1.0}, {"starving": "cache"})
    state = first.state_dict()
    first.write(2, {"cycle_a": 1.0}, {"starving": "cache", "exploding": "clip"})  # of a step that is taken again
    first.close()
    second = Tracker(tmp_path, 1)
    second.load_state_dict(state, torch.device("cpu"))
    second.write(2, {"cycle_a": 1.0}, {})
    second.close()
    assert curve(tmp_path, "alarm/starving") == [(1, 1), (2, 0)]
    assert curve(tmp_path, "alarm/exploding") == []


def test_a_checkpoint_of_before_the_doctor_is_read(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.load_state_dict({"sums": {}, "counts": {}}, torch.device("cpu"))
    tracker.write(1, {"cycle_a": 1.0})
    tracker.close()
    assert len(rows(tmp_path)) == 1


def test_each_start_and_end_of_an_alarm_is_said(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.alarm(10, "starving", "starving: 40% of the time goes into waiting; set data.cache=on", True)
    tracker.alarm(10, "exploding", "losses are 6 times their usual level", True)
    tracker.write(10, {"cycle_a": 1.0}, {"starving": "", "exploding": ""})
    tracker.write(20, {"cycle_a": 1.0}, {"exploding": ""})
    tracker.alarm(20, "starving", "starving is over", False)
    tracker.alarm(25, "memorisation_ab", "memorisation_ab: copies", True)  # by an evaluation, between two rows
    tracker.close()
    assert texts(tmp_path, "alarms") == [
        (10, "**started** starving: 40% of the time goes into waiting; set data.cache=on"),
        (10, "**started** exploding: losses are 6 times their usual level"),
        (20, "**ended** starving is over"),
        (25, "**started** memorisation_ab: copies"),
    ]
    assert curve(tmp_path, "alarm/starving") == [(10, 1), (20, 0)]  # said twice of a step, written once
    assert curve(tmp_path, "alarm/memorisation_ab") == [(25, 1)]


def evaluation(step: int, **scores: float) -> dict[str, Any]:
    pictures = [{"file": "a.png", "ssim": 0.5, "change": math.nan}]
    return {"step": step, "best": "kid", "scores": scores, "directions": {"ab": {"pictures": pictures}}}


def test_an_evaluation_is_kept_whole_and_its_scores_are_a_row_and_curves(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.write(100, {"cycle_a": 1.0})
    scores = {"kid_ab": 0.25, "kid_std_ab": 0.5, "kid_error_ab": 0.125, "swd_160_ab": 3.0, "psnr_truth_ab": 20.0}
    scores |= {"luminance_correlation_ab": 0.5, "ssim_ba": 0.75, "ssim_truth_ba": 0.875, "memorisation_ab": 1.5}
    tracker.evaluation(evaluation(100, **scores))
    tracker.close()
    assert strict_rows(tmp_path / "metrics.jsonl") == [{"step": 100, "cycle_a": 1.0}, {"step": 100, **scores}]
    (kept,) = strict_rows(tmp_path / "evaluations.jsonl")
    assert (kept["step"], kept["scores"]) == (100, scores)
    assert kept["directions"] == {"ab": {"pictures": [{"file": "a.png", "ssim": 0.5}]}}
    reader = events(tmp_path)
    assert {tag: reader.Scalars(tag)[0].value for tag in reader.Tags()["scalars"]} == {
        "loss/cycle_a": 1.0,
        "quality/kid_ab": 0.25,
        "quality/kid_std_ab": 0.5,
        "quality/kid_error_ab": 0.125,
        "quality/kid_lower_ab": 0.125,
        "quality/kid_upper_ab": 0.375,
        "quality/lowest_kid_ab": 0.25,
        "quality/swd_160_ab": 3.0,
        "quality/psnr_truth_ab": 20.0,
        "quality/ssim_truth_ba": 0.875,
        "quality/memorisation_ab": 1.5,
        "content/luminance_correlation_ab": 0.5,
        "content/ssim_ba": 0.75,
    }


def test_the_lowest_score_so_far_goes_on_from_the_rows_that_were_kept(tmp_path: Path) -> None:
    first = Tracker(tmp_path, 0)
    for step, kid in ((1, 0.5), (2, math.nan), (3, 0.25), (4, 0.375), (5, 0.0)):
        first.evaluation(evaluation(step, kid_ab=kid))
    first.close()
    second = Tracker(tmp_path, 4)  # the 0 of step 5 never was
    second.evaluation(evaluation(5, kid_ab=0.3125))
    second.evaluation(evaluation(6, kid_ab=0.125))
    second.close()
    assert [row["step"] for row in strict_rows(tmp_path / "evaluations.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert curve(tmp_path, "quality/lowest_kid_ab") == [
        (1, 0.5), (2, 0.5), (3, 0.25), (4, 0.25), (5, 0.25), (6, 0.125),
    ]  # fmt: skip


def test_what_is_not_finite_is_absent_from_json_and_marked_in_tensorboard(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.write(1, {"cycle_a": math.nan, "cycle_b": math.inf, "identity_a": 1.0})
    tracker.evaluation(evaluation(2, psnr_truth_ab=math.inf, ssim_ab=math.nan, change_ab=0.5))
    tracker.close()
    assert strict_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "identity_a": 1.0}, {"step": 2, "change_ab": 0.5}]
    assert strict_rows(tmp_path / "evaluations.jsonl")[0]["scores"] == {"change_ab": 0.5}
    assert math.isnan(events(tmp_path).Scalars("loss/cycle_a")[0].value)


def test_strict_keeps_all_but_numbers_that_are_not_finite() -> None:
    value = {
        "a": None,
        "b": [1.5, math.nan, True],
        "c": np.float32(math.inf),
        "d": np.int64(3),
        "e": Path("x"),
        7: None,
    }
    assert strict(value) == {"a": None, "b": [1.5, None, True], "d": 3, "e": "x", "7": None}


def full_row() -> dict[str, float]:
    """Every kind of scalar that a chart shows."""
    terms = ("cycle", "identity", "discriminator", "score_real", "score_fake")
    names = [f"{term}_{side}" for term in terms for side in "ab"]
    names += [f"adversarial_{direction}" for direction in ("ab", "ba")]
    names += [f"doctor_{measure}_{direction}" for direction in ("ab", "ba")
              for measure in ("luminance_correlation", "change", "variation", "checkerboard")]  # fmt: skip
    names += ["doctor_accuracy_a", "doctor_surge_losses", "images_per_second", "data_wait"]
    return dict.fromkeys(names, 1.0)


def test_every_chart_of_the_layout_has_curves(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.layout(["ab", "ba"], ["cycle_a", "cycle_b", "identity_a", "identity_b"])
    tracker.write(1, full_row(), {"starving": "cache"})
    metrics = (
        "kid",
        "kid_error",
        "luminance_correlation",
        "edge_correlation",
        "ssim",
        "change",
        "diversity",
        "memorisation",
    )
    tracker.evaluation(evaluation(1, **{f"{metric}_{each}": 1.0 for metric in metrics for each in ("ab", "ba")}))
    tracker.close()
    reader = events(tmp_path)
    tags = reader.Tags()["scalars"]
    (event,) = reader.Tensors("custom_scalars__config__")
    page = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    shown = set()
    assert [category.title.split(":")[0] for category in page.category] == [
        "Is it working", "Quality and content", "Adversarial balance", "What keeps the content", "Speed", "Doctor",
    ]  # fmt: skip
    for chart in (chart for category in page.category for chart in category.chart):
        exact = [tag for band in chart.margin.series for tag in (band.value, band.lower, band.upper)]
        assert set(exact) <= set(tags), chart.title
        # TensorBoard's own way of looking: re.match of each expression
        found = [tag for pattern in chart.multiline.tag for tag in tags if re.match(pattern, tag)]
        assert exact or found, f"{chart.title}: an empty chart"
        shown.update(exact + found)
    assert {tag for tag in tags if tag not in shown} == {"quality/kid_error_ab", "quality/kid_error_ba"}


def test_a_layout_of_one_direction_leaves_the_other_out() -> None:
    page = custom_scalars(["ab"], ["nce_ab", "nce_identity_b", "augment_b"])
    assert page["Is it working: KID and its error, lower is better"] == {
        "KID ab": ("Margin", ["quality/kid_ab", "quality/kid_lower_ab", "quality/kid_upper_ab"])
    }
    assert [title for title in page["Adversarial balance"] if title.startswith("disc ")] == [
        "disc b: apart it wins, as one it is blind"
    ]


def test_the_layout_shows_what_the_method_has() -> None:
    cut = custom_scalars(["ab"], ["adversarial_ab", "nce_ab", "nce_identity_b", "total_variation_ab", "augment_b"])
    cyclegan = custom_scalars(["ab"], ["cycle_a", "identity_b"])
    (contrast, _), (common, _) = ((pattern, kind) for kind, (pattern,) in cut["What keeps the content"].values())
    for name in ("nce_ab", "nce_identity_b"):
        assert re.match(contrast, tensorboard_tag(name))
    assert re.match(common, tensorboard_tag("total_variation_ab"))
    assert [title.split(":")[0] for title in cyclegan["What keeps the content"]] == ["cycle", "identity"]
    assert {title.split(":")[0] for title in cut["Adversarial balance"]} - {
        title.split(":")[0] for title in cyclegan["Adversarial balance"]
    } == {"augmentation"}


@pytest.mark.parametrize(
    ("name", "is_term"),
    [
        ("cycle_a", True), ("nce_identity_b", True), ("total_variation_ab", True), ("r1_b", True),
        ("score_real_b", False), ("accuracy_a", False), ("augment_b", False), ("doctor_change_ab", False),
        ("grad_norm_generators", False), ("lr_generators", False), ("data_wait", False),
    ],
)  # fmt: skip
def test_what_is_a_loss_term(name: str, is_term: bool) -> None:
    assert is_loss_term(name) is is_term


def hparams_page(folder: Path, sort_by: str) -> tuple[Any, list[tuple[str, dict[str, Any], dict[str, float]]]]:
    """Columns, and rows (run, settings, scores) by falling `sort_by`, as TensorBoard's HParams plugin answers."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    backend = backend_context.Context(base_plugin.TBContext(data_provider=provider, logdir=str(folder)))
    hparams = backend.hparams_metadata(RequestContext(), "")
    columns = backend.experiment_from_metadata(RequestContext(), "", True, hparams, ListHyperparametersResult([], []))
    order = api_pb2.ColParams(metric=api_pb2.MetricName(tag=sort_by), order=api_pb2.ORDER_DESC)
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS], col_params=[order], start_index=0, slice_size=10
    )
    groups = list_session_groups.Handler(RequestContext(), backend, "", request).run().session_groups
    return columns, [
        (
            group.name,
            {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()},
            {metric.name.tag: metric.value for metric in group.metric_values},
        )
        for group in groups
    ]


def test_runs_are_sorted_by_score_on_the_hparams_page_and_the_last_call_wins(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optimizer": {"generator_lr": 0.5, "betas": (0.5, 0.999)}, "data": {"augment": []}}
    settings |= {"train": {"steps": 10, "epochs": None}, "generator": {"name": "resnet"}}
    settings |= {"discriminator": {"spectral_norm": False}}
    for name, kid in (("one", 0.25), ("two", 0.75)):
        tracker = Tracker(tmp_path / name, 0)
        tracker.write(10, {"cycle_a": 1.0})
        tracker.hparams(settings, {"kid_ab": kid, "lpips_ab": math.nan})
        tracker.close()
    longer = Tracker(tmp_path / "one", 10)
    longer.write(20, {"cycle_a": 1.0})
    changed = settings | {"train": {"steps": 20}, "discriminator": {"spectral_norm": True}}
    longer.hparams(changed, {"kid_ab": 0.5})
    longer.hparams(changed, {"kid_ab": 0.875, "lpips_ab": 0.5})
    longer.close()

    columns, runs = hparams_page(tmp_path, sort_by="hparam/kid_ab")
    assert [(name, scores) for name, _, scores in runs] == [
        ("one", {"hparam/kid_ab": 0.875, "hparam/lpips_ab": 0.5}),
        ("two", {"hparam/kid_ab": 0.75}),
    ]
    unchanged = {"optimizer.generator_lr": 0.5, "optimizer.betas": "[0.5, 0.999]", "generator.name": "resnet",
                 "data.augment": "[]"}  # fmt: skip
    assert runs[0][1] == unchanged | {"train.steps": 20.0, "discriminator.spectral_norm": True}
    assert runs[0][1]["discriminator.spectral_norm"] is True, "a switch, not the number 1"
    assert runs[1][1] == unchanged | {"train.steps": 10.0, "discriminator.spectral_norm": False}
    assert {column.name for column in columns.hparam_infos} == set(runs[0][1])
    # Those that differ are shown at first, and five scores.
    assert [column.name for column in columns.hparam_infos][:4] == [
        "discriminator.spectral_norm", "generator.name", "optimizer.generator_lr", "train.steps",
    ]  # fmt: skip
    assert [metric.display_name for metric in columns.metric_infos][:5] == [
        "kid_ab", "kid_ba", "luminance_correlation_ab", "luminance_correlation_ba", "change_ab",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "one").iterdir() if "partial" in path.name) == []


def test_headline_settings_exist() -> None:
    assert set(HEADLINE_SETTINGS) <= {*flat_settings(to_mapping(Config())), "train.steps"}  # null by default


def test_a_picture_says_where_its_cells_are(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    tracker.picture(tmp_path / "with.png", pixels, {"step": 7, "source": "fotografía", "nothing": math.nan})
    tracker.picture(tmp_path / "without.png", pixels)
    tracker.close()
    with Image.open(tmp_path / "with.png") as image:
        assert json.loads(image.text["cyclestyle"]) == {"step": 7, "source": "fotografía"}
        assert np.array_equal(np.asarray(image), pixels)
    with Image.open(tmp_path / "without.png") as image:
        assert image.text == {}
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["with.png", "without.png"]


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
    tracker.layout(["ab", "ba"], [])
    tracker.alarm(3, "starving", "set data.cache=on", True)
    tracker.evaluation(evaluation(3, kid_ab=1.0))
    tracker.hparams({"seed": 0}, {"kid_ab": 1.0})
    tracker.close()
    assert len([record for record in caplog.records if "logging failed" in record.message]) == 1


def test_a_folder_that_cannot_be_written_does_not_stop_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    tracker = Tracker(tmp_path / "file", 0)
    write_steps(tracker, range(1, 3))
    tracker.close()
    assert "logging failed" in caplog.text
