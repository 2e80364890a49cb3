"""Tokens of texts: what the embedder reads of them, and how those of one length go together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from meshcast.runtime import RowGroup, group_rows
from meshcast.services.analyzer.embedder.signature import SIGNATURE, TOKENS_MAX

__all__ = ["READ_CHARS", "WORDS_FILE", "Tokenized", "embedded_text", "group", "tokenize"]

WORDS_FILE = Path(__file__).parent / "vocab.txt"
"""The words and word parts of all-MiniLM-L6-v2, one a line; the line is the token."""

READ_CHARS = 4_096
"""Most characters of a text that are looked at, runs of spaces counted once: 16 for each token that there may be."""

_CLS, _SEP = 101, 102
_SPACES_CHARS = 16 * READ_CHARS  # what is squeezed of a longer text, so that a page of indented HTML is not lost
_SPACES = re.compile(r"[ \t\r\n]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """Texts as the model reads them.

    Attributes:
        tokens: for each text int32, shape (length,), 2 to `TOKENS_MAX` tokens from [CLS] to [SEP].
        was_cut: shape (texts,), bool: True where the model does not read the text to its end.
    """

    tokens: list[NDArray[np.int32]]
    was_cut: NDArray[np.bool_]


def embedded_text(text: str, title: str) -> str:
    """The one string that is embedded of a text and its title: each on a line of its own; empty where both are."""
    return f"{text}\n{title}" if text and title else text or title


def tokenize(texts: Sequence[str]) -> Tokenized:
    """Tokens of texts, in time that is bounded for each, whatever it holds.

    Upper case and accents are dropped, as the model learnt it. Unlike in the tokenizer that comes with the model, a
    text that spells `[CLS]` or `[PAD]` holds five characters and no such token. An empty text is [CLS] [SEP]. Lone
    surrogates are left out.
    """
    tokenizer = _tokenizer()
    tokens = []
    was_cut = np.zeros(len(texts), dtype=np.bool_)
    for place, text in enumerate(texts):
        head, is_cut = _head(text)
        ids = tokenizer.encode(head, add_special_tokens=False).ids
        was_cut[place] = is_cut or len(ids) > TOKENS_MAX - 2
        tokens.append(np.array([_CLS, *ids[: TOKENS_MAX - 2], _SEP], dtype=np.int32))
    return Tokenized(tokens=tokens, was_cut=was_cut)


def group(tokens: Sequence[NDArray[np.int32]]) -> list[RowGroup]:
    """Texts put together by padded length, shortest first, in groups that one run takes.

    A text is padded to the next of a few lengths (16, 32 and so on to 128, then 160, 192, 224, 256) and never to the
    length of another text: what is computed for nothing is at most 15 tokens of a short text, a fifth of a long one.

    Args:
        tokens: as `tokenize` gives them.
    """
    name = SIGNATURE.input_names[0]
    groups = []
    for positions, arrays in group_rows(SIGNATURE, {name: tokens}):
        rows_max = SIGNATURE.rows_at(SIGNATURE.lengths(arrays))
        for start in range(0, len(positions), rows_max):
            part = slice(start, start + rows_max)
            groups.append(RowGroup(positions[part], {name: arrays[name][part]}))
    return groups


def _head(text: str) -> tuple[str, bool]:
    """The part of a text that is tokenized, and whether there is more."""
    is_cut = False
    if len(text) > READ_CHARS:
        squeezed = _SPACES.sub(" ", text[:_SPACES_CHARS])
        is_cut = len(squeezed) > READ_CHARS or len(text) > _SPACES_CHARS
        text = squeezed[:READ_CHARS]
    # Characters that have no UTF-8, which the library takes texts in.
    return text.encode("utf-8", "ignore").decode("utf-8"), is_cut


@cache
def _tokenizer() -> Tokenizer:
    words = WORDS_FILE.read_text("utf-8").split("\n")
    vocabulary = {word: token for token, word in enumerate(words) if word}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(clean_text=True, handle_chinese_chars=True, lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer
