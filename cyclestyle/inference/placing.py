"""Where each translation goes: the same place and name in the output folder, never two on one, never onto an input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from cyclestyle.data.encode import WRITABLE
from cyclestyle.errors import DataError
from cyclestyle.inference.inputs import Listing
from cyclestyle.inference.options import FORMATS


def output_places(places: Sequence[PurePosixPath], format: str) -> list[PurePosixPath]:
    """Where the translation of each input goes, below the output folder.

    The suffix is the input's where that can be written and is wanted. Where several want one name, the one whose own
    name it is has it (else the first); another keeps its old suffix inside (x.gif.png); then it is numbered
    (x.gif.2.png). A pure function of the sorted listing.

    Args:
        places: of the inputs, all different.
        format: a key of `FORMATS`.
    """
    wanted = [place.with_suffix(_suffix(place.suffix, format)) for place in places]
    taken = {place for place, want in zip(places, wanted, strict=True) if place == want}
    taken.update(parent for place in places for parent in place.parents)  # a folder may be called x.png, too
    results = []
    for place, want in zip(places, wanted, strict=True):
        if place != want:
            want = next(name for name in _names(place, want) if name not in taken)  # noqa: PLW2901
            taken.add(want)
        results.append(want)
    return results


def _suffix(suffix: str, format: str) -> str:
    if format == "keep":
        return suffix if suffix.lower() in WRITABLE else ".png"
    return suffix if suffix.lower() in FORMATS[format] else FORMATS[format][0]


def _names(place: PurePosixPath, want: PurePosixPath) -> Iterator[PurePosixPath]:
    """What an input may be called, best first."""
    yield want
    yield place.with_name(place.name + want.suffix)
    number = 2
    while True:
        yield place.with_name(f"{place.name}.{number}{want.suffix}")
        number += 1


def check_output(listing: Listing, output: Path, targets: Sequence[Path]) -> None:
    """Refuse to write where inputs are read from; links are followed to what they mean.

    Raises:
        DataError: the output is a file, lies in the input, or would replace an input.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"the output {output} is a file, needed is a folder: choose another --output")
    root, place = listing.root.resolve(), output.resolve()
    if listing.is_recursive and (place == root or root in place.parents):
        raise DataError(f"the output folder {output} lies in the input {listing.root}: choose another --output")
    sources = {os.path.realpath(entry.path): entry.path for entry in listing.entries if entry.error is None}
    if listing.kind == "glob":  # what is written would match the next time
        for real, path in sources.items():
            if place in Path(real).parents:
                raise DataError(f"the output folder {output} holds the input {path}: choose another --output")
    for entry, target in zip(listing.entries, targets, strict=True):
        if entry.error is not None:  # also for a name that no file can have
            continue
        if (source := sources.get(os.path.realpath(target))) is not None:
            raise DataError(
                f"the translation of {entry.path} would replace an input, {source}: choose another --output"
            )


def refuse_to_leave(output: Path, target: Path) -> None:
    """Raise where a folder on the way from the output folder to `target` is a link that leads out of it.

    What lies in the place of `target` itself does no harm: it is replaced, not written through.
    """
    root, place = Path(os.path.realpath(output)), Path(os.path.realpath(target.parent))
    if root != place and root not in place.parents:
        raise DataError(f"{target} would be written outside of the output folder, to {place}: remove the link there")
