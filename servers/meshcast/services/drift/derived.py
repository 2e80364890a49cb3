"""Derived columns: what the service makes of all columns of a row together, as columns that evidence is gathered on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import Observations
from meshcast.services.drift.energy import COLUMN, EnergySample, Space, sample_rows
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally

__all__ = [
    "REFERENCE_ROWS_MIN",
    "DerivedReference",
    "Encoded",
    "derived_reference",
    "encoded_columns",
    "energy_columns",
    "energy_of",
    "sampled",
    "thinned",
]

REFERENCE_ROWS_MIN = 200
"""Rows of a reference below which its columns are not looked at together: half of them would say next to nothing."""

SAMPLE_ROWS_MAX = 500
"""Rows of a reference that later rows' distances are taken from."""

COMPARED_ROWS_MAX = 20_000
"""Rows of a reference whose distances later ones are compared with: they take a second of one core at 64 columns."""

WINDOW_ROWS = 1_000
"""Rows of a window that derived columns are made of, about; of larger windows every second row or fewer."""

_SEED = 20_261_121


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Rows through an autoencoder.

    Attributes:
        error: shape (rows,), float32.
        code: shape (rows, codes), float32.
    """

    error: NDArray[np.float32]
    code: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class DerivedReference:
    """Derived columns of a reference's rows.

    Attributes:
        layout: of the columns.
        tally: of the rows that they were not made from.
    """

    layout: Layout
    tally: Tally


def energy_of(reference: Observations) -> tuple[EnergySample, DerivedReference] | None:
    """The kept sample of a reference and the distances of its other rows; None where the reference is too small.

    The same rows give the same.
    """
    if reference.rows < REFERENCE_ROWS_MIN:
        return None
    order = np.random.default_rng([_SEED, reference.rows]).permutation(reference.rows)
    kept = min(SAMPLE_ROWS_MAX, reference.rows // 2)
    others = reference.take(np.sort(order[kept : kept + COMPARED_ROWS_MAX]))
    sample = EnergySample.from_rows(Space.of(others), reference.take(np.sort(order[:kept])))
    return sample, derived_reference(energy_columns(sample, others))


def energy_columns(sample: EnergySample, rows: Observations) -> Observations:
    """Each row's mean distance to the sample."""
    return Observations(rows.rows, {COLUMN: sample.distances(rows)}, {}, None)


def encoded_columns(encoded: Encoded) -> Observations:
    """Each row's error and code."""
    columns = {
        f"autoencoder.code.{at}": np.ascontiguousarray(encoded.code[:, at]) for at in range(encoded.code.shape[1])
    }
    return Observations(len(encoded.error), {"autoencoder.error": encoded.error, **columns}, {}, None)


def derived_reference(columns: Observations) -> DerivedReference:
    """Derived columns of the rows that later ones are compared with."""
    layout = Layout.of(columns, roles=dict.fromkeys(columns.names, "derived"))
    return DerivedReference(layout, layout.tally(columns))


def thinned(rows: int, counted: int, window_rows: int) -> NDArray[np.int64]:
    """Positions of a chunk's rows that derived columns are made of, ascending: every row, or every so-many-th.

    Args:
        rows: of the chunk.
        counted: rows that the subject has observed before it.
        window_rows: of the subject's windows.
    """
    step = max(1, window_rows // WINDOW_ROWS)
    return np.arange(-counted % step, rows, step, dtype=np.int64)


def sampled(reference: Observations, rows: int) -> Observations:
    """Rows of a reference at random, at most so many; the same rows give the same."""
    return reference.take(sample_rows(reference.rows, rows, _SEED))
