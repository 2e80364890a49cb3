"""Parts of a training: posts split by time with their labels, and the scores of answers to them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput
from meshcast.runtime import calibration
from meshcast.runtime.timesplit import rows_needed, split_by_time
from meshcast.services.analyzer.outcomes import Outcomes
from meshcast.services.analyzer.recipe import TrainSettings
from meshcast.services.analyzer.signature import SIGNATURE

__all__ = ["QUESTIONS", "Part", "judge", "parts_of", "split"]

QUESTIONS = SIGNATURE.output_names
"""What the content model answers, in its order."""

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Rows of one part of the split.

    Attributes:
        row: shape (m,), int64, position of each among the contents.
        labels: shape (m, 2), bool: above the median, and viral.
        ranks: shape (m,), float32, rank within the row's channel, from 0 to 1.
        channel: shape (m,), int64.
        published_unix_s: shape (m,), int64.
    """

    row: Positions
    labels: NDArray[np.bool_]
    ranks: Floats
    channel: Positions
    published_unix_s: Positions

    def __len__(self) -> int:
        return len(self.row)


def split(outcomes: Outcomes, settings: TrainSettings) -> tuple[Outcomes, Outcomes, Outcomes]:
    """Posts by time: those that train, validate and test.

    Raises:
        InvalidInput: as `train`.
    """
    needed = rows_needed(settings)
    if len(outcomes) < needed:
        raise InvalidInput(
            f"too few posts: {len(outcomes)} have an outcome and a usable history, training needs {needed}",
            field="posts",
        )
    learn, validation, test = (outcomes[mask] for mask in split_by_time(outcomes.published_unix_s, settings))
    return learn, validation, test


def parts_of(learn: Outcomes, validation: Outcomes, test: Outcomes) -> tuple[Part, Part, Part]:
    """Parts with their labels; where a channel's tenth begins is learnt from those that are not scored.

    Raises:
        InvalidInput: all training posts have the same answer to a question.
    """
    thresholds = Outcomes.joined([learn, validation]).thresholds()
    parts = [
        Part(
            row=part.row,
            labels=np.stack([part.is_above(), part.is_viral(thresholds)], axis=1),
            ranks=part.ranks().astype(np.float32),
            channel=part.channel,
            published_unix_s=part.published_unix_s,
        )
        for part in (learn, validation, test)
    ]
    for name, labels in zip(QUESTIONS, parts[0].labels.T, strict=True):
        if labels.all() or not labels.any():
            raise InvalidInput(
                f"{name} has the same answer for every post, so there is nothing to learn", field="posts"
            )
    return parts[0], parts[1], parts[2]


def judge(probabilities: Floats, part: Part) -> dict[str, dict[str, float | None]]:
    """Scores by question: `auc`, `ece` (expected calibration error), `log_loss` and `share` of rows where it held.

    Args:
        probabilities: shape (m, 2).
        part: rows that gave them.
    """
    found: dict[str, dict[str, float | None]] = {}
    for k, name in enumerate(QUESTIONS):
        stated, held = probabilities[:, k], part.labels[:, k]
        auc = calibration.area_under_curve(stated, held)
        kept = np.clip(np.where(held, stated, 1 - stated), 1e-7, None)
        found[name] = {
            "auc": None if math.isnan(auc) else auc,
            "ece": calibration.expected_calibration_error(stated, held),
            "log_loss": float(-np.log(kept).mean()),
            "share": float(held.mean()),
        }
    return found
