"""How often a JPEG goes over its picture: each scan, of 240 bytes perhaps, has a decoder touch every pixel.

Source: ITU-T T.81, annex B (markers), annex G (progressive: each scan refines what the earlier ones gave).
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

_MOST_SCANS = 100  # cameras write one, programs ten
_START, _SOS, _EOI = b"\xff\xd8\xff", 0xDA, 0xD9
_SEQUENTIAL = (0xC0, 0xC1, 0xC9)  # begin a picture that need not be refined
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in coded data FF 00 is a byte and FF D0 to D7 are signs of life


def refuse_many_scans(path: Path) -> None:
    """`ValueError` for a JPEG of more than a hundred scans, hours of work for a megabyte; other files pass."""
    with path.open("rb") as file:
        if file.read(3) != _START:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place, num_scans, one_scan = 2, 0, b""
            while (found := _MARKER.search(data, place)) is not None:
                marker, place = data[found.start() + 1], found.end()
                if marker == _EOI:
                    return  # what follows is another picture, or a video
                if marker in _SEQUENTIAL:
                    one_scan = data[place + 7 : place + 8]  # has all components
                if marker == _SOS and data[place + 2 : place + 3] == one_scan:
                    return  # whatever else is there is not read
                if marker not in _ALONE:
                    place += int.from_bytes(data[place : place + 2], "big")
                num_scans += marker == _SOS
                if num_scans > _MOST_SCANS:
                    raise ValueError(f"has more than {_MOST_SCANS} scans; save it anew")
