"""Files that hold weights: checkpoints of a run, and translators (one generator each).

Written atomically, read without running code from them, and only where their checksums agree. What `torch.save` writes
is a zip; the SHA-256 of all of it stands behind it, in the zip's comment. (`torch.load` ignores the CRC-32 that the zip
has of each record; and where one byte of the zip's directory flips, these agree and yet it may give memory that nobody
wrote.) A translator has a SHA-256 in its metadata.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cyclestyle import pickles
from cyclestyle.devices import is_out_of_memory
from cyclestyle.errors import CheckpointError

CHECKPOINT_FORMAT = 1
TRANSLATOR_FORMAT = 1

_DIGEST = "sha256"
"""Key in a translator's metadata; `load_translator` and `load_metadata` look at it and take it out."""

_SEAL = b"sha256:"
"""Begins the comment of a zip that `save_checkpoint` wrote; 64 hexadecimal digits follow."""
_SEAL_BYTES = len(_SEAL) + 64
_END = b"PK\x05\x06"
"""Begins the last record of a zip, of 22 bytes, the last two of them the length of the comment."""

_DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")

_CHUNK = 2**20
"""Bytes that are read at a time to be checked."""


class DamagedError(CheckpointError):
    """A file that is not what was written, or not ours at all: it will be no better the next time it is read."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write `path` so that it is at every instant absent, the old file whole, or the new file whole.

    Yields a temporary path beside it, with the same suffix; on leaving without an error that file is synced to the disk
    and renamed, otherwise it is removed and `path` stays as it was.
    """
    # Short, since file systems limit names to 255 bytes; the suffix tells image libraries the format.
    partial = path.with_name(f".{path.stem[:20]}.{os.getpid()}.partial{path.suffix}")
    partial.unlink(missing_ok=True)  # a link that somebody laid there would be written through
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):  # gone with its folder, say: what went wrong first is what counts
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
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(said.split())[:160]
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
    _save_pickled(path, {"format": CHECKPOINT_FORMAT, **state})


def _save_pickled(path: Path, value: Any) -> None:
    with _named_failures(path), replacing(path) as partial, open(partial, "wb") as file:
        sealed = _SealedFile(file)
        torch.save(value, sealed)  # type: ignore[arg-type]
        sealed.finish()


class _SealedFile:
    """A file as `torch.save` wants it, that puts a checksum behind its zip and never fails before `finish`.

    An error that reached torch's writer would come again from its destructor, in C++, and end the process. (Given a
    path it writes by itself, and says of a full disk only that the file's position was unexpected.)
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._tail = b""  # the last bytes, held back: they say how long the comment is
        self._error: OSError | None = None

    def write(self, data: memoryview) -> int:
        """Take bytes that may be gone afterwards."""
        if len(data) >= 22:
            self._put(self._tail)
            self._put(data[:-22])
            self._tail = bytes(data[-22:])
        else:
            joined = self._tail + bytes(data)
            self._put(joined[:-22])
            self._tail = joined[-22:]
        return len(data)

    def flush(self) -> None:
        """Nothing; `torch.save` calls it."""

    def finish(self) -> None:
        """Write the checksum; raises the first error that there was."""
        assert self._tail.startswith(_END), "torch.save ends with the end of a zip"
        assert self._tail.endswith(b"\0\0"), "which has no comment"
        self._put(self._tail[:-2] + _SEAL_BYTES.to_bytes(2, "little"))
        self._put(_SEAL + self._hash.hexdigest().encode())
        if self._error is not None:
            raise self._error

    def _put(self, data: bytes | memoryview) -> None:
        if self._error is not None:
            return  # what the disk does not take is dropped
        self._hash.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self._error = error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the processor, never running code from it.

    Raises:
        DamagedError: not whole, or no checkpoint.
        CheckpointError: missing, of a format that this version does not know, or more than the memory holds.
    """
    state = load_pickled(path)
    if not is_checkpoint(state):
        raise DamagedError(f"{path} is no checkpoint of cyclestyle: needed is a step_*.pt of a run folder")
    return check_checkpoint(path, state)


def verify_checkpoint(path: Path) -> None:
    """Compare what a checkpoint holds with its checksums, without loading it; raises as `load_checkpoint` does."""
    _guarded(path, lambda: _verify_zip(path))


def is_checkpoint(state: object) -> bool:
    """Whether what `load_pickled` gave is a checkpoint of a cyclestyle run."""
    return isinstance(state, dict) and "format" in state and "method" in state


def check_checkpoint(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """`state` itself, read from `path`.

    Raises:
        DamagedError: its step, or a domain's name, is none; files are named by them, which must not lead elsewhere.
        CheckpointError: of a format that this version does not know.
    """
    _check_format(path, state["format"], CHECKPOINT_FORMAT)
    step, translators = state.get("step", 0), state.get("translators", {})
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**53:
        raise DamagedError(f"{path} does not say at which step it was saved: the file is made wrongly")
    for spec in translators.values() if isinstance(translators, dict) else ():
        names = [spec.get("source", "a"), spec.get("target", "b")] if isinstance(spec, dict) else [None]
        if not all(isinstance(name, str) and _DOMAIN_NAME.fullmatch(name) for name in names):
            raise DamagedError(f"{path} has translators between domains without proper names: the file is made wrongly")
    return state


def load_pickled(path: Path) -> Any:
    """Whatever `torch.save` put into a file (both of its layouts), onto the processor, never running code from it.

    Raises:
        DamagedError: not what was written, of another kind, or more than weights and plain values.
        CheckpointError: missing, or more than the memory holds.
    """

    def read() -> Any:
        if zipfile.is_zipfile(path) or _begins_as_zip(path):
            _verify_zip(path)
        pickles.refuse_calls(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on foreign pickles; the refusal below says what counts
            state = torch.load(path, map_location="cpu", weights_only=True)
        return pickles.tamed(state, path.stat().st_size)

    return _guarded(path, read)


def _begins_as_zip(path: Path) -> bool:
    """What makes torch take it for one."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _verify_zip(path: Path) -> None:
    """Read a zip of `torch.save` once, a piece at a time; raises where it is not what its checksums say."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > path.stat().st_size:  # torch.save does not compress
            raise ValueError("its parts unpack to more than the file")
        pickles.refuse_two_directories(archive, path)
        if (sealed := _sealed_bytes(path)) is not None:
            if archive.comment != _SEAL + _hash_of(path, sealed).encode():
                raise ValueError("it does not match its checksum")
            return
        # Written by version 0.1 or by other tools, which may leave all checksums out.
        for entry in entries if any(entry.CRC for entry in entries) else []:
            with archive.open(entry) as record:
                while record.read(_CHUNK):
                    pass


def _sealed_bytes(path: Path) -> int | None:
    """How many bytes of a zip its checksum is of; None where it has none."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(-min(size, 22 + _SEAL_BYTES), os.SEEK_END)
        tail = file.read()
    end = tail.rfind(_END)
    if end < 0:
        return None  # a longer comment than ours
    comment = tail[end + 22 :]
    if len(comment) != int.from_bytes(tail[end + 20 : end + 22], "little"):
        raise ValueError("it is cut off, or goes on beyond its end")
    return size - _SEAL_BYTES if comment.startswith(_SEAL) else None


def _hash_of(path: Path, num_bytes: int) -> str:
    """SHA-256 of the first so many bytes of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while num_bytes > 0 and (piece := file.read(min(_CHUNK, num_bytes))):
            digest.update(piece)
            num_bytes -= len(piece)
    return digest.hexdigest()


def save_translator(path: Path, weights: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write one generator's weights with all that is needed to use them, and a checksum of both.

    Args:
        path: ends in .safetensors.
        weights: state dict of the generator.
        metadata: JSON-able; see `cyclestyle.inference.files.TranslatorSpec`.

    Raises:
        CheckpointError: the disk does not take it; a file that was there stays as it was.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    described = json.loads(json.dumps({"format": TRANSLATOR_FORMAT, **metadata}))  # as it will be read back
    header = {"cyclestyle": json.dumps({**described, _DIGEST: _digest(tensors, described)})}
    with _named_failures(path), replacing(path) as partial:
        # Not `save_file`: it writes into another temporary file beside this one, which a killed process leaves behind.
        partial.write_bytes(safetensors.torch.save(tensors, metadata=header))


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a plain state dict as `torch.save` does, for other tools.

    Raises:
        CheckpointError: the disk does not take it; a file that was there stays as it was.
    """
    _save_pickled(path, weights)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as a safetensors file does: the length of a JSON header (8 bytes), then the header."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def load_translator(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and metadata of a translator file.

    Raises:
        DamagedError: not what was written, or no translator.
        CheckpointError: missing, of a format that this version does not know, or more than the memory holds.
    """
    metadata, digest = _read_metadata(path)

    def read() -> dict[str, Tensor]:
        with safetensors.safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if digest not in (None, _digest(weights, metadata)):  # None: written by version 0.1, or by other tools
            raise ValueError("its weights or their description do not match their checksum")
        return weights

    return _guarded(path, read), metadata


def _digest(weights: dict[str, Tensor], metadata: dict[str, Any]) -> str:
    """SHA-256 of contiguous weights on the processor, their names and shapes, and what the file says of them."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(weights):
        weight = weights[name]
        digest.update(f"\n{name} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(weight.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a translator file, without reading its weights; raises as `load_translator` does."""
    return _read_metadata(path)[0]


def _read_metadata(path: Path) -> tuple[dict[str, Any], object]:
    """The metadata of a translator file, and the checksum that it names, if it does."""

    def read() -> dict[str, str]:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}

    header = _guarded(path, read)
    try:
        metadata: dict[str, Any] = json.loads(header["cyclestyle"])
        _check_format(path, metadata["format"], TRANSLATOR_FORMAT)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise DamagedError(
            f"{path} is a safetensors file, but no translator of cyclestyle (its metadata does not say what it is)"
        ) from None
    return metadata, metadata.pop(_DIGEST, None)


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """`read()`, with whatever a missing or damaged file makes it raise turned into one line."""
    if not path.is_file():
        raise CheckpointError(f"no file {path}: give a run folder, a checkpoint (.pt) or a translator (.safetensors)")
    try:
        return read()
    except Exception as error:  # torch, zipfile, pickle and safetensors each have their own ways of failing
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in _PASSING):
            raise CheckpointError(
                f"{path} cannot be read ({_reason(error)}): the file may be whole; make room or mend its permissions, "
                "then try again"
            ) from error
        code = _CODE.search(str(error))
        if code is not None:
            raise DamagedError(
                f"{path} wants to run code ({code[1]}) and was not loaded, nothing of it was run: needed are plain "
                "weights, as torch.save(network.state_dict(), FILE) writes them"
            ) from error
        reason = _reason(error)
        raise DamagedError(f"{path} cannot be read ({reason}): the file is damaged or of another kind") from error


_PASSING = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""Errors of the system that say nothing of what the file holds."""


# How torch names what a pickle wants to call, other than what tensors are made of.
_CODE = re.compile(r"(?:[Uu]nsupported global: GLOBAL|[Uu]nsupported GLOBAL|[Uu]nsupported class) ([\w.]+)")


def _reason(error: Exception) -> str:
    """The first line of a library's message, for people; some of torch's are advice that would not help here."""
    wrong = re.search(r"Bad CRC-32 for file '[^/']*/?(.*)'", str(error))
    if wrong is not None:
        return f"its part {wrong[1]} does not match its checksum"[:120]
    foreign = any(words in str(error) for words in ("Weights only load failed", "hasRecord"))
    if foreign or isinstance(error, LookupError | EOFError | zipfile.BadZipFile):
        return "it holds no weights that torch.save has written whole"
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def _check_format(path: Path, found: object, known: int) -> None:
    if not isinstance(found, int) or not 1 <= found <= known:
        told = found if isinstance(found, int) and abs(found) < 2**63 else f"of type {type(found).__name__}"
        raise CheckpointError(f"{path} has format {told}, this version reads up to {known}: update cyclestyle")
