"""The page of options follows the schema."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclestyle.config.describe import describe, field_texts, options_page
from cyclestyle.config.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_page_in_docs_is_the_schemas() -> None:
    assert PAGE.read_text(encoding="utf-8") == options_page(), (
        "run: python -m cyclestyle.config.describe > docs/options.md"
    )


def test_every_option_is_described() -> None:
    missing = [row.key for row in describe() if not row.text]
    assert not missing, f"write a text under each of these fields: {missing}"


def test_a_row_says_type_range_default_and_meaning() -> None:
    rows = {row.key: row for row in describe()}
    assert (rows["train.batch_size"].type, rows["train.batch_size"].default) == (
        "a whole number; at least 1 and at most 65536",
        "1",
    )
    assert rows["train.batch_size"].text == "Images of each domain in one optimizer step, over all processes."
    assert rows["data.cache"].type == "one of auto, on, off"
    assert rows["generator.blocks"].default == "null"
    assert rows["optimizer.betas"].default == "[0.5, 0.999]"
    others = [
        row for method in METHODS if method != "cyclegan" for row in describe(method) if row.key.startswith("method.")
    ]
    assert len(rows) + len(others) == options_page().count("\n| `")


def test_inherited_options_have_their_texts_and_each_method_its_own_defaults() -> None:
    cut, dclgan = ({row.key: row for row in describe(method)} for method in ("cut", "dclgan"))
    assert cut["method.weights.r1"].text.startswith("Gradient penalty on real images")
    assert cut["method.pool_size"].default == "0"
    assert "only the newest" in cut["method.pool_size"].text
    assert dclgan["method.pool_size"].default == "0"
    assert "'image'" in cut["method.contrast.layers"].default
    assert "'image'" not in dclgan["method.contrast.layers"].default


@dataclass
class Sample:
    """Not a field's text."""

    described: int = 1
    """Two
    lines."""
    bare: int = 2


def test_texts_belong_to_the_field_above() -> None:
    assert field_texts(Sample) == {"described": "Two lines.", "bare": ""}
