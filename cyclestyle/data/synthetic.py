"""The sample set that the project makes itself: landscape photographs and paintings, unpaired, with hidden truth.

Owns the folder it writes: trainA and testA (photographs), trainB and testB (paintings of other landscapes), and
testA_truth, the true painting of every test photograph, which training never reads. Picture k of a folder depends only
on (seed, folder, k): the same bytes on every run, however many processes work on it.
"""

import json
import os
import platform
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from cyclestyle.data.landscapes import render_landscape
from cyclestyle.data.painter import paint
from cyclestyle.errors import DataError

GENERATOR_VERSION = 1
JPEG_QUALITY = 95
ABOUT = "about.json"

# The second entry of every picture's seed; train and test of both domains show different landscapes.
_STREAMS = {"trainA": 1, "trainB": 2, "testA": 3, "testB": 4}


@dataclass(frozen=True)
class _Request:
    """What was asked for; about.json holds it."""

    seed: int
    size: int
    num_train: int
    num_test: int


@dataclass(frozen=True)
class _Task:
    """One landscape to make: `painting` and `photo` are the files it is written to, if any."""

    seed: tuple[int, int, int]
    size: int
    photo: Path | None
    painting: Path | None


def make_samples(
    folder: Path,
    *,
    seed: int = 0,
    num_train: int = 200,
    num_test: int = 24,
    size: int = 256,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Make the sample set in `folder` unless it is there already; returns `folder`.

    seed: any number from 0; num_train, num_test: images of each domain; size: side in pixels, 32 or more;
    workers: processes (None: one per core that this process may use; 1: no other process).
    Everything is made in a hidden folder beside `folder` and renamed at the end, so that a set is whole or absent.
    With `workers` above 1 the processes are spawned, so a script that calls this keeps its work under
    `if __name__ == "__main__":`.

    Raises DataError for numbers out of range, or a `folder` that holds anything other than this set.
    """
    request = _Request(seed=seed, size=size, num_train=num_train, num_test=num_test)
    folder = Path(folder)
    if min(num_train, num_test) < 1 or size < 32 or seed < 0:
        raise DataError(
            f"a sample set needs num_train and num_test of 1 or more, size 32 or more and seed 0 or more, "
            f"but got num_train={num_train}, num_test={num_test}, size={size}, seed={seed}"
        )
    if _already_made(folder, request):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    partial = folder.parent / f"{_partial_prefix(folder)}{os.getpid()}"
    try:
        _write_set(partial, request, workers, progress)
        _move_into_place(partial, folder, request)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def samples_complete(folder: Path) -> bool:
    """Return whether `folder` holds a whole sample set: its about.json, and as many pictures as that says."""
    about = _read_about(Path(folder))
    if about is None:
        return False
    for name in (*_STREAMS, "testA_truth"):
        wanted = about.get("num_train" if name.startswith("train") else "num_test")
        if len(list((Path(folder) / name).glob("*.jpg"))) != wanted:
            return False
    return True


def _read_about(folder: Path) -> dict[str, Any] | None:
    """Return what about.json says, or None if it is absent or not ours."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return about if isinstance(about, dict) and about.get("generator") == "cyclestyle landscapes" else None


def _already_made(folder: Path, request: _Request) -> bool:
    """Return whether the set asked for is there; DataError if something else is."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not samples_complete(folder):
        raise DataError(
            f"{folder} exists but holds no complete sample set, and nothing of yours is overwritten: "
            "name another folder, or move this one away"
        )
    about = _read_about(folder) or {}
    wanted = asdict(request)
    different = [f"{key}={about.get(key)} (asked: {value})" for key, value in wanted.items() if about.get(key) != value]
    if different:
        raise DataError(
            f"{folder} holds another sample set, with {', '.join(different)}: "
            "name another folder, or move this one away"
        )
    return True


def _partial_prefix(folder: Path) -> str:
    """Return how the name of a set in the making starts; this machine's name and a process id end it."""
    return f".{folder.name}.partial-{platform.node()}-"


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed runs on this machine left in the making; a run that is still alive keeps its own."""
    prefix = _partial_prefix(folder)
    for path in folder.parent.iterdir():
        pid = path.name.removeprefix(prefix)
        if path.name.startswith(prefix) and pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    """Return whether another process has this id; unsure (no POSIX) counts as yes."""
    if pid == os.getpid() or os.name != "posix":
        return pid != os.getpid()
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _move_into_place(partial: Path, folder: Path, request: _Request) -> None:
    """Rename the finished set to `folder`; another process that was faster with the same set is as good."""
    try:
        if folder.is_dir():
            folder.rmdir()  # succeeds on an empty folder only
        partial.rename(folder)
    except OSError:
        if not _already_made(folder, request):
            raise


def _write_set(root: Path, request: _Request, workers: int | None, progress: bool) -> None:
    """Make every picture of the set under `root`, then about.json."""
    for name in (*_STREAMS, "testA_truth"):
        (root / name).mkdir(parents=True)
    tasks = list(_tasks(root, request))
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_pictures = sum((task.photo is not None) + (task.painting is not None) for task in tasks)
    with tqdm(total=num_pictures, desc="making sample landscapes", unit="image", disable=not progress) as bar:
        for count in _finished(tasks, min(workers, len(tasks))):
            bar.update(count)
    about = {"generator": "cyclestyle landscapes", "version": GENERATOR_VERSION, **asdict(request)}
    (root / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _tasks(root: Path, request: _Request) -> Iterator[_Task]:
    """List the landscapes to make, the slow ones (paintings) first, so that no process is left with them at the end."""
    for name, number in (
        ("testA", request.num_test),
        ("testB", request.num_test),
        ("trainB", request.num_train),
        ("trainA", request.num_train),
    ):
        for k in range(number):
            seed = (request.seed, _STREAMS[name], k)
            photo = root / name / f"photo_{k:04d}.jpg"
            painting = root / name / f"painting_{k:04d}.jpg"
            if name.endswith("B"):
                yield _Task(seed, request.size, photo=None, painting=painting)
            elif name == "testA":
                yield _Task(seed, request.size, photo=photo, painting=root / "testA_truth" / photo.name)
            else:
                yield _Task(seed, request.size, photo=photo, painting=None)


def _finished(tasks: list[_Task], workers: int) -> Iterator[int]:
    """Do all tasks, in other processes if `workers` is above 1; yields the number of pictures as they are written."""
    if workers <= 1:
        yield from map(make_pictures, tasks)
        return
    # Spawned, not forked: the caller may hold threads (torch, cv2) that a fork would copy in the middle of their work.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    done = set()
    try:
        futures = {pool.submit(make_pictures, task): task for task in tasks}
        for future in as_completed(futures):
            yield future.result()
            done.add(futures[future])
    except BrokenProcessPool:
        # A script without a main guard, or a process killed for its memory: slower, but the set gets made.
        for task in tasks:
            if task not in done:
                yield make_pictures(task)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Prepare a worker process: one thread, Ctrl-C left to the parent (it cleans up), no life after the parent."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        Thread(target=_exit_after, args=(parent.sentinel,), daemon=True).start()


def _exit_after(sentinel: int) -> None:
    """End this process as soon as its parent is gone: a worker whose parent was killed would wait for work for ever."""
    wait([sentinel])
    os._exit(1)


def make_pictures(task: _Task) -> int:
    """Make one landscape and write its photograph, its painting or both; returns how many pictures were written."""
    photo = render_landscape(task.seed, task.size)
    if task.photo is not None:
        _write_jpeg(task.photo, photo)
    if task.painting is not None:
        _write_jpeg(task.painting, paint(photo, task.seed))
    return (task.photo is not None) + (task.painting is not None)


def _write_jpeg(path: Path, picture: npt.NDArray[np.uint8]) -> None:
    """Write an RGB picture (H x W x 3 uint8)."""
    ok, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok, path
    path.write_bytes(data.tobytes())
