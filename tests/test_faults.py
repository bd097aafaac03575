"""What goes wrong around a training: one clear line each, no good file lost, and the same command goes on afterwards.

Each start is a process of its own (a fork of this one), which a fault is put into; what the runs leave is compared with
what an undisturbed run leaves.
"""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from cyclestyle.checkpoint import load_checkpoint, load_translator
from cyclestyle.cli.main import main
from cyclestyle.training.trainer import Trainer

from .conftest import TINY, write_pictures

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each start is a fork")

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "generator.dropout=0.3", "method.pool_size=3", "evaluate.every=0", "train.steps=8", "train.checkpoint_every=4",
    "train.keep_checkpoints=2", "log.samples_every=2", "log.scalars_every=3",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (minus a signal's number), and the lines of stderr without progress."""

    code: int
    lines: list[str]

    @property
    def errors(self) -> list[str]:
        return [line for line in self.lines if line.startswith("error: ")]

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.lines if line.startswith("warning: ")]

    def assert_went_well(self) -> None:
        assert self.code == 0, self.lines
        assert self.errors == []

    def assert_stopped_with(self, *words: str) -> None:
        """With exit code 2 and one line."""
        assert self.code == 2, self.lines
        (line,) = self.errors
        assert all(each in line for each in words), line
        assert not any("Traceback" in each for each in self.lines), self.lines


def start(settings: list[str], fault: Callable[[], object] = lambda: None) -> Ended:
    """`cyclestyle train` in a process of its own, in which `fault` is called first."""
    log = Path(next(each for each in settings if each.startswith("output_dir=")).partition("=")[2]).parent / "log.txt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: those of this process sleep
        pid = os.fork()
    if pid == 0:
        code = 70
        try:
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            warnings.simplefilter("default")
            # After a fork torch makes its pool of threads anew, which two threads must not do at once.
            torch.set_num_threads(1)
            fault()
            code = main(["train", "--config", str(ROOT / "configs" / "smoke.yaml"), *settings])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = log.read_text(errors="replace").replace("\r", "\n")
    return Ended(code, [line for line in text.splitlines() if line.strip() and not line.startswith("training:")])


@dataclass(frozen=True)
class Undisturbed:
    """What nothing has happened to: settings that name pictures, a run of 8 steps, and one that was stopped at 4."""

    settings: list[str]
    whole: Path
    half: Path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    importlib.import_module("cyclestyle.training.run")  # here and not in each start; and so for what this imports:
    torch.use_deterministic_algorithms(False)
    base = tmp_path_factory.mktemp("undisturbed")
    for number, (name, count) in enumerate({"trainA": 5, "trainB": 3, "testA": 2, "testB": 2}.items()):
        write_pictures(base / "data" / name, count, seed=number)
    settings = [*TINY, *SETTINGS, f"data.root={base / 'data'}"]
    start([*settings, f"output_dir={base / 'runs'}", "name=whole"]).assert_went_well()
    stop = when_drawing(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert start([*settings, f"output_dir={base / 'runs'}", "name=half"], stop).code == 143
    return Undisturbed(settings, base / "runs" / "whole", base / "runs" / "half")


@pytest.fixture
def whole(undisturbed: Undisturbed) -> Path:
    """A run that nothing has disturbed."""
    return undisturbed.whole


@pytest.fixture
def settings(undisturbed: Undisturbed, tmp_path: Path) -> list[str]:
    """Of the run in `run`, whose pictures nobody changes."""
    return [*undisturbed.settings, f"output_dir={tmp_path / 'runs'}", "name=tiny"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny"


@pytest.fixture
def half(undisturbed: Undisturbed, run: Path) -> Path:
    """A checkpoint of step 4 lies in `run`."""
    shutil.copytree(undisturbed.half, run)
    return run / "checkpoints" / "step_00000004.pt"


def assert_same(run: Path, whole: Path) -> None:
    """In what was learned: every weight, moment and random state, and the translators byte by byte."""
    found, expected = (load_checkpoint(each / "checkpoints" / "step_00000008.pt") for each in (run, whole))
    for key in ("method", "averages", "optimization", "random", "position"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
    for path in (whole / "translators").iterdir():
        assert (run / "translators" / path.name).read_bytes() == path.read_bytes()
    assert not [path for path in run.rglob("*") if "partial" in path.name]


def steps_in(run: Path) -> list[int]:
    return sorted(int(path.stem[5:]) for path in (run / "checkpoints").glob("step_*.pt"))


def when_drawing(step: int, action: Callable[[], object]) -> Callable[[], None]:
    """A fault: `action` while the samples of a step are due, in the middle of the training."""

    def fault() -> None:
        draw = Trainer._draw_samples

        def drawing(trainer: Trainer) -> None:
            draw(trainer)
            if trainer.step == step:
                action()

        Trainer._draw_samples = drawing  # type: ignore[method-assign]

    return fault


# ------------------------------------------------------------------------------------------ full and read-only disks


def test_a_full_disk_in_the_middle_of_a_write(settings: list[str], run: Path, half: Path, whole: Path) -> None:
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    room = half.stat().st_size // 2
    ended = start(settings, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    ended.assert_stopped_with("step_00000008.pt cannot be written (File too large): free some space")
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    start(settings).assert_went_well()
    assert_same(run, whole)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_the_newest_checkpoint(
    settings: list[str], run: Path, half: Path, whole: Path, code: int
) -> None:
    def refuse() -> None:
        sync = os.fsync

        def fsync(file: int) -> None:
            if os.fstat(file).st_size > 2**14:  # the checkpoint, and nothing before it
                raise OSError(code, os.strerror(code))
            sync(file)

        os.fsync = fsync

    start(settings, refuse).assert_stopped_with(f"step_00000008.pt cannot be written ({os.strerror(code)})")
    assert steps_in(run) == [4]
    start(settings).assert_went_well()
    assert_same(run, whole)


@contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A small file system of its own in `folder`; skips where this user may not mount one."""
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small file system; the other tests of this file do without")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_real_disk_that_is_full_then_read_only_then_neither(settings: list[str], run: Path, whole: Path) -> None:
    run.mkdir(parents=True)
    with mounted(run):

        def fill() -> None:
            with open(run / "filler", "wb", buffering=0) as file:
                while shutil.disk_usage(run).free > 2**12:
                    file.write(bytes(2**12))

        full = start(settings, when_drawing(6, fill))
        full.assert_stopped_with("step_00000008.pt cannot be written (No space left on device): free some space")
        start(settings).assert_stopped_with("No space left on device")  # it is full still
        assert steps_in(run) == [4]
        (run / "filler").unlink()

        subprocess.run(["mount", "-o", "remount,ro", run], check=True)
        start(settings).assert_stopped_with("cannot be written (Read-only file system)")
        subprocess.run(["mount", "-o", "remount,rw", run], check=True)
        assert steps_in(run) == [4]

        start(settings).assert_went_well()
        assert_same(run, whole)


# ------------------------------------------------------------------------------------------ folders that are removed


@pytest.mark.parametrize("gone", ["", "checkpoints"])
def test_a_folder_that_is_removed_during_training(settings: list[str], run: Path, whole: Path, gone: str) -> None:
    ended = start(settings, when_drawing(6, lambda: shutil.rmtree(run / gone)))
    ended.assert_went_well()
    assert [line for line in ended.warnings if "was removed during training, and made again" in line]
    assert_same(run, whole)
    assert (run / "config.yaml").is_file()


def test_a_disk_that_is_taken_away_during_training(settings: list[str], run: Path, whole: Path) -> None:
    """Nothing is made in its place, and when it is back the run goes on."""
    away = run.parent.with_name("away")
    ended = start(settings, when_drawing(6, lambda: run.parent.rename(away)))
    ended.assert_stopped_with("step_00000008.pt cannot be written (No such file or directory)")
    assert not run.parent.exists()
    away.rename(run.parent)
    start(settings).assert_went_well()
    assert_same(run, whole)


# ------------------------------------------------------------------------------------------ broken files


@pytest.mark.parametrize("damage", ["zero bytes", "truncated"])
def test_a_broken_newest_checkpoint(settings: list[str], run: Path, half: Path, whole: Path, damage: str) -> None:
    newest = run / "checkpoints" / "step_00000006.pt"
    newest.write_bytes(b"" if damage == "zero bytes" else half.read_bytes()[:-1000])
    ended = start(settings)
    ended.assert_went_well()
    (line,) = [line for line in ended.warnings if "step_00000006.pt" in line]
    assert line.startswith(f"warning: {newest} cannot be read (")
    assert line.endswith("; going on from step_00000004.pt: 2 steps are lost")
    assert_same(run, whole)


def test_a_broken_index_and_what_a_killed_writer_left(settings: list[str], run: Path, half: Path, whole: Path) -> None:
    (run / "checkpoints" / "index.json").write_text('{"latest": "step_00000099.pt", "best": "step_00000098')
    shutil.copy(half, run / "checkpoints" / ".step_00000008.4711.partial.pt")
    shutil.copy(half, run / "translators" / ".photo_to_painting.4711.partial.safetensors")
    ended = start(settings)
    ended.assert_went_well()
    assert any("steps: 4 done of 8" in line for line in ended.lines)
    assert_same(run, whole)


# ------------------------------------------------------------------------------------------ death at an exact place


@pytest.mark.parametrize(
    "name", ["step_00000008.pt", "index.json", "photo_to_painting.safetensors", "painting_to_photo.safetensors"]
)
def test_a_death_after_each_of_the_last_writes(
    settings: list[str], run: Path, half: Path, whole: Path, name: str
) -> None:
    """Such as between the rename of the checkpoint and the index: nothing after it is done."""

    def die() -> None:
        replace = os.replace

        def replacing(source: Path, target: Path) -> None:
            replace(source, target)
            if Path(target).name == name:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replacing  # type: ignore[assignment]

    assert start(settings, die).code == -signal.SIGKILL
    start(settings).assert_went_well()
    assert_same(run, whole)
    assert load_translator(run / "translators" / "photo_to_painting.safetensors")[1]["step"] == 8


# ------------------------------------------------------------------------------------------ pictures and their readers


@pytest.fixture
def pictures(undisturbed: Undisturbed, tmp_path: Path) -> Path:
    """A copy of the pictures, to be harmed; given as the last setting, with data.cache=off."""
    return Path(shutil.copytree(undisturbed.whole.parents[1] / "data", tmp_path / "data"))


def test_a_picture_that_vanishes_is_named_once(settings: list[str], pictures: Path) -> None:
    lost = pictures / "trainB" / "picture_01.png"
    ended = start([*settings, "data.cache=off", f"data.root={pictures}"], when_drawing(2, lost.unlink))
    ended.assert_went_well()
    named = [line for line in ended.warnings if str(lost) in line]
    assert len(named) == 1, ended.lines
    assert "skipped, another image takes its place" in named[0]
    assert "broken image files that were left out: 1, each named above" in " ".join(ended.warnings)


def test_all_pictures_of_a_domain_vanish(settings: list[str], pictures: Path, run: Path, whole: Path) -> None:
    away, settings = pictures / "away", [*settings, "data.cache=off", f"data.root={pictures}"]
    ended = start(settings, when_drawing(2, lambda: (pictures / "trainB").rename(away)))
    ended.assert_stopped_with("no image of domain b can be read any more")
    assert steps_in(run) == [2]  # nothing that was learned is lost
    away.rename(pictures / "trainB")
    start(settings).assert_went_well()
    assert_same(run, whole)


def test_a_reader_that_is_killed_costs_no_picture(settings: list[str], run: Path, whole: Path) -> None:
    def kill() -> None:
        (worker,) = multiprocessing.active_children()
        worker.kill()
        time.sleep(0.2)

    ended = start([*settings, "data.num_workers=1", "data.cache=off"], when_drawing(4, kill))
    ended.assert_went_well()
    (line,) = [line for line in ended.warnings if "worker process" in line]
    assert "was ended by SIGKILL" in line
    assert "it will be the same (restart 1 of at most 3 in 100 batches)" in line
    assert_same(run, whole)


def test_readers_that_die_again_and_again(settings: list[str], run: Path, half: Path, whole: Path) -> None:
    def die_at_once() -> None:
        from cyclestyle.data import workers

        def fill(*_: object) -> NoReturn:
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        workers.fill = fill
        workers._LOOK_EVERY = 0.2

    ended = start([*settings, "data.num_workers=1"], die_at_once)
    ended.assert_stopped_with("was ended by SIGKILL", "the 4. time in 100 batches: lower data.num_workers (now 1")
    start(settings).assert_went_well()
    assert_same(run, whole)
