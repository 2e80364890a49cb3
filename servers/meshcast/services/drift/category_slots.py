"""Slots of categories: the frequent ones of a reference have one each, the others share one and are known by hashes."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn
from meshcast.rpc.errors import InvalidInput

__all__ = ["CATEGORIES_MAX", "KNOWN_MAX", "is_known", "slots_of"]

CATEGORIES_MAX = 200
"""Categories of a feature with a slot of their own; the reference's others share one more."""

KNOWN_MAX = 65_536
"""Categories of a feature in a reference. A column with more holds identifiers or texts."""


def slots_of(name: str, column: CategoryColumn, own: int) -> tuple[tuple[str, ...], NDArray[np.uint64], int]:
    """Categories of a reference that get a slot of their own, hashes of the others, and how many occur once.

    Args:
        name: of the column.
        column: its rows.
        own: slots at most; the most frequent categories get them, in that order, equal ones by name.

    Returns:
        The categories; the hashes, ascending, uint64; the number.

    Raises:
        InvalidInput: there are more than `KNOWN_MAX`.
    """
    times = np.bincount(column.codes.astype(np.int64) + 1, minlength=len(column.names) + 1)[1:]
    found = sorted((-int(times[code]), column.names[code]) for code in np.flatnonzero(times).tolist())
    if len(found) > KNOWN_MAX:
        raise InvalidInput(
            f"column {name!r} has {len(found)} categories, and at most {KNOWN_MAX} can be watched: identifiers and "
            "texts are no features; leave it out",
            field=f"observations.{name}",
        )
    rest = np.sort(np.array([_hash(category) for _, category in found[own:]], dtype=np.uint64))
    return tuple(category for _, category in found[:own]), rest, int((times == 1).sum())


def _hash(category: str) -> int:
    return int.from_bytes(hashlib.blake2b(category.encode(), digest_size=8).digest(), "little")


def is_known(category: str, known: NDArray[np.uint64]) -> bool:
    """Whether a category's hash is among those of `slots_of`; by chance once in 1e14 for one that is not."""
    if len(known) == 0:
        return False
    wanted = np.uint64(_hash(category))
    at = int(np.searchsorted(known, wanted))
    return at < len(known) and known[at] == wanted
