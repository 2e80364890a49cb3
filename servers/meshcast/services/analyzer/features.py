"""Features of contents: texts go in, the tensors of the content model's graph come out.

Training and serving call the one function here (`rows`). It scales nothing and weighs nothing: what a token or an
n-gram is worth, and how lengths and hours count, is the graph's business. A row's tensors depend on its own content
alone, bit for bit, whatever else is in the chunk.

Text is read as Unicode's compatibility composition (NFKC) makes it, so that letters of a mathematical or full-width
alphabet are read as what they look like. Tokens keep upper and lower case; n-grams are of the case-folded text. Lone
surrogates are read as U+FFFD. Control characters, emoji and letters of any language are tokens like others: those that
the tokenizer's vocabulary lacks become the tokens of their UTF-8 bytes.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from meshcast.contents import Contents
from meshcast.runtime import RowGroup
from meshcast.services.analyzer.grams import hashed_grams

__all__ = [
    "EXTRAS",
    "GRAMS_MAX",
    "GRAMS_UNIT",
    "INPUTS",
    "READ_CHARS",
    "READ_TITLE_CHARS",
    "TEXT_TOKENS_MAX",
    "TITLE_TOKEN",
    "TITLE_TOKENS_MAX",
    "TOKENIZER",
    "TOKENS_MAX",
    "TOKENS_UNIT",
    "Tokenized",
    "groups",
    "padded",
    "rows",
    "tokenizer",
]

INPUTS = ("tokens", "grams", "extras")
"""Names of the graph's inputs, in its order."""

EXTRAS = ("content_length", "has_media", "hour_of_day", "text_length", "title_length")
"""Columns of `extras`; the last two are code points that were read, the hour is -1 where unknown."""

READ_CHARS = 1_000
"""Code points of a text that are read, from its beginning; the rest changes nothing."""

READ_TITLE_CHARS = 200
"""The same of a title."""

TITLE_TOKEN = 1
"""Stands between the tokens of the text and those of the title, so that a row is never empty."""

TOKENS_UNIT, TOKENS_MAX = 32, 256
"""Tokens of a row are padded to a multiple of the first, and are no more than the second."""

TITLE_TOKENS_MAX = 63
"""Most of them that are a title's."""

TEXT_TOKENS_MAX = TOKENS_MAX - 1 - TITLE_TOKENS_MAX
"""Most of them that are a text's."""

GRAMS_UNIT, GRAMS_MAX = 256, 4_608
"""The same of n-grams; READ_CHARS and READ_TITLE_CHARS cannot give more."""

TOKENIZER = Path(__file__).with_name("tokenizer.json")
"""Byte-level BPE with 8,192 tokens; fixed for the model, so that all its versions mean the same by a token."""

_UNITS = np.array([1, 2, 3, 4, 6, 8, 12, 18])  # tokens and n-grams of a row grow together, so few shapes fit them all

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokenized:
    """Contents as the graph reads them, not yet padded: n rows, one after the other.

    Attributes:
        tokens: int32, ids of all rows.
        token_starts: shape (n + 1,), int64, where each row's tokens begin, and where the last ones end.
        grams: int32, ids of all rows.
        gram_starts: shape (n + 1,), int64, likewise.
        extras: shape (n, E), float32, columns `EXTRAS`.
        read_chars: shape (n,), int64, code points of text and title that were read.
        tokens_cut: shape (n,), bool, whether the tokens end before those code points do; the n-grams never do.
    """

    tokens: NDArray[np.int32]
    token_starts: Positions
    grams: NDArray[np.int32]
    gram_starts: Positions
    extras: Floats
    read_chars: Positions
    tokens_cut: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence["Tokenized"]) -> "Tokenized":
        """The rows of all parts, one after the other; there is one part at least."""

        def starts(name: str) -> Positions:
            sizes = [np.diff(getattr(part, name)) for part in parts]
            return np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)

        return cls(
            tokens=np.concatenate([part.tokens for part in parts]),
            token_starts=starts("token_starts"),
            grams=np.concatenate([part.grams for part in parts]),
            gram_starts=starts("gram_starts"),
            extras=np.concatenate([part.extras for part in parts]),
            read_chars=np.concatenate([part.read_chars for part in parts]),
            tokens_cut=np.concatenate([part.tokens_cut for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.read_chars)

    def take(self, at: Positions) -> "Tokenized":
        """The rows at positions, in their order."""
        tokens, token_starts = _taken(self.tokens, self.token_starts, at)
        grams, gram_starts = _taken(self.grams, self.gram_starts, at)
        return Tokenized(
            tokens=tokens,
            token_starts=token_starts,
            grams=grams,
            gram_starts=gram_starts,
            extras=self.extras[at],
            read_chars=self.read_chars[at],
            tokens_cut=self.tokens_cut[at],
        )

    def token_matrix(self, at: Positions) -> NDArray[np.int32]:
        """Tokens of some rows, padded with zeros to the longest of them: all that the network reads of words."""
        return _matrix(self.tokens, self.token_starts, at, int(np.diff(self.token_starts)[at].max(initial=1)))


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer, read from its file once."""
    return Tokenizer.from_file(str(TOKENIZER))


def rows(contents: Contents) -> Tokenized:
    """Inputs of the content model's graph, unpadded: the one way from texts to tensors, here and in training."""
    texts = [_normal(text, READ_CHARS) for text in contents.text]
    titles = [_normal(title, READ_TITLE_CHARS) for title in contents.title]
    tokens, cut = [], []
    for text, title in zip(texts, titles, strict=True):
        of_text, of_title = _tokens(text), _tokens(title)
        cut.append(len(of_text) > TEXT_TOKENS_MAX or len(of_title) > TITLE_TOKENS_MAX)
        tokens.append(np.concatenate([of_text[:TEXT_TOKENS_MAX], _TITLE, of_title[:TITLE_TOKENS_MAX]]))
    grams, gram_starts = hashed_grams(
        [
            f"{_folded(text, READ_CHARS)} | {_folded(title, READ_TITLE_CHARS)}"
            for text, title in zip(texts, titles, strict=True)
        ]
    )
    lengths = [
        np.array([min(len(text), cut) for text in column], dtype=np.int64)
        for column, cut in ((contents.text, READ_CHARS), (contents.title, READ_TITLE_CHARS))
    ]
    extras = np.stack([contents.content_length, contents.has_media, contents.hour_of_day, *lengths], axis=1).astype(
        np.float32
    )
    sizes = [len(ids) for ids in tokens]
    return Tokenized(
        tokens=np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int32),
        token_starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        grams=grams,
        gram_starts=gram_starts,
        extras=extras,
        read_chars=lengths[0] + lengths[1],
        tokens_cut=np.array(cut, dtype=np.bool_),
    )


def padded(tokenized: Tokenized, at: Positions | None = None) -> dict[str, NDArray[Any]]:
    """Tensors of some rows, padded with zeros to the one shape that fits them all.

    Args:
        tokenized: the rows.
        at: positions of the m rows wanted; None: all.

    Returns:
        `tokens` int32 (m, T), `grams` int32 (m, G), `extras` float32 (m, E).
    """
    if at is None:
        at = np.arange(len(tokenized))
    units = int(_units(tokenized)[at].max(initial=1))
    return {
        "tokens": _matrix(tokenized.tokens, tokenized.token_starts, at, min(units * TOKENS_UNIT, TOKENS_MAX)),
        "grams": _matrix(tokenized.grams, tokenized.gram_starts, at, units * GRAMS_UNIT),
        "extras": tokenized.extras[at],
    }


def groups(tokenized: Tokenized, rows_max: int) -> Iterator[RowGroup]:
    """Rows of like length together, padded, the shortest first, as a batcher takes them.

    Tokens and n-grams of a text grow together, so both are padded to the same number of units and few shapes come up.

    Args:
        tokenized: the rows.
        rows_max: most rows of a group.
    """
    units = _units(tokenized)
    for size in np.unique(units).tolist():
        alike = np.flatnonzero(units == size)
        for first in range(0, len(alike), rows_max):
            at = alike[first : first + rows_max]
            yield RowGroup(at, padded(tokenized, at))


def _units(tokenized: Tokenized) -> Positions:
    """How many units of tokens, and of n-grams, each row is padded to."""
    tokens = -(-np.diff(tokenized.token_starts) // TOKENS_UNIT)
    grams = -(-np.diff(tokenized.gram_starts) // GRAMS_UNIT)
    units: Positions = _UNITS[np.searchsorted(_UNITS, np.maximum(tokens, grams))]
    return units


def _taken(ids: NDArray[np.int32], starts: Positions, at: Positions) -> tuple[NDArray[np.int32], Positions]:
    sizes = np.diff(starts)[at]
    ends = np.cumsum(sizes)
    picked = np.arange(int(sizes.sum())) + np.repeat(starts[at] - (ends - sizes), sizes)
    return ids[picked], np.concatenate([[0], ends]).astype(np.int64)


def _matrix(ids: NDArray[np.int32], starts: Positions, at: Positions, width: int) -> NDArray[np.int32]:
    sizes = starts[at + 1] - starts[at]
    columns = np.arange(width)
    real = columns < sizes[:, None]
    matrix = np.zeros((len(at), width), dtype=np.int32)
    matrix[real] = ids[(starts[at][:, None] + columns)[real]]
    return matrix


def _normal(text: str, cut: int) -> str:
    text = text[:cut]
    if text.isascii():
        return text
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return unicodedata.normalize("NFKC", text)[:cut]


def _folded(text: str, cut: int) -> str:
    return text.casefold()[:cut]


def _tokens(text: str) -> NDArray[np.int32]:
    return np.array(tokenizer().encode(text, add_special_tokens=False).ids, dtype=np.int32)


_TITLE = np.array([TITLE_TOKEN], dtype=np.int32)
