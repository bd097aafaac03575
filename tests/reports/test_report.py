"""The page of a run: what is read from the folder, what the page says of it, and what no folder may make it do."""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, device, nn

from cyclestyle.cli import report as verb
from cyclestyle.devices import Precision
from cyclestyle.errors import CheckpointError
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.inference.translator import Translator
from cyclestyle.reports import gallery, sections, verdict
from cyclestyle.reports.curves import MOST_POINTS, chart_groups, smoothed, thinned
from cyclestyle.reports.gather import Series, gather
from cyclestyle.reports.pictures import MOST_STEPS, films
from cyclestyle.reports.report import render, write_report

from .report_folder import (
    ALARM,
    NAMES,
    SOURCES,
    colour_of,
    evaluation_row,
    pixels_of,
    training_row,
    translation_colour,
    whole_run,
    write_grid,
    write_pictures,
)
from .run_folders import NOW, make_run


class Page(HTMLParser):
    """A page as a browser takes it apart: tags with their attributes, text outside of scripts, the data."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)
        self.data: dict[str, Any] = json.loads(self.scripts[1], parse_constant=pytest.fail)
        self.words = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.text += data


def page_of(folder: Path) -> Page:
    return Page(render(gather(folder, now=NOW), now=NOW))


class Invert(nn.Module):
    stride = 4

    def forward(self, images: Tensor) -> Tensor:
        return -images


@pytest.fixture
def inverting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's translator turns v into 255 - v, and was saved at step 600."""

    def load(source: Path, to: str, **_: object) -> Translator:
        spec = TranslatorSpec(source="x", target=to, direction="ab", generator={}, channels=3, resize="shorter",
                              load_size=48, crop_size=32, step=600)  # fmt: skip
        return Translator(spec, Invert(), device("cpu"), Precision("fp32", ""), tile=None)

    monkeypatch.setattr(Translator, "load", load)


# ---------------------------------------------------------------------------------------------------- reading


def test_rows_of_a_step_are_merged_and_odd_lines_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=[training_row(10), training_row(20), {"step": 20, "kid_ab": 0.5}])
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 30, "cycle_a": NaN, "cycle_b": Infinity, "identity_a": true}\n[1]\n{"step": "x"}\n')
        file.write('{"step": 20, "cycle_a": 7.0}\n\n{"step": 40, "cycle_a": 1')
    series = gather(run).series
    assert series["cycle_a"].steps.tolist() == [10, 20, 30]
    assert series["cycle_a"].values[1] == 7.0  # given twice, the last counts
    assert math.isnan(series["cycle_a"].values[2])
    assert math.isinf(series["cycle_b"].values[2])
    assert series["identity_a"].steps.tolist() == [10, 20]
    assert series["kid_ab"].steps.tolist() == [20]
    assert "step" not in series


def test_the_time_is_steps_times_their_means(tmp_path: Path) -> None:
    rows = [training_row(10, seconds_per_step=2.0), training_row(20, seconds_per_step=float("nan")),
            training_row(50, seconds_per_step=1.0)]  # fmt: skip
    assert gather(make_run(tmp_path / "run", rows=rows)).seconds == 10 * 2.0 + 30 * 1.0


def test_alarms_begin_and_end_with_rows_of_training(tmp_path: Path) -> None:
    def rings(**lines: str) -> dict[str, Any]:
        return {"alarms": lines} if lines else {}

    rows = [
        training_row(10, **rings(a="first")),
        {"step": 15, "kid_ab": 0.1},  # an evaluation knows nothing of alarms
        training_row(20, **rings(a="a: later", b="b")),
        training_row(30, **rings(b="b")),
        training_row(40, **rings(a="again")),
    ]
    alarms = gather(make_run(tmp_path / "run", rows=rows)).alarms
    assert [(each.name, each.line, each.start, each.end) for each in alarms] == [
        ("a", "later", 10, 30),
        ("b", "b", 20, 40),
        ("a", "again", 40, None),
    ]


def test_scores_of_evaluations_are_curves_too(tmp_path: Path) -> None:
    run = gather(make_run(tmp_path / "run", evaluations=[evaluation_row(20, 0.2), evaluation_row(10, 0.3)]))
    assert run.series["kid_ab"].steps.tolist() == [10, 20]
    assert run.series["kid_ab"].values.tolist() == [0.3, 0.2]


def test_pictures_are_kept_of_the_newest_and_the_best_alone(tmp_path: Path) -> None:
    rows = [evaluation_row(step, 0.1, [{"file": "x"}]) for step in (10, 20, 30, 40)]
    run = gather(make_run(tmp_path / "run", evaluations=rows, checkpoints=[20, 40], best=20))
    assert [bool(each.directions) for each in run.evaluations] == [False, True, False, True]


@pytest.mark.parametrize(
    "broken",
    [
        {"width": 500},
        {"rows": 9},
        {"left": -1},
        {"width": 0},
        {"height": 2.5},
        {"rows": "3"},
        {"step": None},
        {"label_height": 40},
        {"rows": 0},
    ],
)
def test_grids_that_do_not_fit_their_picture_are_counted_only(tmp_path: Path, broken: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run")
    good = write_grid(run, 10, *NAMES)
    with Image.open(good) as image:
        facts = json.loads(image.info["cyclestyle"]) | broken
        save_grid(np.asarray(image), facts, run / "samples" / "step_00000020_photo_to_painting.png")
    (run / "samples" / "step_00000030_photo_to_painting.png").write_bytes(good.read_bytes()[:60])
    Image.new("RGB", (9, 9)).save(run / "samples" / "step_00000040_photo_to_painting.png")  # of an older version
    found = gather(run)
    assert [grid.step for grid in found.grids] == [10]
    assert found.num_odd_grids == 3


def save_grid(pixels: np.ndarray, facts: dict[str, Any], path: Path) -> None:
    info = PngInfo()
    info.add_text("cyclestyle", json.dumps(facts))
    Image.fromarray(pixels).save(path, pnginfo=info)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no run in .*: needed is a folder with a config\.yaml"):
        gather(tmp_path)


# ---------------------------------------------------------------------------------------------------- curves


def test_thinned_curves_keep_ends_and_extremes() -> None:
    x = np.arange(100_000) * 50
    y = np.sin(np.arange(100_000) / 3000.0)
    y[12_345], y[67_890], y[50_000] = 9.0, -9.0, math.nan
    steps, values = thinned(x, y, 500)
    assert len(steps) <= 500
    assert (steps[0], steps[-1]) == (x[0], x[-1])
    assert (steps[values == 9.0], steps[values == -9.0]) == ([12_345 * 50], [67_890 * 50])
    assert np.all(np.diff(steps) > 0)
    assert np.isfinite(values).all()
    # Every stretch keeps its lowest and highest: the envelope is that of the whole curve.
    assert values[(steps >= x[20_000]) & (steps < x[30_000])].max() == pytest.approx(y[20_000:30_000].max(), abs=1e-4)


def test_short_curves_and_stretches_that_are_not_finite_stay() -> None:
    x, y = np.arange(8), np.array([0, 1, math.nan, 3, 4, 5, 6, 7.0])
    assert thinned(x, y, 8)[1] is y
    y = np.where((np.arange(1000) > 300) & (np.arange(1000) < 600), math.nan, 1.0)
    steps, values = thinned(np.arange(1000), y, 100)
    assert np.isnan(values[(steps > 330) & (steps < 570)]).all()
    assert len(steps[(steps > 330) & (steps < 570)]) > 5


def test_smoothing_is_a_mean() -> None:
    x = np.arange(1000)
    steps, values = smoothed(x, 3.0 + 2.0 * x, 50)
    assert len(steps) == 50
    inner = slice(2, -2)  # the window of 51 points is cut at the ends
    np.testing.assert_allclose(values[inner], 3.0 + 2.0 * steps[inner])
    assert values[0] == pytest.approx(3.0 + 2.0 * np.arange(26).mean())


def test_charts_hold_json_whatever_was_logged() -> None:
    x = np.arange(1, 201)
    y = np.where(x % 50 == 0, math.nan, 1.0 / x)
    y[0] = math.inf
    flat = np.full(200, 1e308)
    series = {"cycle_a": Series(x, y), "cycle_b": Series(x, flat), "unheard_of": Series(x[:1], y[:1])}
    groups = chart_groups(series, NAMES)
    json.dumps(groups, allow_nan=False)
    (losses,) = groups
    assert [chart["title"] for chart in losses["charts"]] == ["Cycle and identity", "Unheard of"]
    cycle = losses["charts"][0]["series"][0]
    assert (cycle["group"], cycle["label"], cycle["hue"]) == ("cycle", "photo", "a")
    assert cycle["bad"] == [1, 50, 100, 150, 200]
    assert cycle["y"][49] is None


def test_every_curve_is_drawn_once_and_few_points_are_enough(tmp_path: Path) -> None:
    x = np.arange(20_000)
    names = ["cycle_a", "identity_b", "adversarial_ab", "score_real_a", "lr_generators", "grad_norm_generators", "nce"]
    names += ["images_per_second", "data_wait", "doctor_change_ab", "doctor_change_ba", "kid_ab", "ssim_ba"]
    groups = chart_groups({name: Series(x, np.cos(x)) for name in names}, NAMES)
    drawn = [curve for group in groups for chart in group["charts"] for curve in chart["series"]]
    assert len(drawn) == len(names)
    assert all(len(curve["x"]) <= MOST_POINTS for curve in drawn)
    assert {group["title"]: len(group["charts"]) for group in groups} == {
        "Scores": 2, "Losses": 4, "Speed": 2, "Gradients, learning rates, memory": 2,
        "What the doctor measures": 1,
    }  # fmt: skip


def test_a_single_peak_does_not_flatten_the_rest() -> None:
    y = np.linspace(1.0, 2.0, 100)
    y[50] = 1000.0
    (group,) = chart_groups({"cycle_a": Series(np.arange(100), y)}, NAMES)
    assert 2.0 < group["charts"][0]["top"] < 3.0
    (group,) = chart_groups({"cycle_a": Series(np.arange(100), np.linspace(1.0, 2.0, 100))}, NAMES)
    assert group["charts"][0]["top"] is None


# ---------------------------------------------------------------------------------------------------- sample grids


def near(uri: str, colour: tuple[int, ...]) -> None:
    """WebP keeps a flat colour to a few of 255: its chroma has 8 bits in a smaller range."""
    assert np.abs(np.subtract(colour_of(uri), colour)).max() <= 4, (colour_of(uri), colour)


@pytest.mark.parametrize("label_height", [0, 11])
def test_grids_are_cut_into_their_cells(tmp_path: Path, label_height: int) -> None:
    run = make_run(tmp_path / "run", checkpoints=[400], best=400)
    for step in range(100, 601, 100):
        for names in (NAMES, NAMES[::-1]):
            write_grid(run, step, *names, label_height=label_height)
    found = films(gather(run))
    assert [film.direction for film in found] == ["ab", "ba"]
    film = found[0]
    assert (film.source, film.target, film.steps, film.best) == (*NAMES, [100, 200, 300, 400, 500, 600], 3)
    for row, colour in enumerate(SOURCES):
        near(film.sources[row], colour)
        for step, frame in zip(film.steps, film.frames, strict=True):
            near(frame[row], translation_colour(step, row))
            assert pixels_of(frame[row]).shape == (24, 24, 3)
            assert pixels_of(frame[row]).astype(int).max(axis=(0, 1)).max() < 250, "white of the paper"
    assert set(film.large) == {3, 5}  # the best and the newest
    assert film.labels == (("photo_0.jpg", "photo_1.jpg", "photo_2.jpg") if label_height else ())
    assert film.captions[2][:1] == (("light kept 0.30, change 0.10",) if label_height else ())


def test_grids_as_the_training_draws_them(tmp_path: Path) -> None:
    """The format holds for both sides: the training's own writer, this reader."""
    from cyclestyle.training.previews import Previews

    class Identity(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images

    fixed = [(f"{row}.jpg", np.full((40, 32, 3), SOURCES[row], np.uint8)) for row in range(3)]
    previews = Previews(fixed, [], NAMES).draw({"gen_ab": Identity()}, device("cpu"), 10)
    (run := make_run(tmp_path / "run")).joinpath("samples").mkdir()
    save_grid(previews[0].pixels, previews[0].info, run / "samples/step_00000010_photo_to_painting.png")
    (film,) = films(gather(run))
    assert (film.width, film.height, film.labels) == (3 * 32, 3 * 40, ("0.jpg", "1.jpg", "2.jpg"))
    for row, colour in enumerate(SOURCES):
        for uri in (film.sources[row], film.frames[0][row]):
            near(uri, colour)
            assert np.ptp(pixels_of(uri).astype(int), axis=(0, 1)).max() < 16, "no paper, no letters"


def test_one_direction_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_grid(run, 10, *NAMES[::-1])
    (film,) = films(gather(run))
    assert (film.direction, film.source) == ("ba", "painting")
    page = page_of(run)
    assert not any(attributes.get("name") == "film-direction" for _, attributes in page.tags)


def test_many_steps_are_thinned_evenly_and_the_best_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", checkpoints=[730, 2000], best=730)
    for step in range(10, 2001, 10):
        write_grid(run, step, *NAMES, size=4, rows=1)
    (film,) = films(gather(run))
    assert len(film.steps) <= MOST_STEPS
    assert (film.steps[0], film.steps[-1]) == (10, 2000)
    assert film.best is not None
    assert film.steps[film.best] == 730
    assert np.diff(film.steps).max() <= 60


def test_large_pictures_are_made_smaller_behind_the_slider_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyclestyle.reports.pictures._FILM_PIXELS", 2 * 3 * 12 * 12)
    run = make_run(tmp_path / "run")
    for step in (10, 20):
        write_grid(run, step, *NAMES, size=24)
    (film,) = films(gather(run))
    assert pixels_of(film.frames[0][0]).shape == (12, 12, 3)
    assert pixels_of(film.large[1][0]).shape == (24, 24, 3)


def test_grids_of_another_form_are_left_out_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_grid(run, 10, *NAMES, rows=2)
    write_grid(run, 20, *NAMES)
    (film,) = films(gather(run))
    assert (film.steps, film.num_left_out) == ([20], 1)
    assert "1 earlier grids of photo show other pictures" in page_of(run).words


# ---------------------------------------------------------------------------------------------------- best and worst


@pytest.mark.usefixtures("inverting")
def test_the_best_and_worst_are_translated_again(tmp_path: Path) -> None:
    found = gallery.galleries(gather(whole_run(tmp_path / "run")))
    assert [(each.direction, each.step, each.translated_step, each.num_pictures) for each in found] == [
        ("ab", 600, 600, 6),
        ("ba", 600, 600, 6),
    ]
    shown = found[0]
    assert [card.name for card in shown.best] == ["test_0.png", "test_1.png"]
    assert [card.name for card in shown.worst] == ["test_5.png", "test_4.png"]
    assert shown.best[1].content == pytest.approx((0.9 + 0.6 + 0.0) / 3)
    for card, grey in zip([*shown.best, *shown.worst], (0, 20, 100, 80), strict=True):
        assert card.source is not None
        assert card.translation is not None
        assert card.nearest is not None
        near(card.source, (grey,) * 3)
        near(card.translation, (255 - grey,) * 3)
        near(card.nearest, (10, 200, grey))
        assert pixels_of(card.source).shape == (32, 32, 3)
        assert card.missing == []


@pytest.mark.usefixtures("inverting")
def test_scores_of_the_translators_own_step_are_preferred(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 1)
    rows = [evaluation_row(step, 0.1, pictures) for step in (600, 700)]
    run = make_run(tmp_path / "run", evaluations=rows, checkpoints=[600, 700], best=600)
    assert gallery.galleries(gather(run))[0].step == 600
    (run / "checkpoints/index.json").unlink()
    assert gallery.galleries(gather(run))[0].step == 700
    assert "scores of step 700, 1 pictures; translated again at step 600" in page_of(run).words


@pytest.mark.usefixtures("inverting")
def test_pictures_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    (tmp_path / "pictures/test_0.png").unlink()
    (tmp_path / "pictures/train_1.png").write_bytes(b"damaged")
    best = gallery.galleries(gather(run))[0].best
    assert (best[0].source, best[0].translation, best[0].missing) == (None, None, ["the source test_0.png is gone"])
    assert (best[1].nearest, best[1].missing) == (None, ["the training picture train_1.png cannot be read"])
    assert "the source test_0.png is gone" in page_of(run).words


def test_without_a_translator_sources_are_shown(tmp_path: Path) -> None:
    card = gallery.galleries(gather(whole_run(tmp_path / "run")))[0].best[0]
    assert card.source is not None
    assert (card.translation, card.missing) == (None, ["no translation: the translator cannot be loaded"])


@pytest.mark.parametrize("odd", [{}, {"file": 3}, {"ssim": "x", "file": "a"}, {"ssim": math.nan, "file": "a"}, 7, None])
def test_odd_pictures_are_passed_over(tmp_path: Path, odd: object) -> None:
    row = evaluation_row(10, 0.1)
    row["directions"]["ab"]["pictures"] = [odd]
    row["directions"]["ba"] = odd
    assert gallery.galleries(gather(make_run(tmp_path / "run", evaluations=[row]))) == []


@pytest.mark.parametrize(("channels", "shown"), [(1, (7, 7, 7)), (2, (7, 7, 7)), (4, (7, 8, 9))])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_of_any_channels_and_depth_are_shown(channels: int, shown: tuple[int, ...], dtype: type) -> None:
    factor = 257 if dtype == np.uint16 else 1
    pixels = np.full((16, 16, channels), 7, dtype) + np.arange(channels).astype(dtype)
    uri = gallery._shown(pixels * dtype(factor))
    assert uri is not None
    near(uri, shown)


# ---------------------------------------------------------------------------------------------------- the headline


def judged(tmp_path: Path, kids: dict[int, float], **options: Any) -> verdict.Verdict:
    changes = options.pop("scores", {})
    rows = [evaluation_row(step, kid) for step, kid in kids.items()]
    if rows:
        rows[-1]["scores"] |= changes
    training = options.pop("rows", [training_row(step) for step in (100, 200, 300)])
    return verdict.judge(gather(make_run(tmp_path / "run", evaluations=rows, rows=training, **options), now=NOW))


def test_better_to_the_end(tmp_path: Path) -> None:
    said = judged(tmp_path, {100: 0.3, 200: 0.2, 300: 0.1}, checkpoints=[300], best=300)
    assert (said.tone, said.sentence) == ("good", "It works, and was still getting better at the end.")
    assert "KID (photo → painting) went from 0.300 at step 100 to 0.100 now" in said.advice
    going_on = judged(tmp_path / "2", {100: 0.3, 200: 0.2}, checkpoints=[200], best=200, age=5.0)
    assert going_on.sentence == "It works, and is still getting better."


def test_worse_since_the_best(tmp_path: Path) -> None:
    said = judged(tmp_path, {100: 0.1, 200: 0.2, 300: 0.3}, checkpoints=[100], best=100)
    assert (said.tone, said.sentence) == ("watch", "It was at its best at step 100.")
    assert "0.100 at step 100 and is 0.300 now, 2 evaluations later" in said.advice


def test_settled_within_noise(tmp_path: Path) -> None:
    # The error is 0.01: 0.119 is within two of it, 0.121 is not.
    said = judged(tmp_path, {100: 0.1, 200: 0.119}, checkpoints=[100], best=100)
    assert said.sentence == "It works, and has settled."
    assert judged(tmp_path / "2", {100: 0.1, 200: 0.121}, checkpoints=[100], best=100).tone == "watch"
    going_on = judged(tmp_path / "3", {100: 0.1, 200: 0.119}, checkpoints=[100], best=100, age=5.0)
    assert going_on.sentence == "It works; whether it still gets better is open."


def test_the_direction_that_counts_is_that_of_the_config(tmp_path: Path) -> None:
    settings = {"evaluate.direction": "both"}
    said = judged(tmp_path, {100: 0.3, 200: 0.2}, settings=settings, scores={"kid_ba": 0.4})
    assert "KID (mean of both directions) was 0.300 at step 100 and is 0.300 now" in said.advice  # (0.2 + 0.4) / 2
    said = judged(tmp_path / "2", {100: 0.3, 200: 0.2}, settings={"evaluate.direction": "ba"})
    assert "KID (painting → photo)" in said.advice


def test_nothing_of_the_source_kept(tmp_path: Path) -> None:
    said = judged(tmp_path, {100: 0.3, 200: 0.2}, scores={"luminance_correlation_ab": -0.3})
    assert (said.tone, said.sentence) == ("watch", "The translations keep too little of their sources.")
    fine = judged(tmp_path / "2", {100: 0.3, 200: 0.2}, scores={"luminance_correlation_ab": 0.5})
    assert fine.tone == "good"
    strict = judged(
        tmp_path / "3",
        {100: 0.3, 200: 0.2},
        scores={"luminance_correlation_ab": 0.5},
        settings={"evaluate.least_content": 0.6},
    )
    assert strict.tone == "watch"


@pytest.mark.parametrize(
    ("method", "knobs", "off"),
    [
        ("cyclegan", ["cycle_a", "cycle_b", "identity_a", "identity_b"], []),
        ("cut", ["nce_ab", "nce_identity_b"], ["src_ab"]),
        ("cut", ["src_ab"], ["nce_ab", "nce_identity_b"]),
    ],
)
def test_what_to_turn_is_what_the_run_has(tmp_path: Path, method: str, knobs: list[str], off: list[str]) -> None:
    weights = dict.fromkeys(("adversarial_ab", *knobs), 1.0) | dict.fromkeys(off, 0.0)
    settings = {"method.name": method, **{f"method.weights.{name}": weight for name, weight in weights.items()}}
    lost = {"luminance_correlation_ab": -0.3}
    said = judged(tmp_path, {100: 0.3, 200: 0.2}, scores=lost, settings=settings)
    assert said.advice.endswith(f"raise method.weights.{' or '.join(knobs)}.")


def test_no_nearer_than_doing_nothing(tmp_path: Path) -> None:
    said = judged(tmp_path, {100: 0.9, 200: 0.7})  # the sources score 0.6
    assert said.sentence == "The translations are no nearer to their target than the sources themselves."
    drifted = judged(tmp_path / "2", {100: 0.9, 200: 0.3, 300: 0.5, 400: 0.7})
    assert (drifted.tone, drifted.sentence) == ("watch", "It was at its best at step 200.")
    assert "take the best" in drifted.advice
    by_chance = judged(tmp_path / "3", {100: 0.9, 200: 0.59, 300: 0.7})  # nearer by one error of 0.01
    assert by_chance.sentence == said.sentence


def test_alarms_come_first(tmp_path: Path) -> None:
    rows = [training_row(10, alarms={"color_inversion_ab": ALARM, "starving": "data is slow: data.num_workers=8"})]
    said = judged(tmp_path, {10: 0.1, 20: 0.05}, rows=rows)
    assert (said.tone, said.sentence) == (
        "bad",
        "Something is wrong: color inversion, photo → painting and starving.",
    )
    page = page_of(tmp_path / "run")
    assert "2 active" in page.words
    assert sections.segments(ALARM) == [
        {"text": "light and dark are turned over: raise ", "is_option": False},
        {"text": "method.weights.identity_a", "is_option": True},
    ]
    assert sections.segments("data is slow: data.num_workers=8.")[1] == {
        "text": "data.num_workers=8",
        "is_option": True,
    }


def test_losses_that_are_not_finite_come_before_all(tmp_path: Path) -> None:
    rows = [training_row(10), training_row(20, cycle_a=math.nan), training_row(30, cycle_a=math.inf)]
    said = judged(tmp_path, {10: 0.1}, rows=rows)
    assert (said.tone, said.sentence) == ("bad", "The losses are no longer finite since step 20.")
    healed = judged(tmp_path / "2", {}, rows=[training_row(10, cycle_a=math.nan), training_row(20)])
    assert healed.tone == "plain"


def test_nothing_to_go_by(tmp_path: Path) -> None:
    assert judged(tmp_path / "1", {}, rows=[]).sentence == "Nothing is logged yet."
    assert judged(tmp_path / "2", {}).sentence == "No alarms, but no scores either: trust your eyes."
    assert judged(tmp_path / "3", {100: 0.1}).sentence == "No alarms; one evaluation so far, so there is no trend yet."


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0937, "0.0937"), (0.5, "0.500"), (27.34, "27.3"), (1234.5, "1234"), (0, "0.00"), (0.00351, "0.00351"),
     (-0.25, "\u22120.250"), (1e-7, "1.00e-07"), (3e9, "3.00e+09"), (math.nan, "not finite"), (9.996, "10.00"),
     (-0.004, "\u22120.00400")],
)  # fmt: skip
def test_numbers_for_people(number: float, text: str) -> None:
    assert verdict.value(number) == text
    assert verdict.value(0.00154, 2) == "0.0015"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (317, "5 min 17 s"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert verdict.duration(seconds) == text


# ---------------------------------------------------------------------------------------------------- tables


def test_scores_newest_best_first(tmp_path: Path) -> None:
    table = sections.tables(gather(whole_run(tmp_path / "run")))[0]
    assert [(column["title"], column["step"]) for column in table["columns"]] == [
        ("newest", 600),
        ("best", 400),
        ("first", 100),
    ]
    rows = {row["title"]: row for row in table["rows"]}
    kid = rows["KID"]
    assert [(cell["text"], cell["error"], cell["wins"]) for cell in kid["cells"]] == [
        ("0.300", "0.010", False),
        ("0.100", "0.010", True),
        ("0.400", "0.010", False),
    ]
    assert (kid["better"], rows["SSIM"]["better"], rows["Change"]["better"]) == ("lower", "higher", "")
    assert not any(cell["wins"] for cell in rows["SSIM"]["cells"])  # all the same
    titles = list(rows)
    assert titles.index("KID") < titles.index("FID") < titles.index("SWD") < titles.index("SWD at 32 px")
    assert titles.index("SWD at 32 px") < titles.index("SWD at 160 px")
    assert (table["num_sources"], table["num_references"], table["size"], table["few"]) == (24, 30, 32, True)


def test_one_evaluation_is_one_column(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluations=[evaluation_row(10, 0.1)], checkpoints=[10], best=10)
    (column,) = sections.tables(gather(run))[0]["columns"]
    assert column == {"title": "newest and best and first", "step": 10}


def test_settings_that_differ(tmp_path: Path) -> None:
    settings = {"generator.filters": 32, "data.augment": [], "optimizer.betas": [0.5, 0.999], "gone.option": "x",
                "train.steps": 100}  # fmt: skip
    found = sections.settings(gather(make_run(tmp_path / "run", settings=settings)))
    differences = {each["key"]: (each["value"], each["default"]) for each in found["differences"]}
    assert differences["generator.filters"] == ("32", "64")
    assert differences["data.a.name"] == ("photo", "null")
    assert differences["gone.option"] == ("x", "no option of this version")
    assert not {"data.augment", "optimizer.betas", "train.epochs"} & set(differences)
    assert next(each for each in found["differences"] if each["key"] == "train.steps")["meaning"]


def test_commands_are_quoted(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "my run")
    (best, best_line), (newest, line) = sections.commands(gather(run))
    assert "best" in best
    assert "newest" in newest
    assert best_line.startswith(f"python test.py --run '{run}' --best --to painting ")
    assert line.startswith(f"python test.py --run '{run}' --to painting ")


def test_alarms_nearby_are_shaded_as_one(tmp_path: Path) -> None:
    rows = [training_row(step, **({"alarms": {"starving": "x"}} if step in (10, 40, 9000) else {}))
            for step in (10, 20, 40, 50, 9000, 10_000)]  # fmt: skip
    run = gather(make_run(tmp_path / "run", rows=rows))
    assert sections.shaded(run) == [(10, 50, "Starving"), (9000, 10_000, "Starving")]  # 40 is 20 of 10000 away
    (lane,) = sections.alarms(run)
    assert [(each["start"], each["end"]) for each in lane["times"]] == [(9000, 10_000), (40, 50), (10, 20)]


# ---------------------------------------------------------------------------------------------------- the page


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}"


@pytest.mark.usefixtures("inverting")
def test_what_files_say_is_text(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    clean = page_of(run)
    config = (run / "config.yaml").read_text(encoding="utf-8")
    for name in ("run", "painting"):
        config = config.replace(f"name: {name}\n", f"name: {json.dumps(HOSTILE)}\n")
    (run / "config.yaml").write_text(config, encoding="utf-8")
    index = json.loads((run / "checkpoints/index.json").read_text(encoding="utf-8"))
    (run / "checkpoints/index.json").write_text(json.dumps(index | {"best_reason": HOSTILE}), encoding="utf-8")
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(training_row(610, **{HOSTILE: 1.0}, alarms={HOSTILE: HOSTILE})) + "\n")
    page = page_of(run)
    assert len(page.scripts) == len(clean.scripts) == 3
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert {attributes.get("src", "data:")[:5] for tag, attributes in page.tags if tag == "img"} == {"data:"}
    assert page.text.count(HOSTILE) > 5
    assert page.data["charts"][0]["series"][0]["label"] == f"→ {HOSTILE}"
    assert "49" not in page.text.replace("\u202f", "")[: page.text.find("Step")]
    titles = [chart["title"] for chart in page.data["charts"]]
    assert HOSTILE.replace("_", " ").capitalize() in titles


@pytest.mark.usefixtures("inverting")
def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    html = render(gather(whole_run(tmp_path / "run")))
    page = Page(html)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", html.split("</style>")[0])
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|importScripts|sendBeacon)\b", page.scripts[2])
    (policy,) = [each["content"] for _, each in page.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links <= {f"#{each}" for each in ids}


@pytest.mark.usefixtures("inverting")
def test_a_whole_run_in_order(tmp_path: Path) -> None:
    page = page_of(whole_run(tmp_path / "run"))
    place = 0
    for words in (
        "photo ⇄ painting", "It was at its best at step 400.", "600 of 600", "2 min 30 s", "lowest kid_ab",
        "Test pictures", "Before and after", "Curves", "Few pictures: FID is biased for small n, KID is not",
        "Color inversion, photo → painting over", "step 100 \u2013 200", "Keep most", "Keep least", "generator.filters",
        "The whole config.yaml", "--best --to", "python test.py --run",
    ):  # fmt: skip
        place = page.words.index(words, place)
    assert page.data["alarms"] == [[100, 200, "Color inversion, photo → painting"]]
    assert page.data["best"] == 400
    assert page.data["films"][0]["notes"][3] == "KID 0.100"


@pytest.mark.parametrize("kept", ["", "metrics.jsonl", "evaluations.jsonl", "samples", "checkpoints"])
def test_with_one_part_alone(tmp_path: Path, kept: str) -> None:
    run = whole_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "pictures")
    for path in list(run.iterdir()):
        if path.name not in ("config.yaml", kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = page_of(run)
    assert ("No sample grids yet" in page.words) == (kept != "samples")
    assert ("Nothing is logged yet: rows come every" in page.words) == (
        kept not in ("metrics.jsonl", "evaluations.jsonl")
    )
    assert ("No evaluation yet" in page.words) == (kept != "evaluations.jsonl")


def test_damaged_files(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    for name in ("config.yaml", "metrics.jsonl", "evaluations.jsonl", "checkpoints/index.json"):
        (run / name).write_bytes(b"\xff{[: \x00" + (run / name).read_bytes()[:50])
    page = page_of(run)
    assert "checkpoints/index.json is damaged" in page.words
    assert "There is no readable config.yaml" in page.words


def test_a_run_by_epochs_of_one_step(tmp_path: Path) -> None:
    settings = {"train.steps": None, "train.epochs": 3.0}
    page = page_of(make_run(tmp_path / "run", settings=settings, rows=[training_row(1)]))
    assert "Step 1 " in page.words
    assert " of None" not in page.words


def test_many_rows_stay_few_bytes(tmp_path: Path) -> None:
    rows = [training_row(10 * index + 10, cycle_a=math.sin(index)) for index in range(20_000)]
    html = render(gather(make_run(tmp_path / "run", rows=rows)))
    assert len(html) < 500_000


# ---------------------------------------------------------------------------------------------------- files, command


def test_the_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=[training_row(10)])
    assert write_report(run) == run / "report.html"
    before = (run / "report.html").read_bytes()
    assert before.startswith(b"<!doctype html>")
    path = tmp_path / "new" / "page.html"
    assert write_report(run, path) == path
    assert sorted(each.name for each in run.iterdir()) == ["checkpoints", "config.yaml", "metrics.jsonl", "report.html"]
    with pytest.raises(CheckpointError, match="is a folder: give a file, such as -o"):
        write_report(run, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot be written .* name another file with -o"):
        write_report(run, tmp_path / "file" / "page.html")


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    row = evaluation_row(10, 0.1, [{"file": "caf\udce9.jpg", "ssim": 0.5}])
    run = make_run(tmp_path / "run", evaluations=[row])
    assert "caf?.jpg" in write_report(run).read_text(encoding="utf-8")


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert verb.run(parser.parse_args([str(run)])) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    page = tmp_path / "page.html"
    assert verb.run(parser.parse_args([str(run), "-o", str(page)])) == 0
    assert capsys.readouterr().out == f"{page}\n"
    with pytest.raises(CheckpointError, match="no run in"):
        verb.run(parser.parse_args([str(tmp_path / "nothing")]))
