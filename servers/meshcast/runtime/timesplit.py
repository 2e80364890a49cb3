"""Splits by time: rows that train, later ones that choose and calibrate, and the latest, which only score."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc.errors import InvalidInput

__all__ = ["TimeSplit", "rows_needed", "split_by_time"]

Flags = NDArray[np.bool_]


class TimeSplit(Protocol):
    """What a training's settings say of its split."""

    @property
    def train_before_unix_s(self) -> int | None:
        """Rows published before it train; None takes the first `train_share` of the rows."""

    @property
    def validate_before_unix_s(self) -> int | None:
        """Rows from there up to it validate; None takes the next `validate_share`."""

    @property
    def test_before_unix_s(self) -> int | None:
        """Rows up to it are the test part; None takes all that are left."""

    @property
    def train_share(self) -> float:
        """Share of rows that train, oldest first."""

    @property
    def validate_share(self) -> float:
        """Share of rows that validate."""

    @property
    def rows_min(self) -> int:
        """Fewest training rows; the two other parts need a tenth of it."""


def rows_needed(settings: TimeSplit) -> int:
    """Fewest rows that all parts need together."""
    return settings.rows_min + 2 * _rest_min(settings)


def split_by_time(published_unix_s: NDArray[np.int64], settings: TimeSplit) -> tuple[Flags, Flags, Flags]:
    """Which rows train, validate and test; each of shape (n,).

    Args:
        published_unix_s: shape (n,), of posts with a usable history.
        settings: where the parts begin and end.

    Raises:
        InvalidInput: validation ends before training does, or a part has too few rows.
    """
    when = published_unix_s
    first, second = _cuts(np.sort(when), settings)
    last = np.iinfo(np.int64).max if settings.test_before_unix_s is None else settings.test_before_unix_s
    learn, validation, test = when < first, (when >= first) & (when < second), (when >= second) & (when < last)
    rest_min = _rest_min(settings)
    parts = (("training", learn, settings.rows_min), ("validation", validation, rest_min), ("test", test, rest_min))
    for name, mask, rows_min in parts:
        if int(mask.sum()) < rows_min:
            raise InvalidInput(
                f"the {name} part has {int(mask.sum())} posts with a usable history, it needs {rows_min}; move the "
                "dates of the split",
                field="split",
            )
    return learn, validation, test


def _rest_min(settings: TimeSplit) -> int:
    return max(settings.rows_min // 10, 1)


def _cuts(when: NDArray[np.int64], settings: TimeSplit) -> tuple[int, int]:
    first, second = settings.train_before_unix_s, settings.validate_before_unix_s
    if first is None:
        first = int(when[min(int(len(when) * settings.train_share), len(when) - 1)])
    if second is None:
        share = settings.train_share + settings.validate_share
        second = int(when[min(int(len(when) * share), len(when) - 1)])
    if first >= second:
        raise InvalidInput("validation must end after training ends", field="split")
    return first, second
