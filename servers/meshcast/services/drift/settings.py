"""Settings of the drift service: the table `[drift]`."""

from dataclasses import dataclass

from meshcast.services.drift.layout import FEATURES_MAX

__all__ = ["FALSE_ALARMS_A_YEAR_MAX", "WINDOW_ROWS_MAX", "DriftSettings"]

FALSE_ALARMS_A_YEAR_MAX = 365.0
"""Expected false alarms a year at most, of the contract."""

WINDOW_ROWS_MAX = 1_000_000
"""Rows of a window at most, of the contract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSettings:
    """How subjects are watched whose reference says nothing else, and how much one process may hold.

    Attributes:
        false_alarms_a_year: expected false alarms a year of one subject, everything that is tested on it together; more
            than 0, at most 365.
        window_rows: rows of a window, 1 to 1,000,000.
        window_duration_s: a window also closes when its rows span so many seconds.
        subjects_max: subjects with a reference at most. One of 64 features takes up to 10 MiB.
        features_max: features of a reference at most, 1 to 4,096. State and time of a comparison grow with them: a
            subject of 4,096 takes up to 150 MiB.
        trains_autoencoder: True to train an autoencoder on each reference, in a child process, where training is
            installed.
    """

    false_alarms_a_year: float = 0.5
    window_rows: int = 1_000
    window_duration_s: float = 86_400.0
    subjects_max: int = 16
    features_max: int = 1_024
    trains_autoencoder: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.false_alarms_a_year <= FALSE_ALARMS_A_YEAR_MAX:
            raise ValueError(f"false_alarms_a_year must be more than 0 and at most {FALSE_ALARMS_A_YEAR_MAX:g}")
        if not 1 <= self.window_rows <= WINDOW_ROWS_MAX:
            raise ValueError(f"window_rows must be 1 to {WINDOW_ROWS_MAX}")
        if not 0 < self.window_duration_s < float("inf"):
            raise ValueError("window_duration_s must be more than 0")
        if self.subjects_max < 1:
            raise ValueError("subjects_max must be 1 or more")
        if not 1 <= self.features_max <= FEATURES_MAX:
            raise ValueError(f"features_max must be 1 to {FEATURES_MAX}")
