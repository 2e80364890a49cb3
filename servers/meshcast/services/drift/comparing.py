"""Comparisons of what comes in a request: rows against a subject's reference, or against rows."""

import time
from collections.abc import Mapping

import numpy as np

from meshcast.observations import Observations
from meshcast.runtime.requests import refusal
from meshcast.services.drift.comparison import Comparison, Reference, WatchOptions
from meshcast.services.drift.derived import sampled
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.watched import FeatureOption
from meshcast.services.drift.windows import given_span

__all__ = ["SAMPLE_ROWS", "given_comparison", "given_reference", "require_columns"]

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


def given_reference(rows: Observations, features: Mapping[str, FeatureOption], options: WatchOptions) -> Reference:
    """A reference that comes in a request; nothing of it is kept.

    Raises:
        InvalidInput: the rows make no reference.
    """
    layout = Layout.of(
        rows,
        roles={name: one.role for name, one in features.items()},
        importances={name: one.importance for name, one in features.items()},
    )
    return Reference(
        subject="",
        version=0,
        set_us=time.time_ns() // 1000,
        layout=layout,
        tally=layout.tally(rows),
        sample=sampled(rows, SAMPLE_ROWS),
        options=options,
    )


def given_comparison(reference: Reference, observations: Observations) -> Comparison:
    """Rows of a request, held against a reference.

    Args:
        reference: what they are compared with.
        observations: one row or more, of its columns.
    """
    span = given_span(observations.unix_us)
    return Comparison(
        reference=reference,
        window=reference.layout.tally(observations),
        start_us=None if span is None else span[0],
        end_us=None if span is None else span[1],
        rows=observations,
        log_threshold=-float(np.log(reference.options.false_alarms_a_year)),
        window_starts={},
    )
