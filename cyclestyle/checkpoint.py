"""Files that hold weights: checkpoints of a run, and translators (one generator each).

Written atomically, read without running code from them.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zipfile
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
            f"{path} cannot be written ({reason}): free some space or mend the folder, "
            "then give the same command again; a training goes on from its newest checkpoint"
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
    state = load_pickled(path)
    if not is_checkpoint(state):
        raise CheckpointError(f"{path} is no checkpoint of cyclestyle: needed is a step_*.pt of a run folder")
    return check_checkpoint(path, state)


def is_checkpoint(state: object) -> bool:
    """Whether what `load_pickled` gave is a checkpoint of a cyclestyle run."""
    return isinstance(state, dict) and "format" in state and "method" in state


def check_checkpoint(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """`state` itself, read from `path`; raises `CheckpointError` where this version does not know its format."""
    _check_format(path, state["format"], CHECKPOINT_FORMAT)
    return state


def load_pickled(path: Path) -> Any:
    """Whatever `torch.save` put into a file (both of its layouts), onto the processor, never running code from it.

    Raises:
        CheckpointError: missing, damaged, of another kind, or more than weights and plain values.
    """

    def read() -> Any:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch.save does not compress: a file holds what it weighs
                if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                    raise ValueError("its parts unpack to more than the file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on foreign pickles; the refusal below says what counts
            return torch.load(path, map_location="cpu", weights_only=True)

    return _guarded(path, read)


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


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a plain state dict as `torch.save` does, for other tools.

    Raises:
        CheckpointError: the disk does not take it; a file that was there stays as it was.
    """
    with _named_failures(path), replacing(path) as partial:
        torch.save(weights, partial)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as a safetensors file does: the length of a JSON header (8 bytes), then the header."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def load_translator(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and metadata of a translator file.

    Raises:
        CheckpointError: missing, damaged, or no translator of a format that this version knows.
    """

    def read() -> dict[str, Tensor]:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    metadata = load_metadata(path)
    return _guarded(path, read), metadata


def load_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a translator file, without reading its weights; raises as `load_translator` does."""

    def read() -> dict[str, str]:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}

    header = _guarded(path, read)
    try:
        metadata: dict[str, Any] = json.loads(header["cyclestyle"])
        _check_format(path, metadata["format"], TRANSLATOR_FORMAT)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(
            f"{path} is a safetensors file, but no translator of cyclestyle (its metadata does not say what it is)"
        ) from None
    return metadata


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """`read()`, with whatever a missing or damaged file makes it raise turned into one line."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}: give a run folder, a checkpoint (.pt) or a translator (.safetensors)")
    try:
        return read()
    except Exception as error:  # torch, zipfile, pickle and safetensors each have their own ways of failing
        code = _CODE.search(str(error))
        if code is not None:
            raise CheckpointError(
                f"{path} wants to run code ({code[1]}) and was not loaded, nothing of it was run: needed are plain "
                "weights, as torch.save(network.state_dict(), FILE) writes them"
            ) from error
        raise CheckpointError(
            f"{path} cannot be read ({_reason(error)}): the file is damaged or of another kind"
        ) from (error)


# How torch names what a pickle wants to call, other than what tensors are made of.
_CODE = re.compile(r"(?:[Uu]nsupported global: GLOBAL|[Uu]nsupported GLOBAL|[Uu]nsupported class) ([\w.]+)")


def _reason(error: Exception) -> str:
    """The first line of a library's message, for people; some of torch's are advice that would not help here."""
    foreign = any(words in str(error) for words in ("Weights only load failed", "hasRecord"))
    if foreign or isinstance(error, LookupError | EOFError):
        return "it holds no weights that torch.save has written whole"
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _check_format(path: Path, found: object, known: int) -> None:
    if not isinstance(found, int) or not 1 <= found <= known:
        raise CheckpointError(f"{path} has format {found}, this version reads up to {known}: update cyclestyle")
