"""Which image is shown when: pure functions of seed and position, so that a resumed run goes on as if never stopped.

A position counts the images of one domain since the start of the run: the image at position p is the p-th drawn.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np

# Streams that are drawn from one (seed, domain, position): a number each keeps them apart.
_ORDER, _AUGMENT = 0, 1


def index_at(position: int, *, num_images: int, seed: int, domain: str) -> int:
    """Index of the image that a domain shows at `position`.

    An epoch shows each image once, in an order of its own. Any position is answered directly; the order of an epoch is
    made once and kept.

    Args:
        position: images of this domain drawn before this one, from 0.
        num_images: how many the domain has.
        seed: the run's.
        domain: "a" or "b"; their orders are independent.

    Returns:
        0 .. num_images - 1.
    """
    assert position >= 0, f"positions count from 0, got {position}"
    assert num_images > 0, "an empty domain shows nothing"
    epoch, place = divmod(position, num_images)
    return int(_order(num_images, seed, domain, epoch)[place])


def sample_seed(seed: int, domain: str, position: int) -> int:
    """Seed of the random crop, flip and augmentation at `position` of a domain: 0 .. 2**63 - 1."""
    state = _sequence(seed, domain, position, _AUGMENT).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def share_of_batch(batch_size: int, *, rank: int, world_size: int) -> range:
    """The places in a batch that one process of several handles.

    The shares are contiguous, differ by at most one where `world_size` does not divide `batch_size`, and joined in the
    order of ranks are the batch that a single process would handle.

    Args:
        batch_size: images of each domain in it, over all processes.
        rank: 0 .. world_size - 1.
        world_size: number of processes.
    """
    assert 0 <= rank < world_size, f"rank {rank} of {world_size} processes"
    return range(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)


@lru_cache(maxsize=16)  # both domains, trained on and held out, two epochs each at their border, and some to spare
def _order(num_images: int, seed: int, domain: str, epoch: int) -> np.ndarray:
    """The permutation of an epoch. Sorting raw bits, because numpy promises the same bits in all its versions, not the
    same `permutation`."""
    raw = np.random.PCG64(_sequence(seed, domain, epoch, _ORDER)).random_raw(num_images)
    order = np.argsort(raw, kind="stable")
    order.setflags(write=False)
    return order


def _sequence(seed: int, domain: str, number: int, stream: int) -> np.random.SeedSequence:
    # crc32 and not hash(): the latter changes from process to process. Modulo: SeedSequence refuses negative numbers.
    return np.random.SeedSequence([seed % 2**64, zlib.crc32(domain.encode()), number, stream])
