"""A run that is killed, stopped and started again is, bit for bit, the run that never stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import cyclestyle
from cyclestyle.checkpoint import load_checkpoint
from cyclestyle.config.loading import load_config

ROOT = Path(__file__).parents[1]

# Everything with a state of its own: dropout, pools, spectral norm, the penalty's mixing, averages, schedule.
STATEFUL = (
    "generator.dropout=0.3",
    "discriminator.spectral_norm=true",
    "discriminator.norm=none",
    "method.weights.gradient_penalty=1",
    "method.pool_size=5",
    "optimizer.accumulation=2",
    "train.batch_size=2",
    "train.checkpoint_every=20",
    "train.steps=150",
    "log.scalars_every=7",  # no divisor of the interval of checkpoints: sums are under way at each of them
    "log.samples_every=50",
)


def command(settings: list[str]) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), "--config", str(ROOT / "configs" / "smoke.yaml"), *settings]


def start(settings: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command(settings), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def stop_after(
    process: subprocess.Popen[str], checkpoint: Path, number: signal.Signals, *, seconds: float = 0.0
) -> tuple[int, str]:
    """Send a signal so many seconds after `checkpoint` appears; gives the exit code and stderr."""
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint in two minutes"
        time.sleep(0.002)
    time.sleep(seconds)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def assert_same(found: Any, expected: Any, path: str = "") -> None:
    """Equal in every bit, with the path of what is not."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_same(found[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), path
    else:
        assert found == expected, path


def losses(run: Path) -> list[dict[str, float]]:
    """Rows of metrics.jsonl without what is timed."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds_per_step", "images_per_second", "data_wait", "doctor_data_wait", "memory_gb")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def test_killed_stopped_and_resumed_is_uninterrupted(tiny: list[str], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    settings = [*tiny, *STATEFUL]
    whole = start([*settings, "name=whole"])
    out, err = whole.communicate(timeout=180)
    assert whole.returncode == 0, err
    assert out.splitlines()[-1] == f"run: {runs / 'whole'}"

    broken = [*settings, "name=broken"]
    checkpoints = runs / "broken" / "checkpoints"
    code, _ = stop_after(start(broken), checkpoints / "step_00000040.pt", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (checkpoints / "step_00000150.pt").exists(), "it was finished before it could be killed"

    # A little later, so that it hits between two checkpoints: what is saved then is the step it stopped at.
    code, err = stop_after(start(broken), checkpoints / "step_00000080.pt", signal.SIGTERM, seconds=0.1)
    assert code == 143
    saved = re.search(r"stopped by SIGTERM at step (\d+), saved", err)
    assert saved, err
    assert 80 <= int(saved[1]) < 150

    last = start(broken)
    out, err = last.communicate(timeout=180)
    assert last.returncode == 0, err
    assert f"{saved[1]} done of 150" in err

    expected = load_checkpoint(runs / "whole" / "checkpoints" / "step_00000150.pt")
    found = load_checkpoint(checkpoints / "step_00000150.pt")
    assert expected.pop("config")["name"] == "whole"
    assert found.pop("config")["name"] == "broken"
    assert_same(found, expected)
    assert losses(runs / "broken") == losses(runs / "whole")

    again = start(broken)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert out.startswith("already finished: 150 steps; to train on, raise its length, e.g. train.steps=300")


def test_ctrl_c_saves_and_says_how_to_go_on(tiny: list[str], tmp_path: Path) -> None:
    process = start([*tiny, "train.steps=100000", "train.checkpoint_every=50", "data.num_workers=1"])
    code, err = stop_after(process, tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000050.pt", signal.SIGINT)
    assert code == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err


def test_a_closed_stderr_does_not_end_a_training(tiny: list[str], tmp_path: Path) -> None:
    """As in `python train.py 2>&1 | head -1`: the reader leaves, the run goes on to its end."""
    process = start([*tiny, "train.steps=200"])
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    assert process.stdout is not None
    out = process.stdout.read()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert out.startswith("trained: 200 steps")
    assert (tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000200.pt").exists()


def test_the_same_command_twice_gives_the_same_weights(tiny: list[str]) -> None:
    """In the precision that auto chooses here."""
    states = []
    for name in ("first", "second"):
        run = cyclestyle.train(load_config(None, [*tiny, f"name={name}", "train.steps=5", "train.precision=auto"]))
        states.append(load_checkpoint(run / "checkpoints" / "step_00000005.pt"))
        states[-1].pop("config")
    assert_same(states[1], states[0])
