"""What a file of `torch.save` may hold that comes from anywhere: looked at before torch reads it, and after.

`torch.load(weights_only=True)` runs no code, but does more than tensors need: one thousand bytes that call
`_codecs.encode` thirty times become 64 GB, nested lists that name each other a tensor of as many numbers, and a tensor
may repeat one stored number a billion times. Here a pickle calls nothing but what `torch.save` writes for weights, the
zip around it is read by torch as Python read it, and what comes out is no larger than the file.

What is wrong is a `ValueError` of one line; `checkpoint.py` puts the file's name before it.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

# As pickles name them. Everything else that torch allows is for kinds of tensors that no weights have.
_CALLED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)|torch (Size|device)"
    r"|torch\._utils _rebuild_(sparse_tensor|meta_tensor_no_storage)|torch\.serialization _get_layout"
    r"|torch(\.storage)? [A-Z]\w*Storage|torch (u?int|float|bfloat|complex)\d\w*|torch bool"
)
_END, _END_64, _LOCATOR_64 = "<4s4H2IH", "<4sQ2H2I4Q", "<4sIQI"  # of a zip: APPNOTE.TXT, 4.3.14 to 4.3.16


def refuse_calls(path: Path) -> None:
    """Raise where the pickle in a file of `torch.save`, of either layout, calls more than tensors are made of."""
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            # As torch finds it: by a name that does not tell upper from lower case, the first of several.
            _look_through(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))
            return
        file.seek(0)
        for _ in range(5):  # the old layout: magic number, version, system, the state itself, keys of its storages
            _look_through(file)


def _look_through(pickle: IO[bytes]) -> None:
    calls = []
    try:
        for code, value, _ in pickletools.genops(pickle):
            if code.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
                calls.append(str(value))
    except Exception as error:  # whatever is no pickle
        raise EOFError from error
    for name in calls:
        if not _CALLED.fullmatch(name):
            plain = name.replace(" ", ".").removeprefix("__builtin__.").removeprefix("builtins.")
            raise ValueError(f"Unsupported global: GLOBAL {plain}")  # as torch says it


def refuse_two_directories(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise where torch would find another list of contents in a zip than Python: one to be checked, one to be read.

    Python takes what stands right before the zip's end, torch what the end says.
    """
    with open(path, "rb") as file:
        end = path.stat().st_size - struct.calcsize(_END) - len(archive.comment)
        locator = end - struct.calcsize(_LOCATOR_64)
        file.seek(end)
        told = struct.unpack(_END, file.read(struct.calcsize(_END)))[6]
        file.seek(max(0, locator))
        found = file.read(struct.calcsize(_LOCATOR_64))
        if found.startswith(b"PK\x06\x07"):
            file.seek(struct.unpack(_LOCATOR_64, found)[2])
            if file.tell() != locator - struct.calcsize(_END_64):
                raise ValueError("its end is not where it says")
            told = struct.unpack(_END_64, file.read(struct.calcsize(_END_64)))[9]
    if told != archive.start_dir:
        raise ValueError("its list of contents is not where it says")


def tamed(state: Any, num_bytes: int) -> Any:
    """`state` as `torch.load` gave it, its dicts and tensors without attributes of their own, which would hide methods.

    Args:
        num_bytes: of the file. A number may be named twice in it (averages that are the newest weights), but no more.
    """
    room = 2 * num_bytes
    seen: set[int] = set()
    pending = [state]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            vars(value).clear()
            if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise ValueError(f"a tensor in it is no plain numbers ({value.layout}, {value.device.type})")
            room -= value.numel() * value.element_size()
            if room < 0:
                raise ValueError("it holds fewer numbers than its tensors would have: the file is made wrongly")
        elif isinstance(value, dict):
            getattr(value, "__dict__", {}).clear()
            pending.extend(dict.values(value))
        elif isinstance(value, list | tuple | set):
            pending.extend(value)
    return state
