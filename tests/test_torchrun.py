"""Training by several processes of torchrun: one process's mathematics, resumes, restarts, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclestyle.checkpoint import load_checkpoint
from cyclestyle.config.loading import load_config
from cyclestyle.training.run import train

from .test_distributed import free_port
from .test_resume import assert_same, losses

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"  # what train.py starts from
SMOKE = ROOT / "configs" / "smoke.yaml"

COMMON = (
    "train.batch_size=4",
    "method.pool_size=0",  # each process has its own, as it has its own mixing of real and translated for the penalty
    "method.weights.gradient_penalty=0",
    "generator.init_gain=0.2",
    "discriminator.norm=none",
    "discriminator.init_gain=0.2",
    "log.scalars_every=2",
)
# Everything with a state of its own.
STATEFUL = (
    "train.batch_size=2",
    "method.pool_size=3",
    "method.weights.gradient_penalty=1",
    "discriminator.norm=none",
    "generator.dropout=0.2",
    "train.checkpoint_every=5",
    "log.scalars_every=3",
    "evaluate.every=0",
)


def about(what: object) -> Callable[[str], str]:
    """Puts before the message of a failed comparison what was compared."""
    return lambda text: f"{what}: {text}"


def torchrun(num_processes: int, settings: list[str], *flags: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={num_processes}",
             f"--master_port={free_port()}", *flags, "--", str(ROOT / "train.py"), *settings]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:  # nothing that hangs outlives its test
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def trained(num_processes: int, settings: list[str], *more: str) -> tuple[str, str]:
    code, out, err = finish(torchrun(num_processes, [*settings, *more]))
    assert code == 0, err
    return out, err


def state(runs: Path, name: str, step: int) -> dict[str, Any]:
    return load_checkpoint(runs / name / "checkpoints" / f"step_{step:08d}.pt")


def weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state["method"].items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(("world", "method"), [(3, "cyclegan"), (2, "cut")])
def test_processes_learn_what_one_does(tiny: list[str], tmp_path: Path, world: int, method: str) -> None:
    """Also in uneven shares: 4 images on 3 processes. Without norms, see below.

    Each process draws places of its own; here all 256 of a layer are taken, and their order changes nothing.
    """
    runs = tmp_path / "runs"
    config = QUICKSTART if method == "cyclegan" else SMOKE  # with weights of CycleGAN, and with none
    settings = [*tiny, *COMMON, f"method.name={method}", "generator.norm=none", "train.steps=6", "evaluate.every=6"]
    if method != "cyclegan":
        settings += ["discriminator.spectral_norm=true", "method.weights.src_ab=1", "method.contrast.width=16"]
    train(load_config(config, [*settings, "name=one"]))
    out, err = trained(world, ["--config", str(config), *settings], "name=several")
    assert out.splitlines()[-1] == f"run: {runs / 'several'}"
    assert err.count("judge patches") == 1  # one speaks for all
    one, several = state(runs, "one", 6), state(runs, "several", 6)
    assert several["position"] == 24
    for name, value in weights(one).items():
        # Adam may move a weight by 1.2e-3 in six steps; the order of places rounds otherwise.
        atol = 1e-6 if method == "cyclegan" else 5e-6
        torch.testing.assert_close(weights(several)[name], value, rtol=1e-5, atol=atol, msg=about(name))
    for mine, theirs in zip(losses(runs / "several"), losses(runs / "one"), strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            if not name.startswith("doctor_") and name != "alarms":  # the doctor looks at the first one's pictures
                assert mine[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_gradients_are_one_processes_with_batch_norm_and_in_parts(tiny: list[str], tmp_path: Path) -> None:
    """What Adam makes of them is not: of the shifts before another norm they are only rounding, and its steps whole."""
    # With seed 0 a value lies within rounding of a ReLU's kink.
    more = ["generator.norm=batch", "optimizer.accumulation=2", "train.steps=1", "evaluate.every=0", "seed=1"]
    settings = [*tiny, *COMMON, *more]
    train(load_config(QUICKSTART, [*settings, "name=one"]))
    trained(2, settings, "name=several")
    one, several = state(tmp_path / "runs", "one", 1), state(tmp_path / "runs", "several", 1)
    for player, optimizer in one["optimization"]["optimizers"].items():
        for index, moments in optimizer["state"].items():
            found = several["optimization"]["optimizers"][player]["state"][index]["exp_avg"]
            torch.testing.assert_close(found, moments["exp_avg"], rtol=1e-4, atol=1e-4, msg=about(index))
    for name, value in weights(one).items():
        if "running" in name or "num_batches" in name:
            torch.testing.assert_close(weights(several)[name], value, rtol=1e-4, atol=1e-6, msg=about(name))


def test_killed_and_restarted_is_bit_for_bit_the_same(
    tiny: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With kill -9 under --max-restarts; then on with other numbers of processes."""
    runs = tmp_path / "runs"
    settings = [*tiny, *STATEFUL]
    trained(2, settings, "name=whole", "train.steps=40")

    process = torchrun(2, [*settings, "name=broken", "train.steps=40"], "--max-restarts=2")
    wait_for(runs / "broken" / "checkpoints" / "step_00000010.pt", process)
    os.kill(worker(process, rank=1), signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 0, err
    assert out.splitlines()[-1] == f"run: {runs / 'broken'}"
    expected, found = state(runs, "whole", 40), state(runs, "broken", 40)
    assert len(expected["others"]) == 1
    assert expected.pop("config")["name"] == "whole"
    found.pop("config")
    assert_same(found, expected)
    assert losses(runs / "broken") == losses(runs / "whole")

    train(load_config(QUICKSTART, [*settings, "name=broken", "train.steps=42"]))
    assert "trained by 2 processes so far, now by 1" in caplog.text
    assert state(runs, "broken", 42)["others"] == []
    out, err = trained(2, settings, "name=broken", "train.steps=44")
    assert "trained by 1 process so far, now by 2" in err
    assert "42 done of 44" in err


def test_a_signal_to_one_stops_all_and_saves(tiny: list[str], tmp_path: Path) -> None:
    process = torchrun(2, [*tiny, *STATEFUL, "train.steps=100000"], "--max-restarts=2")
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints"
    wait_for(checkpoints / "step_00000005.pt", process)
    os.kill(worker(process, rank=1), signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 0, err  # else torchrun would start them again
    assert err.count("stopped by SIGTERM at step") == 1
    newest = load_checkpoint(max(checkpoints.glob("*.pt")))
    assert len(newest["others"]) == 1


def test_an_error_of_one_process_is_said_by_the_first(tiny: list[str], dataset: Path, tmp_path: Path) -> None:
    """A folder that only one of them cannot see any more, say: here the other's pictures differ."""
    spoiled = tmp_path / "sitecustomize.py"
    spoiled.write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import cyclestyle.data.dataset as dataset\n"
        "    from cyclestyle.errors import DataError\n"
        "    def broken(*_):\n"
        "        raise DataError('the disk of process 1 is gone')\n"
        "    dataset.UnpairedDataset.load = broken\n"
    )
    words = [*tiny, *STATEFUL, "train.steps=10", "data.num_workers=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}", "--",
         str(ROOT / "train.py"), *words],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    code, _, err = finish(process)
    assert code == 1, err
    assert "error: process 1 of 2 failed: the disk of process 1 is gone" in err, err
    assert "error: the disk of process 1 is gone" in err
    assert err.count("Traceback") <= 1  # torchrun's own


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no {path.name} in two minutes"
        time.sleep(0.01)


def worker(launcher: subprocess.Popen[str], rank: int) -> int:
    """Process id of a rank."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == launcher.pid and f"RANK={rank}".encode() in environment:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")
