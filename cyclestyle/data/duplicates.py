"""A quick look at the training pictures for what spoils a training quietly: flat ones, and the same one twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cyclestyle.devices import num_cores
from cyclestyle.images import to_tensor

_MOST_NAMED = 5
_ROWS_AT_ONCE = 512
_LONGEST_SIDE = 1024  # larger pictures are looked at in steps of pixels

# All in units of [-1, 1], where a grey level of 255 is 0.008.
_FLAT = 0.016  # standard deviation of a picture's pixels
_THUMBNAIL = 16
_NEAR = 0.05  # root mean square difference of thumbnails
_NEAR_SHARE = 0.15  # and that as a share of the thumbnail's own standard deviation
_DETAIL = 64  # pixels to which a pair is averaged to compare what thumbnails do not show
_LEAST_DETAIL = 0.01  # standard deviation below which such detail proves nothing
_SAME_DETAIL = 0.8  # correlation of it

Read = Callable[[int, int], np.ndarray | None]


@dataclass(frozen=True)
class _Seen:
    """A picture that was looked at: where it is, the hash of its pixels, its thumbnail as a vector."""

    side: int
    index: int
    path: Path
    digest: bytes
    thumbnail: Tensor
    is_flat: bool


def quick_look(
    files_a: Sequence[Path],
    files_b: Sequence[Path],
    read: Read,
    *,
    most: int = 2000,
    names: tuple[str, str] = ("a", "b"),
) -> list[str]:
    """Warnings about training pictures of a single colour, pictures that are there twice, and in both domains.

    Two pictures are the same if their pixels are, or if their thumbnails and the detail beside them agree: saved again
    as another JPEG, or at another size, but not another picture of the same dark street or empty sky. Mirrored copies
    do not count: `data.flip` makes them anyway.

    Args:
        files_a, files_b: the files of each domain, for their names.
        read: side (0: A, 1: B) and index -> H x W x C pixels, uint8 or uint16, or None for a broken file; called from
            several threads.
        most: pictures of each domain that are looked at, evenly chosen.
        names: of the domains.

    Returns:
        A line a warning.
    """
    files = (files_a, files_b)
    chosen = [(side, index) for side in (0, 1) for index in _evenly(len(files[side]), most)]
    with ThreadPoolExecutor(max_workers=min(8, num_cores())) as threads:
        found = list(threads.map(lambda place: _look(files[place[0]][place[1]], place[0], place[1], read), chosen))
    seen = [[each for each in found if each is not None and each.side == side] for side in (0, 1)]
    lines = []
    for pictures, name in zip(seen, names, strict=True):
        flat = [each.path.name for each in pictures if each.is_flat]
        if flat:
            lines.append(
                f"{name}: {len(flat)} of {len(pictures)} training pictures are of a single colour or nearly: "
                f"{_some(flat)}; leave them out"
            )
    solid = [[each for each in pictures if not each.is_flat] for pictures in seen]
    for pictures, name in zip(solid, names, strict=True):
        pairs = _pairs(pictures, pictures, read)
        if pairs:
            twice = [f"{first.path.name} = {second.path.name}" for first, second in pairs]
            lines.append(
                f"{name}: {len(pairs)} of {len(pictures)} training pictures are there already: {_some(twice)}; "
                "leave one of each out"
            )
    pairs = _pairs(solid[0], solid[1], read)
    if pairs:
        both = [f"{first.path.name} = {second.path.name}" for first, second in pairs]
        lines.append(
            f"{len(pairs)} training pictures are in both domains, {names[0]} and {names[1]}: {_some(both)}; "
            "leave each in one of them"
        )
    if any(len(each) > most for each in files):
        lines.append(f"looked for flat and doubled pictures among {most} of each domain, evenly chosen, not among all")
    return lines


def _evenly(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` things, evenly over them."""
    return list(range(count)) if count <= most else [share * count // most for share in range(most)]


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - _MOST_NAMED} more" if len(words) > _MOST_NAMED else ""
    return ", ".join(words[:_MOST_NAMED]) + more


def _look(path: Path, side: int, index: int, read: Read) -> _Seen | None:
    pixels = read(side, index)
    if pixels is None:
        return None
    image = _image(pixels)
    thumbnail = F.adaptive_avg_pool2d(image, _THUMBNAIL)
    # A picture varies at least as much as its thumbnail: most need no second pass over all pixels.
    is_flat = all(each.std((1, 2), correction=0).max().item() < _FLAT for each in (thumbnail, image))
    digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16)
    digest.update(f"{pixels.shape} {pixels.dtype}".encode())
    return _Seen(side, index, path, digest.digest(), thumbnail.flatten(), is_flat)


def _image(pixels: np.ndarray) -> Tensor:
    """C x H x W in [-1, 1]."""
    stride = -(-max(pixels.shape[:2]) // _LONGEST_SIDE)
    return to_tensor(pixels[::stride, ::stride])


def _pairs(pool: list[_Seen], pictures: list[_Seen], read: Read) -> list[tuple[_Seen, _Seen]]:
    """Each of `pictures` that is the same as one of `pool`, after that one; in one list, as an earlier one."""
    if not pool or not pictures:
        return []
    first_of: dict[bytes, int] = {}
    for place, each in enumerate(pool):
        first_of.setdefault(each.digest, place)
    pairs = []
    for row, near in enumerate(_nearest(pool, pictures)):
        place = first_of.get(pictures[row].digest, near)
        if pool is pictures and place >= row:  # itself
            place = near
        if place < 0:
            continue
        is_exact = pool[place].digest == pictures[row].digest
        if is_exact or _same_detail(pool[place], pictures[row], read):
            pairs.append((pool[place], pictures[row]))
    return pairs


def _nearest(pool: list[_Seen], pictures: list[_Seen]) -> list[int]:
    """For each picture that of `pool` (in one list: of the earlier ones) with the nearest thumbnail; -1: none near."""
    columns = torch.stack([each.thumbnail for each in pool])  # M x D
    places: list[int] = []
    for start in range(0, len(pictures), _ROWS_AT_ONCE):
        rows = torch.stack([each.thumbnail for each in pictures[start : start + _ROWS_AT_ONCE]])
        # |x - y|^2 = |x|^2 + |y|^2 - 2xy in float32 is off by 1e-6 a pixel, far below the 1e-3 that is asked for.
        square = rows.square().mean(1)[:, None] + columns.square().mean(1) - 2 * rows @ columns.T / rows.shape[1]
        if pool is pictures:
            later = torch.arange(len(pool)) >= torch.arange(start, start + len(rows))[:, None]
            square.masked_fill_(later, torch.inf)
        least, place = square.min(1)
        limit = (_NEAR_SHARE * rows.std(1)).clamp_max(_NEAR).square()
        places += torch.where(least < limit, place, -1).tolist()
    return places


def _same_detail(first: _Seen, second: _Seen, read: Read) -> bool:
    """Whether two pictures with the same thumbnail agree in what it does not show; not where there is nothing more."""
    details = []
    for each in (first, second):
        pixels = read(each.side, each.index)
        if pixels is None:
            return False
        fine = F.adaptive_avg_pool2d(_image(pixels).mean(0, keepdim=True), _DETAIL)[None]
        coarse = F.adaptive_avg_pool2d(fine, _THUMBNAIL)
        # Interpolated, not repeated: a sky that fades evenly is no detail.
        details.append((fine - F.interpolate(coarse, size=_DETAIL, mode="bilinear")).flatten())
    x, y = details
    if min(x.std().item(), y.std().item()) < _LEAST_DETAIL:
        return False
    return F.cosine_similarity(x, y, dim=0).item() > _SAME_DETAIL
