"""Masks: which picture says where another is to be translated, and how its edge is softened."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from cyclestyle.data.decode import read_picture
from cyclestyle.data.folders import list_images


def index_masks(folder: Path) -> dict[PurePosixPath, Path]:
    """Masks by what they are for: their relative path, and the same without its suffix.

    Raises:
        DataError: the folder is missing or holds no pictures.
    """
    masks: dict[PurePosixPath, Path] = {}
    for path in list_images(folder, key="--mask"):
        place = PurePosixPath(path.relative_to(folder).as_posix())
        masks[place] = path
        masks.setdefault(place.with_suffix(""), path)
    return masks


def find_mask(masks: dict[PurePosixPath, Path], place: PurePosixPath) -> Path | None:
    """The mask at the same relative path, with the same suffix or any other that a picture has; None: there is none."""
    return masks.get(place) or masks.get(place.with_suffix(""))


def read_mask(path: Path, height: int, width: int) -> np.ndarray:
    """Weights H x W float32 in [0, 1]: white 1, grey between, soft towards black; resized bilinearly where it must.

    Raises:
        DataError: anything that is wrong with the file.
    """
    pixels = read_picture(path, 1).pixels[..., 0]
    values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    if values.shape != (height, width):
        import cv2

        values = np.clip(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR), 0.0, 1.0)
    return soften(values)


def soften(values: np.ndarray) -> np.ndarray:
    """H x W in [0, 1], faded out towards its zeros on the inside: outside nothing is touched.

    weight = value x min(1, distance to the nearest zero / feather); feather = 1% of the shorter side, at least 2 px.
    """
    feather = max(2.0, 0.01 * min(values.shape))
    if values.all():
        return values.astype(np.float32)
    import cv2  # here: most translations have no masks

    distance = cv2.distanceTransform((values > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return (values * np.minimum(1.0, distance / feather)).astype(np.float32)
