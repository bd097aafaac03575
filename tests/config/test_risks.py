"""What went wrong where it was tried is warned of, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyclestyle.config.loading import load_with_warnings
from cyclestyle.config.methods import METHODS

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("norm", ["none", "instance", "batch"])
@pytest.mark.parametrize("name", METHODS)
def test_cut_without_a_norm_may_saturate(name: str, norm: str) -> None:
    given = [f"method.name={name}", f"generator.norm={norm}"]
    _, warnings = load_with_warnings(None, ["data.root=pictures", "train.steps=7", *given])
    if (name, norm) == ("cut", "none"):
        (line,) = warnings
        assert line.startswith("method.name=cut with generator.norm=none may turn all black in its first steps")
        assert "set generator.norm=instance" in line
    else:
        assert warnings == ()


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_configs_warn_of_nothing(file: Path) -> None:
    assert load_with_warnings(file)[1] == ()
