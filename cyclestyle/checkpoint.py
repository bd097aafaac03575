"""Files that hold weights: checkpoints of a run, and translators (one generator each).

Written atomically, read without running code from them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cyclestyle.errors import CheckpointError

CHECKPOINT_FORMAT = 1
TRANSLATOR_FORMAT = 1


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write `path` so that it is at every instant absent, the old file whole, or the new file whole.

    Yields a temporary path beside it, with the same suffix; on leaving without an error that file is synced to the disk
    and renamed, otherwise it is removed and `path` stays as it was.
    """
    # Short, since file systems limit names to 255 bytes; the suffix tells image libraries the format.
    partial = path.with_name(f".{path.stem[:20]}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself is on the disk only when the folder is
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def _named_failures(path: Path) -> Iterator[None]:
    """A full disk or a folder that is gone, whichever library meets it, as one line."""
    try:
        yield
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"{path} cannot be written ({reason}): free some space or mend the folder; "
            "the same command then goes on from the newest checkpoint"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically, UTF-8; raises `CheckpointError` when the disk does not take it."""
    with _named_failures(path), replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint: dicts, lists, tensors, numbers and strings, so that `weights_only` can read it back.

    Raises:
        CheckpointError: the disk does not take it; a file that was there stays as it was.
    """
    with _named_failures(path), replacing(path) as partial:
        torch.save({"format": CHECKPOINT_FORMAT, **state}, partial)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the processor, never running code from it.

    Raises:
        CheckpointError: missing, damaged, or of a format that this version does not know.
    """
    state = _guarded(path, lambda: torch.load(path, map_location="cpu", weights_only=True))
    if not isinstance(state, dict) or "format" not in state or "method" not in state:
        raise CheckpointError(f"{path} is no checkpoint of cyclestyle: needed is a step_*.pt of a run folder")
    _check_format(path, state["format"], CHECKPOINT_FORMAT)
    return state


def save_translator(path: Path, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write one generator's weights with all that is needed to use them.

    Args:
        path: ends in .safetensors.
        weights: state dict of the generator.
        metadata: JSON-able; see `cyclestyle.inference.files.TranslatorSpec`.

    Raises:
        CheckpointError: the disk does not take it; a file that was there stays as it was.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    header = {"cyclestyle": json.dumps({"format": TRANSLATOR_FORMAT, **metadata})}
    with _named_failures(path), replacing(path) as partial:
        safetensors.torch.save_file(tensors, partial, metadata=header)


def load_translator(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and metadata of a translator file.

    Raises:
        CheckpointError: missing, damaged, or no translator of a format that this version knows.
    """

    def read() -> tuple[dict[str, Tensor], dict[str, str]]:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118

    weights, header = _guarded(path, read)
    try:
        metadata = json.loads(header["cyclestyle"])
        _check_format(path, metadata["format"], TRANSLATOR_FORMAT)
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path} is a safetensors file, but no translator of cyclestyle (its metadata does not say what it is)"
        ) from None
    return weights, metadata


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """`read()`, with whatever a missing or damaged file makes it raise turned into one line."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}: give a run folder, a checkpoint (.pt) or a translator (.safetensors)")
    try:
        return read()
    except Exception as error:  # torch, zipfile, pickle and safetensors each have their own ways of failing
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read ({reason}): the file is damaged or of another kind") from error


def _check_format(path: Path, found: object, known: int) -> None:
    if not isinstance(found, int) or not 1 <= found <= known:
        raise CheckpointError(f"{path} has format {found}, this version reads up to {known}: update cyclestyle")
