"""What can be asked for when files are translated; checked here, for the command and for Python alike.

Imports nothing heavy, so that a slip on the command line shows at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from cyclestyle.errors import ConfigError

FORMATS = {
    "keep": (),
    "png": (".png",),
    "jpg": (".jpg", ".jpeg"),
    "webp": (".webp",),
    "tiff": (".tiff", ".tif"),
    "npy": (".npy",),
}
"""`--format` and the suffixes that already mean it; the first is the one that is written."""

SMALLEST_TILE = 16
"""Pixels of a side: a band of fewer rows would be halo for the most part."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is done with a translation; the defaults leave it as the generator gives it.

    Attributes:
        work_size: shorter side in pixels at which the generator works; the result has the original size. None: native.
        strength: 0 (the source) to 1 (the translation), linear in between.
        keep_colors: luminance of the translation, colour of the source; RGB only.
    """

    work_size: int | None = None
    strength: float = 1.0
    keep_colors: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ConfigError(f"--strength {self.strength} was given, needed is 0 (the source) to 1 (the translation)")
        if self.work_size is not None and self.work_size < 1:
            raise ConfigError(f"--work-size {self.work_size} was given, needed is a number of pixels, at least 1")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How files are translated; the flags of `cyclestyle translate` by the same names.

    Attributes:
        format: keep (as they came; what cannot be written becomes png), png, jpg, webp, tiff or npy.
        quality: of JPEG and WebP, 1 to 100.
        work_size, strength, keep_colors: as in `Look`.
        mask: folder with a picture for each input, white where it is to be translated. None: everywhere.
        contact_sheet: pages of before | after at the end.
        side_by_side: each file written is source | translation.
        overwrite: also translate what exists in the output folder.
        max_megapixels: larger pictures fail instead of filling the memory. None: the decoder's own limit.
    """

    format: str = "keep"
    quality: int = 95
    work_size: int | None = None
    strength: float = 1.0
    keep_colors: bool = False
    mask: Path | None = None
    contact_sheet: bool = False
    side_by_side: bool = False
    overwrite: bool = False
    max_megapixels: float | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"--format {self.format} was given, needed is {', '.join(FORMATS)}")
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"--quality {self.quality} was given, needed is 1 (small files) to 100 (best)")
        if self.max_megapixels is not None and not 0 < self.max_megapixels < math.inf:
            raise ConfigError(f"--max-megapixels {self.max_megapixels} was given, needed is a number above 0")
        _ = self.look  # its own checks

    @property
    def look(self) -> Look:
        """How translations are laid over their sources."""
        return Look(work_size=self.work_size, strength=self.strength, keep_colors=self.keep_colors)
