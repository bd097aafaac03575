"""The account of every input: order, merging, what is taken over from processes that were killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cyclestyle.errors import DataError
from cyclestyle.inference.locks import locked
from cyclestyle.inference.manifest import Manifest, Row, read_manifest, sweep


def row(name: str, status: str = "translated", job: str | None = "j1", output: str | None = None) -> Row:
    return {"input": f"/in/{name}", "output": output or name, "status": status, "job": job}


def order_of(names: str) -> dict[str, int]:
    return {f"/in/{name}": position for position, name in enumerate(names)}


def inputs(output: Path) -> str:
    lines = (output / "manifest.jsonl").read_text().splitlines()
    names = [json.loads(line)["input"] for line in lines]
    assert len(set(names)) == len(names)
    return "".join(name.removeprefix("/in/") for name in names)


def fill(output: Path, listing: str, rows: list[Row]) -> None:
    manifest = Manifest(output, order_of(listing))
    for each in rows:
        manifest.record(each)
    manifest.close()


@contextmanager
def held_by_another(program: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that says "ready" and then waits; killed as by `kill -9` at the end."""
    program += "\nprint('ready', flush=True)\nimport time\ntime.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


MANIFEST_AT_WORK = """
import sys
from pathlib import Path
from cyclestyle.inference.manifest import Manifest
output = Path(sys.argv[1])
manifest = Manifest(output, {})
row = {"input": "/in/", "status": "translated", "job": "j"}
with manifest.writing(output / "a.png", {**row, "input": "/in/a", "output": "a.png"}) as partial:
    partial.write_bytes(b"whole")
manifest.record({"input": "/in/b", "output": "b.png", "status": "failed", "job": None})
busy = manifest.writing(output / "c.png", {**row, "input": "/in/c", "output": "c.png"})
busy.__enter__().write_bytes(b"half")
"""


def test_rows_end_in_the_order_of_the_listing_whoever_is_first(tmp_path: Path) -> None:
    fill(tmp_path, "abcd", [row("d"), row("b")])
    fill(tmp_path, "abcd", [row("c"), row("a", "failed", None)])
    assert inputs(tmp_path) == "abcd"
    assert read_manifest(tmp_path)["/in/a"] == row("a", "failed", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.jsonl"]


def test_rows_of_other_inputs_stay_and_the_last_of_one_counts(tmp_path: Path) -> None:
    fill(tmp_path, "xy", [row("y"), row("x")])
    fill(tmp_path, "ax", [row("x", "failed", None), row("x", job="j2"), row("a")])
    assert inputs(tmp_path) == "yax"
    assert read_manifest(tmp_path)["/in/x"]["job"] == "j2"
    assert read_manifest(tmp_path)["/in/y"] == row("y")


def test_an_output_has_one_origin(tmp_path: Path) -> None:
    """Another input's row goes when its output is replaced, and stays when the output is kept."""
    fill(tmp_path, "ab", [row("a", output="x"), row("b")])
    fill(tmp_path, "c", [row("c", "skipped", None, output="x")])
    assert inputs(tmp_path) == "abc"
    manifest = Manifest(tmp_path, {})
    assert manifest.known("x") == row("a", output="x")
    manifest.close()
    fill(tmp_path, "c", [row("c", output="x")])
    assert inputs(tmp_path) == "bc"


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    lines = [
        json.dumps(row("a")),
        "[1]",
        "",
        "{}",
        '"text"',
        '{"input": 3, "status": ""}',
        "\xff",
        json.dumps(row("b")),
    ]
    (tmp_path / "manifest.jsonl").write_bytes("\n".join(lines).encode("latin-1") + b'\n{"input": "/in/c", "sta')
    assert list(read_manifest(tmp_path)) == ["/in/a", "/in/b"]
    fill(tmp_path, "d", [row("d")])
    assert inputs(tmp_path) == "abd"


def test_a_killed_process_leaves_its_rows_and_no_half_files(tmp_path: Path) -> None:
    with held_by_another(MANIFEST_AT_WORK, str(tmp_path)):
        halves = [path.name for path in tmp_path.iterdir() if "partial" in path.name]
        assert [bool(re.fullmatch(r"\.c\.\w{12}\.\d+\.partial\.png", name)) for name in halves] == [True]
        assert sweep(tmp_path) == 1  # at work: nothing of it is touched
        assert (tmp_path / halves[0]).read_bytes() == b"half"
        assert read_manifest(tmp_path) == {}
        (own,) = tmp_path.glob(".manifest.*.jsonl")
    with open(own, "ab") as file:  # killed in the middle of a line
        file.write(b'{"input": "/in/d", "outp')
    (tmp_path / ".d.png").write_bytes(b"somebody's")
    (tmp_path / ".e.0123456789.partial.png").write_bytes(b"somebody's")
    assert sweep(tmp_path) == 0
    assert {name: row["status"] for name, row in read_manifest(tmp_path).items()} == {
        "/in/a": "translated",
        "/in/b": "failed",
    }
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".d.png", ".e.0123456789.partial.png", "a.png", "manifest.jsonl"]


@pytest.mark.parametrize("was_renamed", [False, True])
def test_killed_between_the_row_and_the_rename(tmp_path: Path, was_renamed: bool) -> None:
    """The row is written before the rename: it counts only where the output is that very file."""
    (tmp_path / "a").write_bytes(b"the new one")
    found = (tmp_path / "a").stat()
    written = [found.st_size, found.st_mtime_ns if was_renamed else found.st_mtime_ns - 1]
    own = tmp_path / ".manifest.0123456789ab.jsonl"
    own.write_text(json.dumps({**row("a"), "written": written}) + "\n")
    sweep(tmp_path)
    assert read_manifest(tmp_path) == ({"/in/a": row("a")} if was_renamed else {})


def test_an_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, order_of("ab"))
    target = tmp_path / ("n" * 251 + ".png")  # 255 bytes
    target.write_bytes(b"old")

    def spoil() -> None:
        with manifest.writing(target, row("a")) as partial:
            partial.write_bytes(b"half")
            raise MemoryError

    with pytest.raises(MemoryError):
        spoil()
    assert target.read_bytes() == b"old"
    with manifest.writing(target, row("b")) as partial:
        assert partial.suffix == ".png"
        partial.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    manifest.close()
    assert inputs(tmp_path) == "b"
    assert len(list(tmp_path.iterdir())) == 2


def test_many_threads_write_names_that_begin_alike(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, {})

    def write(number: int) -> None:
        name = f"a_photograph_of_the_sea_{number:03d}.png"
        with manifest.writing(tmp_path / name, row(name)) as partial:
            partial.write_bytes(b"%d" % number)
            time.sleep(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(100)))
    manifest.close()
    assert all(
        (tmp_path / name).read_bytes() == b"%d" % int(name[-7:-4]) for name in os.listdir(tmp_path) if "_" in name
    )
    assert len(read_manifest(tmp_path)) == 100


def test_many_merge_at_once(tmp_path: Path) -> None:
    def one(number: int) -> None:
        fill(tmp_path, "abcdefgh", [row("abcdefgh"[number])])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert inputs(tmp_path) == "abcdefgh"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_dead_owner_does_not_hold_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".manifest.lock"
    hold = "import sys\nfrom pathlib import Path\nfrom cyclestyle.inference.locks import locked\n"
    program = hold + "held = locked(Path(sys.argv[1]))\nheld.__enter__()"
    with held_by_another(program, str(lock)) as owner, ThreadPoolExecutor(1) as pool:
        merging = pool.submit(fill, tmp_path, "a", [row("a")])
        time.sleep(0.1)
        assert not merging.done()
        owner.send_signal(signal.SIGKILL)
        merging.result(timeout=10)
    assert inputs(tmp_path) == "a"
    with locked(lock):
        assert lock.exists()
    assert not lock.exists()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot write to the output folder .*absent"):
        Manifest(tmp_path / "absent", {})


def test_a_full_disk_keeps_the_rows_in_memory(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, order_of("ab"))
    manifest.record(row("a"))
    own = manifest._file
    manifest._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    manifest.record(row("b"))
    manifest._file.close()
    manifest._file = own
    manifest.close()
    assert inputs(tmp_path) == "ab"
