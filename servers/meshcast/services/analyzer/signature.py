"""Signature of the content model: what its graph takes and gives."""

from meshcast.runtime import Signature, TensorSpec
from meshcast.services.analyzer.features import EXTRAS, GRAMS_MAX, GRAMS_UNIT, TOKENS_MAX, TOKENS_UNIT
from meshcast.services.analyzer.grams import GRAM_IDS

__all__ = ["SIGNATURE", "TOKEN_IDS"]

TOKEN_IDS = 8_192
"""Ids of tokens that `tokenizer.json` gives, padding included."""

SIGNATURE = Signature(
    inputs=(
        TensorSpec(
            name="tokens",
            dtype="INT32",
            shape=(-1,),
            value_max=TOKEN_IDS - 1,
            multiple_of=TOKENS_UNIT,
            length_max=TOKENS_MAX,
            description="ids of the text's tokens, then 1, then those of the title; 0 is padding",
        ),
        TensorSpec(
            name="grams",
            dtype="INT32",
            shape=(-1,),
            value_max=GRAM_IDS - 1,
            multiple_of=GRAMS_UNIT,
            length_max=GRAMS_MAX,
            description="ids of the different n-grams of text and title, in any order; 0 is padding",
        ),
        TensorSpec(
            name="extras",
            shape=(len(EXTRAS),),
            description=(
                "content_length in code points, has_media 0 or 1, hour_of_day 0 to 23 or -1 where unknown, and how "
                "many code points of text and of title were read"
            ),
        ),
    ),
    outputs=(
        TensorSpec(
            name="above_median",
            description="calibrated probability of ending above the median of the channel's last 100 settled posts",
        ),
        TensorSpec(
            name="viral",
            description=(
                "calibrated probability of ending so far above that median as a tenth of the channel's posts do"
            ),
        ),
    ),
    tolerance=1e-5,  # a probability; the design's tolerance between doors, batches and replays
    rows_max=256,
    cells_max=49_152,  # 192 of the shortest rows, 10 of the longest: 210 MB of a process in place of 490, and no slower
)
