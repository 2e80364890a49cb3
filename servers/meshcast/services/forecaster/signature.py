"""Signature of the forecaster: what its graph takes and gives."""

from meshcast.runtime import Signature, TensorSpec
from meshcast.services.forecaster.features import HISTORY, HORIZON, LAST_YEAR

__all__ = ["LEVELS", "SIGNATURE"]

LEVELS = (0.025, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.975)
"""Levels of `quantiles`; the one in the middle is the point forecast."""

SIGNATURE = Signature(
    inputs=(
        TensorSpec(
            name="history",
            shape=(HISTORY,),
            description="daily values in the unit of the series, newest last, 0 where missing",
        ),
        TensorSpec(name="mask", shape=(HISTORY,), description="1 where the history holds a value, else 0"),
        TensorSpec(
            name="last_year",
            shape=(LAST_YEAR,),
            description="values of the days from 393 to 275 before the first forecast day, 0 where missing",
        ),
        TensorSpec(name="last_year_mask", shape=(LAST_YEAR,), description="1 where last_year holds a value, else 0"),
        TensorSpec(
            name="calendar",
            shape=(2,),
            description="weekday (Monday 0) and day of the year (1 January 0) of the first forecast day",
        ),
        TensorSpec(name="nonnegative", description="1 where the series is declared never to fall below 0, else 0"),
    ),
    outputs=(
        TensorSpec(
            name="quantiles",
            shape=(HORIZON, len(LEVELS)),
            description=(
                "quantiles .025, .05, .10, .25, .50, .75, .90, .95 and .975 of each of the next 90 days, ascending, in "
                "the unit of the series; the one at .50 is the point forecast"
            ),
        ),
    ),
    tolerance=1e-4,  # share of the row's largest value: outputs are in the unit of the series, whatever its size
    relative=True,
    rows_max=256,
)
