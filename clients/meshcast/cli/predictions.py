"""Predictions of a posts file as a table of columns: what both `predict` and `stream` print, write and score."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from meshcast.cli.problem import ExitCode, Problem, translate
from meshcast.client import EngagementChunk, status_columns
from meshcast.posts import POSTS_MIN, PostTable, engagement, read_posts
from meshcast.rpc import MeshError
from meshcast.sinks import Column

__all__ = ["PredictionTable", "no_history", "posts_of"]

Floats = NDArray[np.float64]

_REASONS_SHOWN = 5


@dataclass(kw_only=True)
class PredictionTable:
    """Predictions gathered chunk by chunk, and what happened.

    Attributes:
        posts: the file.
        actual: shape (n,) of the posts, log1p units; NaN where unknown.
        chunks: in order.
        failures: rows that were not predicted.
        reasons: why, each with how many rows it befell and the first of them.
    """

    posts: PostTable
    actual: Floats
    chunks: list[EngagementChunk]
    failures: int = 0
    reasons: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, posts: PostTable) -> Self:
        """A table that has no predictions yet."""
        return cls(posts=posts, actual=np.log1p(engagement(posts).astype(np.float64)), chunks=[])

    def add(self, chunk: EngagementChunk) -> None:
        """Takes a chunk in.

        Raises:
            MeshError: the chunk as a whole was refused.
        """
        self.note(chunk)
        self.chunks.append(chunk)

    def note(self, chunk: EngagementChunk) -> None:
        """Counts the rows of a chunk that failed, and why; the chunk itself is not kept.

        Raises:
            MeshError: the chunk as a whole was refused.
        """
        if chunk.error is not None:
            raise chunk.error
        self.failures += len(chunk.failed)
        for place, error in chunk.failed.items():
            # A row's own field is its place in a message, which says nothing to someone who gave a file.
            why = "; ".join(violation.description for violation in error.violations) or error.message
            befell, first = self.reasons.get(why, (0, int(chunk.rows[place])))
            self.reasons[why] = (befell + 1, first)

    def refusal(self, asked: int) -> Problem:
        """What to say of the rows that were not predicted: the reasons, the most frequent first."""
        details = []
        for why, (befell, first) in sorted(self.reasons.items(), key=lambda item: -item[1][0])[:_REASONS_SHOWN]:
            when = datetime.fromtimestamp(int(self.posts.published_unix_s[first]), UTC)
            details.append(f"{befell:,} x {why} (first the post of {when:%Y-%m-%d %H:%M} UTC)")
        if len(self.reasons) > _REASONS_SHOWN:
            details.append(f"and {len(self.reasons) - _REASONS_SHOWN:,} more reasons")
        message = f"{self.failures:,} of {asked:,} posts were refused"
        return Problem(message, exit_code=ExitCode.REFUSED, details=details)

    def columns(self, chunk: EngagementChunk) -> dict[str, NDArray[np.generic]]:
        """The columns of one chunk as they are written: who, when, what was predicted, what happened."""
        rows = chunk.rows
        columns: dict[str, NDArray[np.generic]] = {
            "channel": self.posts.channel[rows],
            "published_unix_s": self.posts.published_unix_s[rows],
            "log_engagement": chunk.log_engagement,
            "engagement": chunk.engagement,
        }
        for level, lower, upper in zip(chunk.levels, chunk.lower_log, chunk.upper_log, strict=True):
            columns[f"lower_{level:.0%}".rstrip("%")] = np.expm1(lower.astype(np.float64))
            columns[f"upper_{level:.0%}".rstrip("%")] = np.expm1(upper.astype(np.float64))
        columns["confidence"] = chunk.confidence
        columns["actual_engagement"] = np.rint(np.expm1(self.actual[rows]))  # counts are whole numbers
        columns["prediction_id"] = np.array([chunk.prediction_id(row) for row in range(len(rows))])
        columns["model_version"] = np.full(len(rows), chunk.receipt.model_version)
        return columns

    def stored_columns(self, chunk: EngagementChunk, first_row: int) -> dict[str, Column]:
        """The same with what a sink needs of each row: its number from 0, how it was answered, and why not."""
        return {**self.columns(chunk), **status_columns(chunk, first_row)}

    def predicted(self) -> tuple[NDArray[np.int64], Floats, Floats, Floats, Floats]:
        """Rows, log_engagement, levels, lower ends and upper ends of all chunks; ends of shape (levels, rows)."""
        rows = np.concatenate([chunk.rows for chunk in self.chunks])
        log = np.concatenate([chunk.log_engagement for chunk in self.chunks]).astype(np.float64)
        lower = np.concatenate([chunk.lower_log for chunk in self.chunks], axis=1).astype(np.float64)
        upper = np.concatenate([chunk.upper_log for chunk in self.chunks], axis=1).astype(np.float64)
        return rows, log, np.array(self.chunks[0].levels), lower, upper


def posts_of(file: Path) -> PostTable:
    """The posts of a file that the person at the terminal named.

    Raises:
        Problem: the file is missing, or breaks a rule: bad input, whatever class the rule has elsewhere.
    """
    try:
        return read_posts(file)
    except MeshError as error:
        problem = translate(error)
        if problem.exit_code is ExitCode.REFUSED:
            problem.exit_code = ExitCode.USAGE
        raise problem from error


def no_history(name: str) -> Problem:
    """The answer to a file without a post that has enough settled posts before it."""
    return Problem(
        f"{name}: no post has {POSTS_MIN} posts of its channel that are at least 24 hours older",
        exit_code=ExitCode.USAGE,
        way_out="predictions follow from a channel's settled posts: give a longer file",
    )
