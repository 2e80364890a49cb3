"""Signature of the embedder: what its graph takes and gives."""

from meshcast.runtime import Signature, TensorSpec

__all__ = ["SIGNATURE", "TOKENS_MAX", "WIDTH", "WORDS"]

TOKENS_MAX = 256
"""Most tokens of a text, [CLS] and [SEP] included: what the model was trained with."""

WIDTH = 384
"""Numbers of an embedding."""

WORDS = 30_522
"""Words and word parts that have a token."""

CELLS_MAX = 1_024
"""Most tokens of a run, padding included. A core is as fast from 128 on (25 a millisecond at INT8); 16 times as many
would take 280 MB more for activations.
"""

SIGNATURE = Signature(
    inputs=(
        TensorSpec(
            name="tokens",
            dtype="INT32",
            shape=(-1,),
            value_max=WORDS - 1,
            multiple_of=16,
            length_max=TOKENS_MAX,
            description="WordPiece tokens of a text from [CLS] to [SEP], 0 after its end",
        ),
    ),
    outputs=(TensorSpec(name="embedding", shape=(WIDTH,), description="direction of the text's meaning, of length 1"),),
    tolerance=1e-5,
    rows_max=64,
    cells_max=CELLS_MAX,
)
