"""One file on its way through the pipeline: read, translated, written, and its row of the manifest."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from cyclestyle.data.decode import Picture, largest_image, read_header, read_picture
from cyclestyle.data.encode import write_picture
from cyclestyle.errors import CyclestyleError, DataError
from cyclestyle.inference.inputs import Entry
from cyclestyle.inference.manifest import Manifest, Row
from cyclestyle.inference.mask import read_mask
from cyclestyle.inference.options import Options
from cyclestyle.inference.pipeline import Outcome, Stages
from cyclestyle.inference.placing import refuse_to_leave

if TYPE_CHECKING:
    from cyclestyle.inference.translator import Translator

logger = logging.getLogger("cyclestyle")

_LOSSY = (".jpg", ".jpeg", ".webp")


@dataclass
class OneFile:
    """An input, where its translation goes, and what is known of it so far.

    Attributes:
        entry, place: the input; its output below the output folder.
        mask_file: or None where there are no masks.
        row: of the manifest; filled on the way.
        made: what the output will have been made by and from: job, bytes and mtime; empty where nobody can look.
        num_bytes: of the pixels that are being written; 0 before.
        picture, mask, translated: while it is in flight.
    """

    entry: Entry
    place: PurePosixPath
    mask_file: Path | None
    row: Row
    made: Row = field(default_factory=dict)
    num_bytes: int = 0
    picture: Picture | None = None
    mask: np.ndarray | None = None
    translated: np.ndarray | None = None


@dataclass
class FileStages:
    """The stages of the pipeline, for one translator, output folder and set of options."""

    translator: Translator
    output: Path
    options: Options
    manifest: Manifest
    _has_warned_of_scale: bool = False

    def stages(self) -> Stages[OneFile]:
        """What the pipeline calls."""
        return Stages(measure=self.measure, read=self.read, compute=self.compute, write=self.write)

    def job(self, file: OneFile) -> str:
        """What tells whether an output that exists is the one that would be written: all that changes its pixels."""
        facts = [self.translator.fingerprint, asdict(self.options.look), self.options.side_by_side]
        if file.place.suffix.lower() in _LOSSY:
            facts.append(self.options.quality)
        if file.mask_file is not None:
            found = file.mask_file.stat()
            facts.append([found.st_size, found.st_mtime])
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def measure(self, file: OneFile) -> int:
        """Pixels of the input, from its header."""
        if file.entry.error is not None:
            raise DataError(file.entry.error)
        if self.options.mask is not None and file.mask_file is None:
            raise DataError(
                f"{file.entry.path}: no mask {self.options.mask / file.entry.place.with_suffix('.*')}; "
                "--mask needs one for each input"
            )
        header = read_header(file.entry.path, self.translator.spec.channels)
        height, width = self.translator.shape_inside(header.height, header.width, self.options.look)
        if height * width > 2 * largest_image():  # twice: any picture is padded a little
            raise DataError(
                f"{file.entry.path}: {header.width} x {header.height} pixels are so long and narrow that the generator "
                f"would work on {width} x {height}; crop the image"
            )
        return header.height * header.width

    def read(self, file: OneFile) -> None:
        """Decode the input and its mask."""
        start = perf_counter()
        picture = read_picture(file.entry.path, self.translator.spec.channels)
        height, width = picture.pixels.shape[:2]
        file.picture = picture
        file.row["input_size"] = [width, height]
        if picture.num_frames > 1:
            file.row["warnings"].append(f"only the first of {picture.num_frames} frames was translated")
        if file.mask_file is not None:
            file.mask = read_mask(file.mask_file, height, width)
        file.row["seconds"] += perf_counter() - start

    def compute(self, files: Sequence[OneFile]) -> list[Outcome]:
        """Translate; pictures of one shape together, where the device is faster that way."""
        groups: dict[tuple[object, ...], list[OneFile]] = {}
        for file in files:
            assert file.picture is not None
            self._warn_of_scale(file)
            alpha = file.picture.alpha
            own = id(file) if alpha is not None and not alpha.all() else None  # hidden pixels: not in a batch
            groups.setdefault((file.picture.pixels.shape, file.picture.pixels.dtype, own), []).append(file)
        outcomes = {id(file): outcome for group in groups.values() for file, outcome in self._compute_group(group)}
        return [outcomes[id(file)] for file in files]

    def _compute_group(self, files: list[OneFile]) -> list[tuple[OneFile, Outcome]]:
        start = perf_counter()
        if len(files) > 1:
            try:
                pictures = [file.picture.pixels for file in files if file.picture is not None]
                results = self.translator.batch(pictures, self.options.look, [file.mask for file in files])
            except (RuntimeError, MemoryError):  # memory for one may do
                self._free_memory()
            else:
                for file, translated in zip(files, results, strict=True):
                    file.translated = translated
                    file.row["seconds"] += (perf_counter() - start) / len(files)
                return [(file, None) for file in files]
        return [(file, self._compute_one(file)) for file in files]

    def _compute_one(self, file: OneFile) -> Outcome:
        assert file.picture is not None
        start = perf_counter()
        try:
            file.translated = self.translator.pixels(
                file.picture.pixels, self.options.look, mask=file.mask, alpha=file.picture.alpha
            )
        except (CyclestyleError, RuntimeError, MemoryError, OSError) as error:  # OSError: no room to spill to
            file.picture = file.mask = None
            self._free_memory()
            return error.with_traceback(None)  # which would keep the tensors alive
        file.row["seconds"] += perf_counter() - start
        return None

    def _free_memory(self) -> None:
        if self.translator.device.type == "cuda":
            torch.cuda.empty_cache()

    def _warn_of_scale(self, file: OneFile) -> None:
        """Once: pictures far larger than those trained on come out with small strokes."""
        spec = self.translator.spec
        trained = spec.crop_size if spec.resize == "none" else spec.load_size
        width, height = file.row["input_size"]
        shorter = self.options.look.work_size or min(width, height)
        if self._has_warned_of_scale or not trained or shorter <= 2 * trained:
            return
        self._has_warned_of_scale = True
        given = (
            f"--work-size {shorter} is" if self.options.look.work_size else f"{file.entry.path} is {width} x {height},"
        )
        logger.warning(
            "%s more than twice the training scale (%d pixels on the shorter side): strokes come out small; "
            "--work-size %d translates at the training scale and returns the original size",
            given, trained, trained,
        )  # fmt: skip

    def write(self, file: OneFile) -> None:
        """Encode the output; the row is complete then, and recorded."""
        start = perf_counter()
        picture, translated = file.picture, file.translated
        assert picture is not None
        assert translated is not None
        file.picture = file.mask = file.translated = None
        alpha = picture.alpha
        if self.options.side_by_side:
            translated = np.concatenate([picture.pixels, translated], axis=1)
            alpha = None if alpha is None else np.concatenate([alpha, alpha], axis=1)
        file.num_bytes = translated.nbytes
        target = self.output / file.place
        refuse_to_leave(self.output, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        size = [translated.shape[1], translated.shape[0]]
        row = {**file.row, **file.made, "status": "translated", "output_size": size}
        with self.manifest.writing(target, row) as partial:
            try:
                lost = write_picture(
                    partial, translated, alpha=alpha, metadata=picture.metadata, quality=self.options.quality
                )
            except CyclestyleError as error:  # people know the output by its own name
                raise type(error)(str(error).replace(str(partial), str(target))) from error
            row["warnings"] = [*row["warnings"], *lost]
            row["seconds"] = round(row["seconds"] + perf_counter() - start, 4)
        file.row = row
