"""What a picture file says beside its pixels (ICC profile, EXIF, resolution), and how it goes from file to file.

EXIF is a small TIFF: directories of tags, some of which point to further directories. It is taken apart and put
together here tag by tag, each with its own type and bytes: Pillow's `Exif` guesses the types anew. What cannot be
understood is left out; nothing here fails a picture.

Sources: TIFF 6.0; Exif 2.32 (CIPA DC-008); the BigTIFF design (Adobe, libtiff).
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from mmap import mmap
from typing import NamedTuple, Union

import numpy as np
from PIL import Image

EXIF_PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112  # 1 to 8; 5 to 8 swap height and width
_EXIF, _GPS, _INTEROP = 0x8769, 0x8825, 0xA005
_POINTERS = {0: (_EXIF, _GPS), _EXIF: (_INTEROP,)}  # directory -> tags in it that point to another
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)  # in the main directory, in Exif's
ICC_PROFILE = 34675
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_OFFSETS = {273, 279, 324, 325, 330, 513, 514}  # would point to where their data no longer is
# Tags of a TIFF's main directory that describe the picture, not how it is stored: name, description, make, model,
# software, time, artist, computer, rating, copyright, and Windows's title, comment, author, keywords, subject.
_DESCRIPTIVE = {269, 270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096), _EXIF, _GPS}

_SHORT, _LONG, _IFD8 = 3, 4, 18
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_RATIONALS = (5, 10)  # pairs of 4 bytes


class Tag(NamedTuple):
    """A tag's type (TIFF 6.0, page 15) and its values as stored."""

    kind: int
    raw: bytes

    @property
    def number(self) -> int:
        """Number of values."""
        return len(self.raw) // SIZES[self.kind]


Tags = dict[int, Union[Tag, "Tags"]]  # a directory; other directories under the tags that point to them


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What goes from an input file to an output file beside the pixels.

    Attributes:
        icc_profile: as stored.
        exif: as Pillow's `Exif.tobytes()`: the prefix and a TIFF header, then the directories. The orientation, where
            there is one, is 1; there is no thumbnail; PixelXDimension and PixelYDimension are of the upright picture.
        dpi: resolution across and down, pixels per inch.
    """

    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


def metadata_of(image: Image.Image, height: int, width: int) -> Metadata:
    """Of an open Pillow image, whose upright size is `height` x `width`."""
    try:
        exif = image.info.get("exif") or image.getexif().tobytes()
    except Exception:  # damaged; Pillow raises about every exception there is
        exif = b""
    only = _DESCRIPTIVE if image.format == "TIFF" else None
    profile = image.info.get("icc_profile")
    return Metadata(
        icc_profile=bytes(profile) if isinstance(profile, bytes) and profile else None,
        exif=clean_exif(exif, height, width, only=only) if isinstance(exif, bytes) else None,
        dpi=_resolution(image.info.get("dpi")),
    )


def metadata_of_tiff(data: bytes | mmap, height: int, width: int) -> Metadata:
    """Of a TIFF or BigTIFF file's first page, whose upright size is `height` x `width`."""
    try:
        order, tags = parse(data)
    except Exception:  # any damage
        return Metadata()
    profile = tags.get(ICC_PROFILE)
    return Metadata(
        icc_profile=(profile.raw or None) if isinstance(profile, Tag) else None,
        exif=_exif_bytes(order, {tag: tags[tag] for tag in tags if tag in _DESCRIPTIVE}, height, width),
        dpi=_tiff_resolution(order, tags),
    )


def clean_exif(exif: bytes, height: int, width: int, *, only: Collection[int] | None = None) -> bytes | None:
    """EXIF for an upright picture of that size, without the thumbnail; None where nothing can be read.

    Args:
        exif: with or without the prefix.
        height: pixels.
        width: pixels.
        only: tags of the main directory to keep; all by default.
    """
    try:
        order, tags = parse(exif.removeprefix(EXIF_PREFIX))
    except Exception:  # any damage
        return None
    return _exif_bytes(order, {tag: tags[tag] for tag in tags if only is None or tag in only}, height, width)


def tiff_tags(exif: bytes) -> Tags:
    """The tags of EXIF that stand in the main directory of a TIFF, in little-endian order. `pack` packs directories."""
    order, tags = parse(exif.removeprefix(EXIF_PREFIX))
    described: Tags = {tag: tags[tag] for tag in tags if tag in _DESCRIPTIVE}
    return described if order == "<" else _swapped(described)


def colour_space(profile: bytes) -> str:
    """Of an ICC profile: "RGB", "GRAY", "CMYK", ...; "" where it cannot be one (ICC.1, section 7.2.6)."""
    name = profile[16:20].decode("ascii", "replace").strip()
    return name if len(profile) > 20 and name.isalnum() and name.isascii() else ""


# ---------------------------------------------------------------------------------------------- directories


def parse(data: bytes | mmap) -> tuple[str, Tags]:
    """Byte order and main directory of EXIF without its prefix, a TIFF or a BigTIFF."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return order, _directory(data, order, big, offset, 0)


def _directory(data: bytes | mmap, order: str, big: bool, offset: int, name: int) -> Tags:
    """The directory at `offset`; tags that are damaged are left out."""
    counter, entry = (order + "Q", order + "HHQ8s") if big else (order + "H", order + "HHI4s")
    (count,) = struct.unpack_from(counter, data, offset)
    offset += struct.calcsize(counter)
    tags: Tags = {}
    left = len(data)  # tags do not overlap, so that no damaged file makes more bytes than it has
    for _ in range(min(count, 2**16)):
        if offset + struct.calcsize(entry) > len(data):
            break
        tag, kind, number, raw = struct.unpack_from(entry, data, offset)
        offset += struct.calcsize(entry)
        size = SIZES.get(kind, 0) * number
        where = int.from_bytes(raw, "little" if order == "<" else "big")
        if size > len(raw):
            raw = data[where : where + size] if where + size <= len(data) and size <= left else b""
            left -= len(raw)
        if tag in _POINTERS.get(name, ()):
            if number == 1 and kind in (_LONG, 13, 16, _IFD8):
                where = int.from_bytes(raw[: SIZES[kind]], "little" if order == "<" else "big")
                try:
                    tags[tag] = _directory(data, order, big, where, tag)
                except struct.error:  # points out of the file
                    continue
        elif size and len(raw) >= size:
            tags[tag] = Tag(kind, bytes(raw[:size]))
    return tags


def pack(tags: Tags, offset: int, *, order: str = "<", big: bool = False) -> bytes:
    """A directory and all that it points to, to stand at `offset` of a file; there is no next directory.

    Args:
        tags: in byte order `order`.
        offset: even.
        order: "<" or ">".
        big: as BigTIFF has it, else as TIFF and EXIF.
    """
    counter, entry, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    offset_format = order + ("Q" if big else "I")
    known = {tag: value for tag, value in tags.items() if big or not isinstance(value, Tag) or value.kind <= 13}
    table = bytearray(struct.pack(order + counter, len(known)))
    rest = bytearray()
    start = offset + len(table) + len(known) * struct.calcsize(order + entry) + inline
    for tag, value in sorted(known.items()):
        where = start + len(rest)
        if isinstance(value, dict):
            rest += pack(value, where, order=order, big=big)
            table += struct.pack(order + entry, tag, _IFD8 if big else _LONG, 1, struct.pack(offset_format, where))
        elif len(value.raw) <= inline:
            table += struct.pack(order + entry, tag, value.kind, value.number, value.raw)
        else:
            rest += value.raw
            table += struct.pack(order + entry, tag, value.kind, value.number, struct.pack(offset_format, where))
        rest += bytes(len(rest) % 2)  # everything begins at an even place
    return bytes(table + bytes(inline) + rest)


def _swapped(tags: Tags) -> Tags:
    """The same values in the other byte order."""
    swapped: Tags = {}
    for tag, value in tags.items():
        if isinstance(value, dict):
            swapped[tag] = _swapped(value)
        else:
            size = 4 if value.kind in _RATIONALS else SIZES[value.kind]
            swapped[tag] = Tag(value.kind, np.frombuffer(value.raw, f"V{size}").view(f"u{size}").byteswap().tobytes())
    return swapped


def _exif_bytes(order: str, tags: Tags, height: int, width: int) -> bytes | None:
    tags = {tag: value for tag, value in tags.items() if tag not in _OFFSETS}
    if ORIENTATION in tags:
        tags[ORIENTATION] = Tag(_SHORT, struct.pack(order + "H", 1))
    below = tags.get(_EXIF)
    for directory, names in ((tags, (_WIDTHS[0], _HEIGHTS[0])), (below, (_WIDTHS[1], _HEIGHTS[1]))):
        for tag, value in zip(names, (width, height), strict=True):
            if isinstance(directory, dict) and (directory is below or tag in directory):
                directory[tag] = Tag(_LONG, struct.pack(order + "I", value))
    if not tags:
        return None
    return (
        EXIF_PREFIX + struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8) + pack(tags, 8, order=order)
    )


# ---------------------------------------------------------------------------------------------- resolution


def _resolution(dpi: object) -> tuple[float, float] | None:
    """Two numbers that can be meant, or None."""
    try:
        across, down = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except Exception:  # of another shape, or a fraction over nought
        return None
    return (across, down) if 0 < across <= 65535 and 0 < down <= 65535 else None  # JPEG has 16 bits


def _tiff_resolution(order: str, tags: Tags) -> tuple[float, float] | None:
    unit = tags.get(_RESOLUTION_UNIT)
    name = 2 if not isinstance(unit, Tag) else int.from_bytes(unit.raw[:2], "little" if order == "<" else "big")
    per_inch = {2: 1.0, 3: 2.54}.get(name)  # inch, centimetre; 1 is "no unit": only the shape of a pixel
    values = []
    for tag in (_X_RESOLUTION, _Y_RESOLUTION):
        value = tags.get(tag)
        if per_inch is None or not isinstance(value, Tag) or value.kind not in _RATIONALS:
            return None
        above, below = struct.unpack_from(order + "II", value.raw)
        values.append(above / below * per_inch if below else 0.0)
    return _resolution(values)
