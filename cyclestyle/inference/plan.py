"""What is to be done before anything is: every input, the place of its output, its mask; the same in every process."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclestyle.data.decode import set_largest_image
from cyclestyle.distributed import rank
from cyclestyle.errors import DataError
from cyclestyle.inference.inputs import Entry, Listing, counts_of
from cyclestyle.inference.manifest import Row
from cyclestyle.inference.mask import find_mask, index_masks
from cyclestyle.inference.one_file import OneFile
from cyclestyle.inference.options import Options
from cyclestyle.inference.placing import check_output, output_places

logger = logging.getLogger("cyclestyle")


@dataclass(frozen=True)
class Plan:
    """What is to be done, the same in every process.

    Attributes:
        listing: all inputs.
        files: the same, each with the place of its output, its mask, and an empty row of the manifest.
        output: the folder, which exists.
    """

    listing: Listing
    files: Sequence[OneFile]
    output: Path
    options: Options


def make_plan(listing: Listing, output: Path, options: Options) -> Plan:
    """Settle where every output goes, and make the output folder.

    Raises:
        DataError: the output folder cannot be used, or the mask folder is missing.
    """
    if listing.passed_over and rank() == 0:
        logger.info("passed over: %s", counts_of(listing.passed_over))
    if listing.repeated and rank() == 0:
        logger.info("named twice in the list, translated once: %d", listing.repeated)
    places = output_places([entry.place for entry in listing.entries], options.format)
    check_output(listing, output, [output / place for place in places])
    masks = index_masks(options.mask) if options.mask is not None else {}
    files = [
        OneFile(entry, place, find_mask(masks, entry.place), _empty_row(entry, str(place)))
        for entry, place in zip(listing.entries, places, strict=True)
    ]
    if options.max_megapixels is not None:
        set_largest_image(options.max_megapixels)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the output folder {output} cannot be made ({error.strerror}): choose another") from error
    return Plan(listing, files, output, options)


def _empty_row(entry: Entry, place: str) -> Row:
    nothing: Row = dict.fromkeys(
        ("input_size", "output_size", "seconds", "error", "warnings", "job", "bytes", "mtime"),
    )
    return {
        "input": os.path.abspath(entry.path),
        "output": place,
        "status": "failed",
        **nothing,
        "seconds": 0.0,
        "warnings": [],
    }
