"""N-grams of texts as hashed ids: words, pairs of words, and pieces of two to four characters within words.

A word is a run of letters, digits and marks of more than one character; a piece lies within what white space bounds,
the space at either end counted, as in scikit-learn's `char_wb`. Everything is done on arrays of code points, for all
texts at once; the ids depend on the text alone and are the same on every machine.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRAM_IDS", "KIND_IDS", "code_points", "hashed_grams"]

KIND_IDS = 1 << 20
"""Ids of a kind: those of words and their pairs lie below it, those of pieces from it on."""

GRAM_IDS = 2 * KIND_IDS
"""Ids of both kinds; 0 is padding."""

_PIECES = (2, 3, 4)
_SPACE = 0x20

_PRIME = np.uint64(0x100000001B3)  # FNV's, for hashes that roll along
_MIX_A, _MIX_B = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)  # of MurmurHash3's finaliser
_SHIFT = np.uint64(33)
_POWERS_MAX = 1 << 12

Hashes = NDArray[np.uint64]
Flags = NDArray[np.bool_]


def code_points(text: str) -> NDArray[np.uint32]:
    """Code points of a string, lone surrogates as they are."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def hashed_grams(texts: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Different n-grams of each text, as ids.

    Args:
        texts: n texts, normalised and folded; white space of any kind bounds words.

    Returns:
        Ids of all texts one after the other, ascending within a text, int32 from 1 to `GRAM_IDS` - 1; and where each
        text begins, (n + 1,).
    """
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)) + 2
    points = code_points("".join(f" {text} " for text in texts))
    row = np.repeat(np.arange(len(texts)), lengths)
    characters = points.view("<U1")
    points = np.where(np.strings.isspace(characters), np.uint32(_SPACE), points)
    none = np.zeros(0, dtype=np.int64)
    keys = np.concatenate([none, *_pieces(points, row), *_words(points, row, characters)])
    keys.sort()  # np.unique would hash them, at a hundred times the cost
    keys = keys[np.diff(keys, prepend=-1) > 0]
    starts = np.searchsorted(keys, np.arange(len(texts) + 1) << 21)
    return (keys & (GRAM_IDS - 1)).astype(np.int32), starts


def _pieces(points: NDArray[np.uint32], row: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Keys of the pieces: windows without a space but at their ends, and not of spaces alone."""
    space = points == _SPACE
    rolled = points.astype(np.uint64)
    found = []
    inner = np.zeros(max(len(points) - 1, 0), dtype=np.bool_)  # of a window of two: nothing is between its ends
    for size in _PIECES:
        last = len(points) - size + 1
        if last <= 0:
            break
        rolled = rolled[:last] * _PRIME + points[size - 1 :]
        inner = inner[:last] | space[size - 2 : size - 2 + last] if size > 2 else inner
        wanted = ~inner & ~(space[:last] & space[size - 1 :]) if size == 2 else ~inner
        at = np.flatnonzero(wanted)
        found.append(_keys(rolled[at] + np.uint64(size), row[at], KIND_IDS))
    return found


def _words(points: NDArray[np.uint32], row: NDArray[np.int64], characters: NDArray[np.str_]) -> list[NDArray[np.int64]]:
    """Keys of the words of two characters or more, and of pairs of neighbours among them."""
    inside = np.strings.isalnum(characters) | (points == ord("_"))
    edges = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0, append=0))
    start, stop = edges[::2], edges[1::2]
    long = stop - start > 1
    start, stop = start[long], stop[long]
    if not len(start):
        return []
    size = stop - start
    at = np.repeat(start - np.concatenate([[0], np.cumsum(size)[:-1]]), size) + np.arange(int(size.sum()))
    place = np.minimum(at - np.repeat(start, size), _POWERS_MAX - 1)
    first = np.concatenate([[0], np.cumsum(size)[:-1]])
    word = _mixed(np.add.reduceat((points[at].astype(np.uint64) + np.uint64(1)) * _POWERS[place], first))
    of = row[start]
    together = of[1:] == of[:-1]
    pair = (word[:-1] * _PRIME + word[1:])[together]
    return [_keys(word, of, 0), _keys(pair, of[1:][together], 0)]


def _keys(hashes: Hashes, row: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Row and id of each n-gram as one number, so that they sort by row."""
    ids = (_mixed(hashes) % np.uint64(KIND_IDS - 1)).astype(np.int64) + (1 + first)
    return (row << 21) | np.minimum(ids, first + KIND_IDS - 1)


def _mixed(hashes: Hashes) -> Hashes:
    """Finaliser of MurmurHash3 (Appleby, public domain): every bit of the input moves every bit of the result."""
    hashes = (hashes ^ (hashes >> _SHIFT)) * _MIX_A
    hashes = (hashes ^ (hashes >> _SHIFT)) * _MIX_B
    return hashes ^ (hashes >> _SHIFT)


def _powers() -> Hashes:
    powers = np.full(_POWERS_MAX, _PRIME, dtype=np.uint64)
    powers[0] = 1
    return np.asarray(np.multiply.accumulate(powers), dtype=np.uint64)


_POWERS = _powers()
