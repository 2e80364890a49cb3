"""Example of the drift service's questions: rows of the predictor's, against the reference that ships."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.columns import unpack_floats
from meshcast.observations import Observations, pack_observations, unpack_observations
from meshcast.runtime import ExampleCall, ServiceExample
from meshcast.services.drift.features import Encoding, matrix
from meshcast.services.drift.questions import CHUNK_ROWS_MAX
from meshcast.services.drift.shipped_subject import SHIPPED_SUBJECT, shipped_rows

__all__ = ["EXAMPLE"]

ROWS_MAX = 1_024

Floats = NDArray[np.float32]


@cache
def _reference() -> Observations:
    return shipped_rows().observations


def _rows(rows: int, seed: int) -> Observations:
    """Rows of the reference, each number of them moved a little."""
    rng, reference = np.random.default_rng(seed), _reference()
    picked = reference.take(rng.integers(0, reference.rows, rows))
    return Observations(
        rows,
        {name: (values * rng.uniform(0.9, 1.1, rows)).astype(np.float32) for name, values in picked.numeric.items()},
        {},
    )


def _request(rows: int, seed: int) -> pb.DetectDataDriftRequest:
    return pb.DetectDataDriftRequest(
        subject=SHIPPED_SUBJECT,
        observations=pack_observations(_rows(rows, seed)),
        features_max=3,
        wants_row_errors=True,
    )


def _chunk(rows: int, seed: int) -> pb.ObserveStreamRequest:
    return pb.ObserveStreamRequest(
        subject=SHIPPED_SUBJECT,
        purpose=pb.PURPOSE_WINDOW,
        observations=pack_observations(_rows(rows, seed)),
        wants_row_errors=True,
    )


def _tensors(request: pb.DetectDataDriftRequest | pb.ObserveStreamRequest) -> dict[str, Floats]:
    rows = unpack_observations(request.observations, {}, "observations")
    return {"row": matrix(rows, Encoding.of(_reference()))}


def _outputs(answer: pb.DetectDataDriftResponse | pb.ObserveStreamResponse) -> dict[str, Floats]:
    return {"error": unpack_floats(answer.row_errors, (len(answer.row_errors) // 4,), "row_errors")}


def _bad() -> pb.DetectDataDriftRequest:
    request = _request(1, 0)
    request.observations.rows = 0
    return request


def _bad_chunk() -> pb.ObserveStreamRequest:
    chunk = _chunk(2, 0)
    chunk.observations.rows = CHUNK_ROWS_MAX + 1
    return chunk


EXAMPLE = ServiceExample(
    single=ExampleCall(
        method="DetectDataDrift",
        request=_request,
        tensors=_tensors,
        outputs=_outputs,
        bad=_bad,
        bad_field="observations.rows",
        rows_max=ROWS_MAX,
    ),
    stream=ExampleCall(
        method="ObserveStream",
        request=_chunk,
        tensors=_tensors,
        outputs=_outputs,
        bad=_bad_chunk,
        bad_field="observations.rows",
        rows_max=ROWS_MAX,
    ),
)
