"""What people and scripts read of evaluations."""

from __future__ import annotations

import json
import math
from typing import Any

from cyclestyle.evaluation import table
from cyclestyle.evaluation.metrics import METRICS, meaning, rank, split


def row(step: int | None = 200, direction: str = "ab", **scores: float) -> dict[str, Any]:
    about = {"source": "photo", "target": "painting", "num_sources": 24, "num_references": 20, "reference_folder": "B"}
    return {
        "step": step, "seconds": 1.0, "size": 160, "extractor": "builtin-1",
        "scores": {f"{name}_{direction}" if direction else name: value for name, value in scores.items()},
        "directions": {direction: about},
    }  # fmt: skip


def test_every_number_stands_with_what_it_was_measured_on() -> None:
    lines = table.one_evaluation(row(kid=0.0123456, fid=4.5, swd_80=12.0))
    assert lines[0] == "step 200: 24 photo as painting against 20 of B; extractor builtin-1, 160 px"
    kid = next(line for line in lines if line.startswith("kid "))
    assert "0.01235" in kid
    assert "(lower is better)" in kid
    assert any("swd of the detail that 80 px show (lower is better)" in line for line in lines)
    assert any("fid is biased upwards for so few pictures (20)" in line for line in lines)
    assert any("builtin extractor" in line for line in lines)


def test_two_directions_stand_beside_each_other() -> None:
    both = row(kid=0.1)
    both["scores"]["kid_ba"] = 0.2
    both["directions"]["ba"] = {**both["directions"]["ab"], "source": "painting", "target": "photo"}
    lines = table.one_evaluation(both)
    assert any("photo to painting" in line and "painting to photo" in line for line in lines)
    assert any(line.startswith("kid ") and line.index("0.1") < line.index("0.2") for line in lines)


def test_evaluations_of_a_run_stand_under_each_other() -> None:
    lines = table.several_evaluations([row(200, kid=0.5, change=math.nan), row(1400, kid=0.25, change=0.1)])
    assert lines[1].split() == ["step", "kid", "change"]
    assert [line.split() for line in lines[2:4]] == [["200", "0.5", "-"], ["1400", "0.25", "0.1"]]


def test_folders_have_no_step_and_no_direction() -> None:
    lines = table.one_evaluation(row(None, "", kid=0.5))
    assert lines[0].startswith("24 pictures against 20 of B")
    assert any(line.split()[:2] == ["kid", "0.5"] for line in lines)


def test_no_note_of_bias_where_there_are_many() -> None:
    many = row(fid=3.0)
    many["directions"]["ab"] |= {"num_sources": 5000, "num_references": 5000}
    assert not any("biased upwards for so few" in line for line in table.one_evaluation(many))


def test_json_is_strict() -> None:
    found = json.loads(table.as_json([row(kid=math.nan, psnr_truth=math.inf)]), parse_constant=lambda word: 1 / 0)
    assert found[0]["scores"] == {"kid_ab": None, "psnr_truth_ab": None}


def test_metrics_know_their_order_and_meaning() -> None:
    assert split("kid_error_ba") == ("kid_error", "ba")
    assert split("swd_160_ab") == ("swd_160", "ab")
    assert split("kid") == ("kid", "")
    names = ["ssim", "unknown", "swd_160", "swd", "swd_40", "kid"]
    assert sorted(names, key=rank) == ["kid", "swd", "swd_40", "swd_160", "ssim", "unknown"]
    assert all(meaning(name) for name in METRICS)
    assert meaning("unknown") == ""
