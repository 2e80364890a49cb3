"""Outcomes of posts as the content model learns them: how each did beside its own channel's settled posts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.contents import UNKNOWN_TIME, ContentRows
from meshcast.posts import HistoryIndex, PostTable, settled_history
from meshcast.rpc.errors import InvalidInput
from meshcast.runtime.calibration import mean_ranks

__all__ = ["VIRAL_SHARE", "Outcomes", "outcomes_of"]

VIRAL_SHARE = 0.1
"""Share of a channel's posts that count as viral."""

_CHANNEL_ROWS_MIN = 50  # fewer do not tell where their tenth begins; then that of all channels is taken

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcomes:
    """Posts with a history, oldest first within a channel, and how they did; each column of shape (n,).

    Attributes:
        row: int64, which row of the file it is.
        channel: int64, number of its channel.
        published_unix_s: int64.
        residual: float64, outcome less the median of the channel's last 100 settled posts, in the outcome's unit.
    """

    row: Positions
    channel: Positions
    published_unix_s: Positions
    residual: Floats

    @classmethod
    def joined(cls, parts: "Sequence[Outcomes]") -> "Outcomes":
        """The posts of all parts, one after the other."""
        return cls(
            row=np.concatenate([part.row for part in parts]),
            channel=np.concatenate([part.channel for part in parts]),
            published_unix_s=np.concatenate([part.published_unix_s for part in parts]),
            residual=np.concatenate([part.residual for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: Flags | Positions | slice) -> "Outcomes":
        """Some of the posts."""
        return Outcomes(
            row=self.row[rows],
            channel=self.channel[rows],
            published_unix_s=self.published_unix_s[rows],
            residual=self.residual[rows],
        )

    def thresholds(self) -> Floats:
        """Residual by channel number past which a post is viral, learnt from these posts; see `is_viral`."""
        everywhere = float(np.quantile(self.residual, 1 - VIRAL_SHARE)) if len(self) else float("nan")
        found = np.full(int(self.channel.max(initial=-1)) + 1, everywhere)
        for channel, own in self._by_channel():
            if len(own) >= _CHANNEL_ROWS_MIN:
                found[channel] = np.quantile(self.residual[own], 1 - VIRAL_SHARE)
        return np.append(found, everywhere)  # the last one is for channels that came later

    def is_viral(self, thresholds: Floats) -> Flags:
        """Posts whose residual is past their channel's own threshold."""
        flags: Flags = self.residual > thresholds[np.minimum(self.channel, len(thresholds) - 1)]
        return flags

    def is_above(self) -> Flags:
        """Posts above the median of their channel's recent past."""
        return self.residual > 0

    def ranks(self) -> Floats:
        """Rank of each post's residual within its channel, from 0 to 1; ties share their mean rank."""
        ranks = np.empty(len(self))
        for _, own in self._by_channel():
            ranks[own] = (mean_ranks(self.residual[own]) - 0.5) / len(own)
        return ranks

    def _by_channel(self) -> list[tuple[int, Positions]]:
        order = np.argsort(self.channel, kind="stable")
        numbers, starts = np.unique(self.channel[order], return_index=True)
        return list(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))


def outcomes_of(rows: ContentRows, *, settle_s: int) -> Outcomes:
    """How the posts of a file did beside their channels' settled posts; those without a history are left out.

    Args:
        rows: as `meshcast.contents.read_contents` gives them; posts of unknown outcome are skipped.
        settle_s: age from which an outcome is settled, in seconds.

    Raises:
        InvalidInput: a time is missing, or no post has an outcome and a history of 20 settled posts.
    """
    known = np.flatnonzero(np.isfinite(rows.outcome))
    if (rows.published_unix_s[known] == UNKNOWN_TIME).any():
        raise InvalidInput("training needs the column published_at (or published_unix_s)", field="published_at")
    channel = np.unique(rows.channel, return_inverse=True)[1].astype(np.int64)
    known = known[np.lexsort((rows.published_unix_s[known], channel[known]))]
    index = _histories(rows, known, settle_s) if len(known) else None
    if index is None or not len(index):
        raise InvalidInput(
            f"none of the {len(rows)} posts has an outcome and a history: 20 posts of its channel that are "
            f"{settle_s // 3600} h older, with an outcome (or forwards, replies and reactions)",
            field="posts",
        )
    outcome = rows.outcome[known]
    pairs = zip(index.start.tolist(), index.stop.tolist(), strict=True)
    median = np.fromiter((np.median(outcome[start:stop]) for start, stop in pairs), dtype=np.float64, count=len(index))
    picked = known[index.row]
    return Outcomes(
        row=picked,
        channel=channel[picked],
        published_unix_s=rows.published_unix_s[picked],
        residual=outcome[index.row] - median,
    )


def _histories(rows: ContentRows, known: Positions, settle_s: int) -> HistoryIndex:
    """The settled posts of each; positions count the known ones."""
    nothing = np.zeros(len(known))
    posts = PostTable.of(
        {
            "channel": rows.channel[known],
            "published_unix_s": rows.published_unix_s[known],
            "hour_of_day": nothing,
            "day_of_week": nothing,
        }
    )
    return settled_history(posts, settle_s=settle_s)
