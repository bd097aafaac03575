"""One training a run folder: who else comes waits or is told; a dead owner holds nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cyclestyle.config.loading import load_config
from cyclestyle.errors import ConfigError
from cyclestyle.training import run_lock
from cyclestyle.training.run import train
from cyclestyle.training.run_lock import RunLock

ROOT = Path(__file__).parents[2]

HOLD = """
import sys, time
from pathlib import Path
from cyclestyle.training.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(float(sys.argv[2]))
lock.release()
"""


def holder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process that has the lock by now."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(seconds)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_living_owner_is_named_at_once(tiny: list[str], tmp_path: Path) -> None:
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    other = holder(run, 60)
    started = time.monotonic()
    with pytest.raises(ConfigError, match=rf"being trained by another process \({other.pid} on .*\): wait for it"):
        train(load_config(None, [*tiny, "train.steps=1"]))
    assert time.monotonic() - started < 10
    assert not (run / "config.yaml").exists()
    other.kill()
    other.communicate()
    train(load_config(None, [*tiny, "train.steps=1"]))  # what a killed owner held is free
    assert not (run / ".owner.json").exists()
    with pytest.raises(ConfigError, match="meanwhile"):  # begun before the other finished, say
        run_lock_after_a_stranger(tiny, run)


def run_lock_after_a_stranger(tiny: list[str], run: Path) -> None:
    from cyclestyle.training import assembly
    from cyclestyle.training.run_folder import RunFolder

    lock = RunLock(run)
    try:
        assembly._open(RunFolder(run), lock, None)
    finally:
        lock.release()


def test_an_owner_on_its_way_out_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its worker processes, say, which have the lock of one that was killed for a few seconds more."""
    other = holder(tmp_path, 1.0)
    (tmp_path / ".owner.json").write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname()}))
    lock = RunLock(tmp_path)
    lock.acquire()
    assert "waiting for the run folder" in caplog.text
    lock.release()
    other.communicate()

    other = holder(tmp_path, 60)
    (tmp_path / ".owner.json").write_text(json.dumps({"pid": 7, "host": "another-machine"}))
    monkeypatch.setattr(run_lock, "_PATIENCE", 0.2)
    with pytest.raises(ConfigError, match=r"\(7 on another-machine\)"):
        RunLock(tmp_path).acquire()
    other.kill()
    other.communicate()


def test_no_folder_is_made_for_a_lock(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "absent")
    lock.acquire()
    lock.release()
    assert not (tmp_path / "absent").exists()


def test_a_time_limit_saves_and_ends_with_a_code_of_its_own(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        train(load_config(None, [*tiny, "train.steps=100000", "train.max_seconds=0.01"]))
    assert ended.value.code == 75
    (newest,) = (tmp_path / "runs" / "tiny" / "checkpoints").glob("*.pt")
    with pytest.raises(SystemExit):
        train(load_config(None, [*tiny, "train.steps=100000", "train.max_seconds=0.5"]))
    assert max((tmp_path / "runs" / "tiny" / "checkpoints").glob("*.pt")) > newest


SIGNALS = """
import os, signal, sys, time
from cyclestyle.training import interruption
interruption._SAME = 0.5
with interruption.stop_on_signals() as stop:
    for pause in (0, 0.1):
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    print("lives", stop.reason, flush=True)
    time.sleep(0.6)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    print("too late")
"""


@pytest.mark.parametrize("is_launched", [False, True])
def test_a_second_signal_ends_at_once_but_torchruns_echo_of_the_first_does_not(is_launched: bool) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TORCHELASTIC_RUN_ID", None)
    if is_launched:
        environment["TORCHELASTIC_RUN_ID"] = "some"
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS], env=environment, text=True, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == (-signal.SIGTERM if is_launched else -signal.SIGINT), done.stderr
    assert done.stdout == ("lives SIGINT\n" if is_launched else "")
