"""Several processes share one listing: the same as one, also when one of them is killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cyclestyle.distributed import joined, launched_processes, local_rank, rank, sum_over_processes, world_size
from cyclestyle.errors import ConfigError
from cyclestyle.inference.folder import translate_folder

from .bulk import REPOSITORY, noise, save, start, tiny_translator, tree


def account(output: Path) -> list[dict[str, object]]:
    """The manifest without what differs from run to run."""
    lines = (output / "manifest.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": None} for line in lines]


@pytest.fixture
def words(tmp_path: Path) -> list[str | Path]:
    """Arguments for eleven pictures and a broken one, with the output folder left open."""
    for number in range(11):
        save(noise(20 + number, 30, seed=number), tmp_path / "in" / f"{number % 3}" / f"{number:02d}.png")
    (tmp_path / "in" / "1" / "broken.png").write_bytes(b"no picture")
    return ["--checkpoint", tiny_translator(tmp_path / "t.safetensors"), "--input", tmp_path / "in", "--output"]


def translate_alone(words: list[str | Path], output: Path) -> int:
    return translate_folder(
        checkpoint=Path(words[1]), input=Path(words[3]), output=output, device="cpu", precision="fp32"
    )


def test_two_ranks_of_torchrun_equal_one_process(words: list[str | Path], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}", "--",
         REPOSITORY / "test.py", *words, tmp_path / "two", "--device", "cpu", "--precision", "fp32"],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout == f"translated: 11 of 12, failed: 1, skipped: 0\n{tmp_path / 'two'}\n"
    assert done.stderr.count("warning: failed: ") == 1
    assert translate_alone(words, tmp_path / "one") == 1
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    assert account(tmp_path / "two") == account(tmp_path / "one")


def test_a_killed_rank_leaves_the_others_work_whole(words: list[str | Path], tmp_path: Path) -> None:
    output, port = tmp_path / "two", str(free_port())
    ranks = [
        start(*words, output, RANK=str(each), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port, SLOW="0.2")
        for each in range(2)
    ]
    names = sorted(path.relative_to(tmp_path / "in").as_posix() for path in (tmp_path / "in").rglob("*.png"))
    deadline = time.monotonic() + 100
    while not (output / names[1]).exists():  # the first of rank 1's share
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ranks[1].kill()
    out, err = ranks[0].communicate(timeout=60)
    ranks[1].communicate()
    assert ranks[0].returncode == 1
    assert "another process did not finish its share: give the same command again" in err
    assert "Traceback" not in err
    good = [name for name in names if "broken" not in name]
    there = set(tree(output))
    assert {name for name in names[0::2] if name in good} <= there  # all of rank 0's
    assert there < set(good)
    # what rank 1 did is counted, what it did not is failed: in all it is N
    assert out.splitlines()[0] == f"translated: {len(there)} of 12, failed: {12 - len(there)}, skipped: 0"
    assert not list(output.glob(".*"))

    assert translate_alone(words, output) == 1
    assert translate_alone(words, tmp_path / "one") == 1
    assert tree(output) == tree(tmp_path / "one")
    assert [row["input"] for row in account(output)] == [row["input"] for row in account(tmp_path / "one")]


def test_standard_input_is_refused_to_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"--input - was given to 2 processes, .* write the list to a .txt file"):
        translate_folder(input=Path("-"))


def test_without_a_meeting_point_it_says_so(
    words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="MASTER_ADDR and MASTER_PORT do not say where they meet"):
        translate_alone(words, tmp_path / "out")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ConfigError, match="RANK=2 was given with WORLD_SIZE=2"):
        translate_alone(words, tmp_path / "out")


def test_ranks_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (rank(), launched_processes(), local_rank(), world_size()) == (0, 1, 0, 1)
    with joined() as group:
        assert group is None
        assert sum_over_processes([3, 4], group) == [3, 4]
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    # world_size counts those that have joined: training, which never does, refuses to run many times over
    assert (rank(), launched_processes(), local_rank(), world_size()) == (5, 8, 1, 1)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
