"""benchmarks/soak.py in short: killed, damaged and on a full disk, a training is bit for bit the undisturbed one."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cyclestyle.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the soak kills forks of a server")


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "soak.py"
    spec = importlib.util.spec_from_file_location("soak", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(soak: ModuleType) -> Iterator[Any]:
    server = soak.Server()
    yield server
    server.close()


def test_five_kills_and_a_disk_that_fills_up(soak: ModuleType, start: Any, tmp_path: Path) -> None:
    outcome = soak.soak(tmp_path, kills=5, num_steps=31, seed=3, signals=["KILL", "TERM", "INT"], start=start)
    assert outcome.wrong == []
    assert len(outcome.kills) == 5
    assert outcome.num_compared >= outcome.runs * 20
    small, what = soak.soak_small_disk(tmp_path, num_steps=31, rounds=1, start=start)
    assert small.wrong == []
    assert small.full_disks == (2 if what == "a tmpfs" else 1)
    table = soak.table(outcome)
    assert f"runs: {outcome.runs}, started {outcome.starts} times; 10 steps between checkpoints" in table
    assert "differing: 0" in table


# ------------------------------------------------------------------------------------------ that it would see it


def make_run(folder: Path) -> Path:
    """What `differences` compares, by hand."""
    run = folder / "runs" / "soak"
    for part in ("checkpoints", "translators", "samples"):
        (run / part).mkdir(parents=True)
    save_checkpoint(
        run / "checkpoints" / "step_00000010.pt",
        {"step": 10, "method": {"w": torch.arange(3.0)}, "random": [torch.arange(2), 1, None], "others": []},
    )
    (run / "metrics.jsonl").write_text('{"step": 3, "cycle_a": 1.5, "data_wait": 0.1}\n')
    for name in ("translators/t.safetensors", "samples/s.png", "config.yaml", "checkpoints/index.json"):
        (run / name).write_text(name)
    return run


def test_every_kind_of_difference_is_seen(soak: ModuleType, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    make_run(whole)
    assert soak.differences(whole, whole) == ([], 11)

    def found(name: str, harm: Any) -> list[str]:
        run = make_run(tmp_path / name)
        harm(run)
        return list(soak.differences(whole, tmp_path / name)[0])

    def change_state(run: Path, **changes: Any) -> None:
        path = run / "checkpoints" / "step_00000010.pt"
        save_checkpoint(path, {**load_checkpoint(path), **changes})

    last = "step_00000010.pt"
    assert found("timed", lambda run: (run / "metrics.jsonl").write_text('{"step": 3, "cycle_a": 1.5}\n')) == []
    assert found("rows", lambda run: (run / "metrics.jsonl").write_text('{"step": 3, "cycle_a": 1.6}\n')) == [
        "metrics.jsonl"
    ]
    assert found("ulp", lambda run: change_state(run, method={"w": torch.tensor([0, 1, 2.0000002])})) == [
        f"{last}: method"
    ]
    assert found("type", lambda run: change_state(run, random=[torch.arange(2), 1.0, None])) == [f"{last}: random"]
    assert found("less", lambda run: (run / "samples" / "s.png").unlink()) == ["samples/s.png"]
    assert found("more", lambda run: (run / "samples" / "u.png").touch()) == ["samples/u.png"]
    assert found("byte", lambda run: (run / "translators" / "t.safetensors").write_text("?")) == [
        "translators/t.safetensors"
    ]


def test_damages_are_damages(soak: ModuleType, tmp_path: Path) -> None:
    path, chance, kinds = tmp_path / "c.pt", random.Random(0), set()
    for _ in range(20):
        save_checkpoint(path, {"step": 1, "method": {"w": torch.ones(5000)}})
        before = path.read_bytes()
        kinds.add(soak.damage(path, chance))
        assert path.read_bytes() != before
    assert kinds == {"cut", "empty", "bit", "zeros"}


def test_what_it_reads_of_a_run(soak: ModuleType, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "metrics.jsonl").write_text(json.dumps({"step": 9}) + '\n{"step": 12, "cyc')
    assert soak.reached(tmp_path) == 9
    assert soak.reached(tmp_path / "elsewhere") == 0
    assert soak.resumed("images: 6\nsteps: 20 done of 60\n") == 20
    assert soak.resumed("steps: ") is None
    assert not soak.is_saving(tmp_path)
    (run / "checkpoints" / ".step_00000020.1.partial.pt").touch()
    assert soak.is_saving(tmp_path)
