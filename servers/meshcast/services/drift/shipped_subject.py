"""The shipped subject: the predictor's inputs and outputs, watched out of the box against the rows it learnt from."""

import asyncio
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import Observations
from meshcast.services.drift.comparison import Reference, WatchOptions
from meshcast.services.drift.features import Encoding
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.signature import REFERENCE_SHIPPED
from meshcast.services.drift.subjects import Subjects
from meshcast.services.drift.watched import FeatureOption, Trained

__all__ = ["SHIPPED_SUBJECT", "SHIPPED_VERSION", "ShippedRows", "is_shipped", "set_shipped", "shipped_rows"]

SHIPPED_SUBJECT = "predictor"
"""Name of the subject: that of the service whose rows they are."""

SHIPPED_VERSION = 1
"""Version of the autoencoder that was trained on them."""

_OUTPUTS = ("log_engagement", "confidence", "quantiles")


class ShippedRows(NamedTuple):
    """Rows that ship.

    Attributes:
        observations: the rows.
        held_out: shape (k,), int64, positions of those that the autoencoder was not trained on.
        outputs: names of the columns that the model answered.
        encoding: how rows become the autoencoder's input.
    """

    observations: Observations
    held_out: NDArray[np.int64]
    outputs: tuple[str, ...]
    encoding: Encoding


def shipped_rows() -> ShippedRows:
    """The rows, of the package."""
    with np.load(REFERENCE_SHIPPED, allow_pickle=False) as arrays:
        names, rows, held_out = arrays["columns"].tolist(), arrays["rows"], arrays["held_out"]
    columns = {str(name): np.ascontiguousarray(rows[:, at]) for at, name in enumerate(names)}
    observations = Observations(len(rows), columns, {})
    outputs = tuple(name for name in columns if name.startswith(_OUTPUTS))
    return ShippedRows(observations, held_out, outputs, Encoding.of(observations))


async def set_shipped(subjects: Subjects, settings: DriftSettings, version: int) -> None:
    """Makes the subject.

    Args:
        subjects: that get it.
        settings: how it is watched.
        version: of the autoencoder: the one that was trained on these rows, or what stands in its place.
    """
    shipped = await asyncio.to_thread(shipped_rows)
    await subjects.set_reference(
        SHIPPED_SUBJECT,
        shipped.observations,
        features={name: FeatureOption(role="output") for name in shipped.outputs},
        options=WatchOptions(
            false_alarms_a_year=settings.false_alarms_a_year,
            window_rows=settings.window_rows,
            window_us=round(settings.window_duration_s * 1e6),
            trains_autoencoder=True,
        ),
        trained=Trained(version, shipped.encoding.to_json(), shipped.held_out),
    )


def is_shipped(reference: Reference) -> bool:
    """True for the reference that ships, not one that was set in its place."""
    return reference.subject == SHIPPED_SUBJECT and reference.version == 1
