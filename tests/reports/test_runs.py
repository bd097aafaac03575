"""The table of runs: what stands in it, aligned, at every width of a terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cyclestyle.reports.runs import (
    as_json,
    display_width,
    human_age,
    human_bytes,
    incomparable_bests,
    printable,
    runs_table,
    shortened,
    text_table,
)
from cyclestyle.reports.summary import RunSummary, list_runs, read_run

from .run_folders import DAY, NOW, evaluation, make_run, row, set_age


@pytest.fixture
def runs(tmp_path: Path) -> list[RunSummary]:
    make_run(
        tmp_path / "quickstart", rows=[row(1000)], evaluations=[evaluation(400, 0.012345), evaluation(1000, 0.5)],
        checkpoints=[400, 1000], best=400, age=2 * 3600,
    )  # fmt: skip
    make_run(
        tmp_path / "絵画", settings={"train.steps": None, "train.epochs": 2.5, "data.b.name": "vangogh"}, age=DAY * 3,
        rows=[row(20, alarms={"color_inversion_ab": "x", "starving": "y"})],
    )  # fmt: skip
    broken = make_run(tmp_path / "broken")
    (broken / "config.yaml").write_text("a: [", encoding="utf-8")
    set_age(broken, 4 * DAY)
    return list_runs(tmp_path, now=NOW)


def test_the_table(runs: list[RunSummary]) -> None:
    table, left_out = runs_table(runs, NOW)
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in table.splitlines()]
    titles = ["name", "method", "domains", "steps", "best score", "latest score", "size", "active", "alarms"]
    assert left_out == []
    assert cells[0] == titles
    assert [line[0] for line in cells[1:]] == ["quickstart", "絵画", "broken"]
    by_name = {line[0]: line for line in cells}
    assert by_name["quickstart"] == [
        "quickstart", "cyclegan", "photo -> painting", "1000 / 1000 finished", "kid_ab 0.01235 at 400", "0.5 at 1000",
        human_bytes(runs[0].num_bytes), "2 h ago", "-",
    ]  # fmt: skip
    assert by_name["絵画"][:6] == [
        "絵画", "cyclegan", "photo -> vangogh", "20 / 2.5 epochs stopped", "-", "-",
    ]  # fmt: skip
    assert by_name["絵画"][7:] == ["3 days ago", "color_inversion_ab, starving"]
    assert by_name["broken"][-1].startswith("damaged: config.yaml, line 1: no valid YAML")


def test_columns_stand_below_each_other(runs: list[RunSummary]) -> None:
    """Each column begins at one place of the terminal, also below names of wide letters."""
    lines = runs_table(runs, NOW)[0].splitlines()
    starts = {title: display_width(lines[0].partition(title)[0]) for title in ("method", "steps", "active", "alarms")}
    for line in lines[1:]:
        for start in starts.values():
            before = shortened_exactly(line, start)
            assert before.endswith("  ")
            assert line[len(before)] != " "


def shortened_exactly(line: str, width: int) -> str:
    """The beginning of a line that takes `width` columns."""
    return next(line[:end] for end in range(len(line)) if display_width(line[:end]) == width)


@pytest.mark.parametrize("width", [200, 160, 120, 100, 80, 76])
def test_no_line_is_wider_than_the_terminal(width: int, runs: list[RunSummary]) -> None:
    table, left_out = runs_table(runs, NOW, width)
    assert max(map(display_width, table.splitlines())) <= width
    for title in ("name", "steps", "best score", "alarms"):
        assert title in table.splitlines()[0]
    assert ("method" in left_out) == ("method" not in table.splitlines()[0])


def test_what_is_needed_least_goes_first(runs: list[RunSummary]) -> None:
    left_out = {width: runs_table(runs, NOW, width)[1] for width in range(20, 200)}
    order = ["method", "size", "domains", "latest score", "active"]
    assert all(found == order[: len(found)] for found in left_out.values())
    assert [len(left_out[width]) for width in (20, 199)] == [5, 0]
    counts = [len(found) for found in left_out.values()]
    assert counts == sorted(counts, reverse=True)  # a wider terminal never shows less


def test_very_narrow_lines_still_say_what_is_wrong(runs: list[RunSummary]) -> None:
    table, _ = runs_table(runs, NOW, 20)  # wider than that: the terminal wraps it
    assert "  color_inv..." in table
    assert "  damaged: ..." in table


def test_long_names_are_cut_only_on_a_terminal(tmp_path: Path) -> None:
    name = "a" * 100
    runs = [read_run(make_run(tmp_path / name))]
    assert name in runs_table(runs, NOW)[0]
    assert "a" * 21 + "...  " in runs_table(runs, NOW, 100)[0]


def test_names_that_no_terminal_can_show(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name)) for name in ("two\nlines", "red\x1b[31m", "bytes\udcff")]
    lines = runs_table(runs, NOW)[0].splitlines()
    assert [line.split("  ")[0] for line in lines] == ["name", "two?lines", "red?[31m", "bytes?"]
    "\n".join(lines).encode("utf-8")


def test_json_has_everything_and_is_valid(tmp_path: Path) -> None:
    scored = evaluation(400, 0.0125)
    scored["scores"]["psnr_truth_ab"] = math.inf
    path = make_run(
        tmp_path / "läufe", rows=[row(1000, alarms={"starving": "line"})], evaluations=[scored],
        checkpoints=[400], best=400,
    )  # fmt: skip
    found = json.loads(
        json.dumps(as_json(read_run(path, now=NOW))), parse_constant=lambda name: pytest.fail(f"{name} is no JSON")
    )
    assert found["name"] == "läufe"
    assert (found["step"], found["num_steps"], found["state"]) == (1000, 1000, "finished")
    assert (found["best"]["score_name"], found["best"]["score"], found["best"]["step"]) == ("kid_ab", 0.0125, 400)
    assert (found["best"]["extractor"], found["best"]["size"]) == ("builtin-1", 160)
    assert found["best"]["scores"]["psnr_truth_ab"] is None
    assert found["alarms"] == {"starving": "line"}
    assert found["bytes"] == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    empty = as_json(read_run(make_run(tmp_path / "empty"), now=NOW))
    assert (empty["best"], empty["latest"], empty["step"], empty["state"]) == (None, None, None, "not started")


def test_bests_that_were_measured_differently(tmp_path: Path) -> None:
    def run(name: str, settings: dict[str, str] | None = None, **told: object) -> RunSummary:
        return read_run(
            make_run(
                tmp_path / name, settings=settings, evaluations=[evaluation(10, **told)], checkpoints=[10], best=10
            )
        )

    first, same = run("first"), run("same")
    other_size, other_extractor = run("size", size=96), run("extractor", extractor="inception")
    other_domain = run("domain", {"data.b.name": "vangogh"}, size=96)
    assert not incomparable_bests([first, same, other_domain])
    assert incomparable_bests([first, other_size])
    assert incomparable_bests([first, other_extractor])


def test_figures_for_people() -> None:
    assert [human_bytes(number) for number in (0, 999, 1000, 9949, 9950, 999_499, 999_500, 1_234_567_890, 10**17)] == [
        "0 bytes", "999 bytes", "1.0 kB", "9.9 kB", "10 kB", "999 kB", "1.0 MB", "1.2 GB", "100000 TB",
    ]  # fmt: skip
    assert [human_age(seconds) for seconds in (-5, 59, 60, 3599, 3600, 47 * 3600, 48 * 3600)] == [
        "just now", "just now", "1 min ago", "60 min ago", "1 h ago", "47 h ago", "2 days ago",
    ]  # fmt: skip


def test_width_of_text() -> None:
    # Two columns a CJK letter, none for a combining accent.
    assert [display_width(text) for text in ("abc", "絵画", "e\u0301", "")] == [3, 4, 1, 0]
    assert [shortened("絵画絵画", width) for width in (8, 7, 6, 3)] == ["絵画絵画", "絵画...", "絵...", "..."]
    assert printable("ok\tä\u200b\udcff") == "ok?ä??"
    assert text_table([["絵", "1"], ["abc", "22"]], right=[1]) == ["絵    1", "abc  22"]
