"""One run folder, one training: a lock that a process which dies gives back."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import filelock

from cyclestyle.errors import ConfigError

logger = logging.getLogger("cyclestyle")

_PATIENCE = 15.0
"""Seconds: worker processes of one that was killed hold its lock until they notice."""


class RunLock:
    """The right to write into a run folder.

    The operating system holds it (`flock`), not a file: it ends with its process, however that ends.

    Args:
        folder: of the run; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner = folder / ".owner.json"
        self._lock = filelock.FileLock(folder / ".lock", thread_local=False)

    def acquire(self) -> None:
        """Take it, where the folder exists and can be written to; it may be held already.

        Raises:
            ConfigError: another process has it.
        """
        if self._lock.is_locked or not self._folder.is_dir():
            return
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            self._wait()
        except OSError:
            return  # read-only, say: whoever writes first says so
        with suppress(OSError):
            self._owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")

    def _wait(self) -> None:
        pid, host = self._owned_by()
        if not (host == socket.gethostname() and _is_alive(pid)):
            logger.warning("waiting for the run folder %s, which another process has not given back", self._folder)
            with suppress(filelock.Timeout):
                self._lock.acquire(timeout=_PATIENCE)
                return
        raise ConfigError(
            f"{self._folder} is being trained by another process ({pid} on {host}): "
            "wait for it or stop it, or choose another name"
        )

    def _owned_by(self) -> tuple[int, str]:
        """Process and host, as well as they are known."""
        for _ in range(10):  # the owner may be writing it just now
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                owner = json.loads(self._owner.read_text(encoding="utf-8"))
                return int(owner["pid"]), str(owner["host"])
            time.sleep(0.05)
        return 0, "an unknown host"

    def release(self) -> None:
        """Give it back."""
        if self._lock.is_locked:
            self._owner.unlink(missing_ok=True)
            self._lock.release()


def _is_alive(pid: int) -> bool:
    if not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
