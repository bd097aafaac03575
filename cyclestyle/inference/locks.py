"""Locks on files that end with their owner, however it ends: the operating system lets go of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def try_lock(file: IO[bytes]) -> bool | None:
    """Whether the lock of an open file was free, and is ours now until the file is closed.

    None: this file system has no locks, so that nobody can tell.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            # Far beyond the end: Windows forbids others to read what is locked.
            file.seek(2**40)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, this process alone is inside a `locked(path)`; a dead process never is. The file is gone afterwards."""
    while True:
        file = open(path, "ab", opener=_not_through_links)  # noqa: SIM115
        while try_lock(file) is False:
            time.sleep(0.02)
        if _is_still(file, path):  # else its last owner has removed it meanwhile
            break
        file.close()
    try:
        yield
    finally:
        with suppress(OSError):  # Windows: not while it is open
            path.unlink()
        file.close()


def _not_through_links(path: str, flags: int) -> int:
    """A link in this place would have a file made wherever it points to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _is_still(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
