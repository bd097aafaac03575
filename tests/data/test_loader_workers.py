"""workers.py: worker processes that die or hang cost time, never a batch."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.schema import DataConfig, DomainConfig
from cyclestyle.data import loader as loader_module
from cyclestyle.data import workers as workers_module
from cyclestyle.data.loader import Data, build_data
from cyclestyle.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes by signals")

NUM_BATCHES = 24


def make_data(root: Path, num_workers: int, cache: str = "off") -> Data:
    rng = np.random.default_rng(0)
    for folder, count in (("trainA", 5), ("trainB", 7)):
        for i in range(count):
            (root / folder).mkdir(exist_ok=True)
            pixels = rng.integers(0, 255, (18 + i, 30 - i, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    config = DataConfig(
        root=str(root),
        a=DomainConfig(name="photo"),
        b=DomainConfig(name="vangogh"),
        load_size=18,
        crop_size=16,
        cache=cache,  # type: ignore[arg-type]
        num_workers=num_workers,
        augment=({"name": "GaussNoise", "p": 0.5},),
    )
    return build_data(config, seed=1, device_type="cpu", start_method="fork")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_LOOK_EVERY", 0.2)


@pytest.fixture
def whole(tmp_path: Path) -> torch.Tensor:
    """The stream as one process alone makes it."""
    return torch.stack([both(batch) for batch in make_data(tmp_path, 0).batches(0, NUM_BATCHES, 2)])


def both(batch: UnpairedBatch) -> torch.Tensor:
    return torch.cat([batch.real_a, batch.real_b])


def pids() -> list[int]:
    found = [child.pid for child in multiprocessing.active_children()]
    return sorted(pid for pid in found if pid is not None)


def stream(data: Data, harm: dict[int, signal.Signals]) -> torch.Tensor:
    """All batches; before that of each number in `harm` a worker is sent a signal."""
    batches, taken = data.batches(0, NUM_BATCHES, 2), []
    for number in range(NUM_BATCHES):
        if number in harm:
            os.kill(pids()[0], harm[number])
            # Who trains must not notice before it wants the batch: torch would raise here, whatever is going on.
            deadline = time.monotonic() + 0.1
            while time.monotonic() < deadline:
                pass
        taken.append(both(next(batches)))
    batches.close()  # type: ignore[attr-defined]
    assert pids() == []
    return torch.stack(taken)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_worker_is_replaced_and_its_batches_are_the_same(
    tmp_path: Path, whole: torch.Tensor, caplog: pytest.LogCaptureFixture, num_workers: int
) -> None:
    data = make_data(tmp_path, num_workers)
    found = stream(data, {3: signal.SIGKILL, 15: signal.SIGSEGV})
    assert torch.equal(found, whole)
    first, second = (record.getMessage() for record in caplog.records)
    assert "was ended by SIGKILL, as the system does where memory runs out; workers are started again" in first
    assert "it will be the same (restart 1 of at most 3 in 100 batches)" in first
    assert "was ended by SIGSEGV; workers" in second
    assert "(restart 2 of" in second


def test_workers_that_die_again_and_again_end_the_run_in_one_line(
    tmp_path: Path, whole: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_data(tmp_path, 1)
    with pytest.raises(
        DataError,
        match=r"^worker process \d+ was ended by SIGKILL, .*, the 4\. time in 100 batches: lower data\.num_workers "
        r"\(now 1; with 0 the training process reads by itself\)",
    ) as caught:
        stream(data, dict.fromkeys((2, 5, 8, 11), signal.SIGKILL))
    assert "\n" not in str(caught.value)
    assert len(caplog.records) == 3
    assert pids() == []


def test_deaths_long_ago_are_forgiven(tmp_path: Path, whole: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "_WITHIN", 9)
    found = stream(make_data(tmp_path, 1), dict.fromkeys((1, 4, 8, 12, 16, 20), signal.SIGKILL))
    assert torch.equal(found, whole)


def test_a_worker_that_hangs_is_replaced(
    tmp_path: Path, whole: torch.Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "_SAY_AFTER", 0.5)
    monkeypatch.setattr(workers_module, "_GIVE_UP_AFTER", 1.5)
    found = stream(make_data(tmp_path, 2), {6: signal.SIGSTOP})
    assert torch.equal(found, whole)
    waiting, restarted = (record.getMessage() for record in caplog.records)
    assert waiting.startswith("no batch for 0 s, still waiting: does the disk or network")
    assert "worker processes gave no batch; workers are started again" in restarted


def test_a_slow_disk_is_no_hang(tmp_path: Path, whole: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_LOOK_EVERY", 0.01)
    data = make_data(tmp_path, 2)
    load = data.dataset.load

    def slowly(position: int) -> object:
        time.sleep(0.03)
        return load(position)

    data.dataset.load = slowly  # type: ignore[assignment,method-assign]
    assert torch.equal(stream(data, {}), whole)


def test_broken_files_are_named_once_though_their_batch_is_made_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_data(tmp_path, 1)
    (tmp_path / "trainB" / "2.png").unlink()
    stream(data, {4: signal.SIGKILL, 9: signal.SIGKILL})
    named = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(named) == 1
    assert "trainB/2.png: No such file" in named[0]


def test_a_system_without_room_for_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path, 2)

    def refuse() -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(DataError, match=r"^2 worker processes cannot be started .*: lower data\.num_workers$"):
        next(iter(data.batches(0, 2, 1)))
