"""Processes of a group: what they tell each other, batch norm over all of them, and how an error of one ends all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cyclestyle import distributed

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(world_size: int, code: str) -> list[subprocess.Popen[str]]:
    """Processes that know of each other, each running `code`."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RANK": str(rank),
                "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world_size), "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            },
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(world_size)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen[str]], seconds: float = 90) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


TALK = """
import torch
from torch import nn
from cyclestyle.distributed import *
from cyclestyle.networks.batch_norm import share_batch_norm
from cyclestyle import distributed

with joined():
    rank = group_rank()
    assert world_size() == 3 and neighbours() == 3 and is_first() == (rank == 0)

    # sums, in several messages, in both layouts
    distributed._BUCKET = 10
    tensors = [torch.arange(12.0).reshape(1, 3, 2, 2) * (rank + 1), torch.full((4,), float(rank)), torch.tensor(1.0)]
    tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    sum_in_place(tensors)
    assert torch.equal(tensors[0], torch.arange(12.0).reshape(1, 3, 2, 2) * 6)
    assert tensors[0].is_contiguous(memory_format=torch.channels_last)
    assert tensors[1].tolist() == [3.0] * 4 and tensors[2].item() == 3

    assert highest([4, 9, 2][rank]) == 9
    assert from_first(lambda: {"rank": rank, "x": torch.ones(2)})["rank"] == 0
    assert gathered("abc"[rank]) == (["a", "b", "c"] if rank == 0 else [])
    assert are_equal("same") and not are_equal(f"not the same {rank == 2}")

    # batch norm of uneven shares of seven images against torch's of them all, in float64
    torch.manual_seed(0)
    images = torch.randn(7, 3, 5, 4, dtype=torch.float64) * 3 + 100
    weights = torch.randn(7, 3, 5, 4, dtype=torch.float64)
    plain, shared = nn.BatchNorm2d(3).double(), nn.Sequential(nn.BatchNorm2d(3).double())
    for each in (plain, shared[0]):
        nn.init.uniform_(each.weight, generator=torch.Generator().manual_seed(1))
        nn.init.uniform_(each.bias, generator=torch.Generator().manual_seed(2))
    share_batch_norm(shared)
    own = slice(*[(0, 2), (2, 4), (4, 7)][rank])
    whole, part = images.clone().requires_grad_(), images[own].clone().requires_grad_()
    (plain(whole) * weights).sum().backward()
    out = shared(part)
    (out * weights[own]).sum().backward()
    gradients = [shared[0].weight.grad, shared[0].bias.grad]
    sum_in_place(gradients)
    close = dict(rtol=TOLERANCE, atol=TOLERANCE)
    with torch.no_grad():
        plain2 = nn.BatchNorm2d(3).double()
    torch.testing.assert_close(part.grad, whole.grad[own], **close)
    torch.testing.assert_close(gradients[0], plain.weight.grad, **close)
    torch.testing.assert_close(gradients[1], plain.bias.grad, **close)
    torch.testing.assert_close(shared[0].running_mean, plain.running_mean, **close)
    torch.testing.assert_close(shared[0].running_var, plain.running_var, **close)
    assert shared[0].num_batches_tracked == 1
    assert list(shared.state_dict()) == ["0." + name for name in plain.state_dict()]
    shared.eval(), plain.eval()
    torch.testing.assert_close(shared(part), plain(whole)[own], **close)
    print("all said")
"""


def test_three_processes_talk() -> None:
    for code, out, err in finish(launch(3, TALK.replace("TOLERANCE", "1e-9"))):
        assert (code, out) == (0, "all said\n"), err


def test_alone_everything_is_that_of_one_process() -> None:
    import torch

    tensor = torch.ones(2)
    distributed.sum_in_place([tensor])
    assert tensor.tolist() == [1, 1]
    assert distributed.differentiable_sum(tensor) is tensor
    assert distributed.highest(3) == 3
    assert distributed.from_first(lambda: 5) == 5
    assert distributed.gathered("x") == ["x"]
    assert distributed.are_equal("x")
    assert distributed.is_first()
    assert (distributed.world_size(), distributed.group_rank(), distributed.neighbours()) == (1, 0, 1)


FAIL = """
import sys, time
from datetime import timedelta
from cyclestyle.distributed import *
from cyclestyle.errors import DataError

try:
    with joined(patience=timedelta(seconds=PATIENCE)):
        meet()
        if rank() == 1:
            ACTION
        meet()
except GroupError as error:
    print(error)
    sys.exit(3)
"""


def test_an_error_of_one_ends_all_with_its_message() -> None:
    code = FAIL.replace("PATIENCE", "60").replace("ACTION", "raise DataError('no\\n pictures')")
    first, second = finish(launch(2, code))
    assert first[:2] == (3, "process 1 of 2 failed: no pictures\n")
    assert second[0] == 1
    assert "DataError" in second[2]


def test_one_that_is_killed_ends_the_others_at_once() -> None:
    started = time.monotonic()
    first, _ = finish(launch(2, FAIL.replace("PATIENCE", "600").replace("ACTION", "import os; os._exit(9)")))
    assert first[0] == 3
    assert "another of the 2 processes ended without a word" in first[1]
    assert time.monotonic() - started < 60


def test_silence_is_waited_for_only_so_long() -> None:
    first, _ = finish(launch(2, FAIL.replace("PATIENCE", "1.5").replace("ACTION", "time.sleep(8)")))
    assert first[0] == 3
    assert "said nothing for 1.5 s" in first[1]


def test_a_stray_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(distributed.GroupError, match="MASTER_ADDR"), distributed.joined():
        pass
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(distributed.GroupError, match="RANK=2 was given with WORLD_SIZE=2"), distributed.joined():
        pass
