"""The shipped subject: the predictor's inputs and outputs, watched out of the box against the rows it learnt from."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import Observations
from meshcast.services.drift.features import Encoding
from meshcast.services.drift.signature import REFERENCE_SHIPPED

__all__ = ["SHIPPED_SUBJECT", "SHIPPED_VERSION", "ShippedRows", "shipped_rows"]

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
