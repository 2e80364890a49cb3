"""Comparisons of what comes in a request: rows against a subject's reference, or against rows."""

import time
from collections.abc import Mapping

import numpy as np

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc import InvalidInput
from meshcast.runtime.requests import refusal
from meshcast.services.drift.comparison import Comparison, Reference, WatchOptions
from meshcast.services.drift.derived import sampled
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.watched import FeatureOption
from meshcast.services.drift.windows import given_span

__all__ = ["SAMPLE_ROWS", "conformed", "given_comparison", "given_reference", "require_columns"]

SAMPLE_ROWS = 1_024
"""Rows of a reference in a request that tests which need rows look at."""


def require_columns(reference: Reference, observations: Observations, path: str = "observations") -> None:
    """Checks that rows have the reference's columns.

    Args:
        reference: what they are compared with.
        observations: the rows.
        path: of the rows in the request.

    Raises:
        InvalidInput: they have others; each is named.
    """
    found = reference.layout.violations(observations, path)
    if found:
        raise refusal(list(found.items())[:50])


def given_reference(rows: Observations, features: Mapping[str, FeatureOption], settings: DriftSettings) -> Reference:
    """A reference that comes in a request; nothing of it is kept.

    Raises:
        InvalidInput: the rows make no reference.
    """
    try:
        layout = Layout.of(
            rows,
            roles={name: one.role for name, one in features.items()},
            importances={name: one.importance for name, one in features.items()},
        )
    except InvalidInput as error:
        found = [(one.field.replace("observations", "reference", 1), one.description) for one in error.violations]
        raise InvalidInput(error.message, violations=found) from error
    return Reference(
        subject="",
        version=0,
        set_us=time.time_ns() // 1000,
        layout=layout,
        tally=layout.tally(rows),
        sample=sampled(rows, SAMPLE_ROWS),
        options=WatchOptions(
            false_alarms_a_year=settings.false_alarms_a_year,
            window_rows=settings.window_rows,
            window_us=round(settings.window_duration_s * 1e6),
            trains_autoencoder=False,
        ),
    )


def given_comparison(reference: Reference, observations: Observations) -> Comparison:
    """Rows of a request, held against a reference.

    Args:
        reference: what they are compared with.
        observations: one row or more.

    Raises:
        InvalidInput: the rows have other columns.
    """
    require_columns(reference, observations)
    span = given_span(observations.unix_us)
    return Comparison(
        reference=reference,
        window=reference.layout.tally(observations),
        start_us=None if span is None else span[0],
        end_us=None if span is None else span[1],
        rows=conformed(observations, reference.layout.kinds),
        log_threshold=-float(np.log(reference.options.false_alarms_a_year)),
        window_starts={},
    )


def conformed(observations: Observations, kinds: Mapping[str, str]) -> Observations:
    """Rows whose columns are of the kinds that are wanted: one of nulls alone may have come as the other kind.

    Args:
        observations: the rows.
        kinds: `numeric` or `categorical`, by the column's name.

    Returns:
        The very rows where no column is of the other kind.
    """
    odd = {
        name: kind
        for name, kind in kinds.items()
        if name in (observations.numeric if kind == "categorical" else observations.categorical)
    }
    if not odd:
        return observations
    numeric, categorical = dict(observations.numeric), dict(observations.categorical)
    for name, kind in odd.items():
        if kind == "categorical" and numeric.pop(name, None) is not None:
            categorical[name] = CategoryColumn(np.full(observations.rows, -1, dtype=np.int32), ())
        elif kind == "numeric" and categorical.pop(name, None) is not None:
            numeric[name] = np.full(observations.rows, np.nan, dtype=np.float32)
    return Observations(observations.rows, numeric, categorical, observations.unix_us)
