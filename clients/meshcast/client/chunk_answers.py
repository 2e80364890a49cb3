"""What answers to chunks have in common: rows and their errors, and the check that columns are of the rows asked."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.api.analyzer.v1.analyzer_pb2 import AnalyzeContentStreamResponse
from meshcast.api.forecaster.v1.forecaster_pb2 import ForecastGrowthStreamResponse
from meshcast.api.predictor.v1.predictor_pb2 import PredictEngagementStreamResponse
from meshcast.client.receipts import Receipt
from meshcast.rpc import Internal, InvalidInput, MeshError, from_item, prediction_id

ChunkResponse = PredictEngagementStreamResponse | ForecastGrowthStreamResponse | AnalyzeContentStreamResponse


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkAnswer:
    """The answer to one chunk of n rows, less the columns that each kind of answer has.

    Attributes:
        sequence: number of the chunk, from 0.
        rows: shape (n,), int64: the rows asked about, counted from 0; of predictions for posts of a table, their
            positions in it.
        failed: errors of failed rows by their place in the chunk, from 0.
        error: why the chunk as a whole was refused; None when it was not.
        receipt: one for the chunk.
        row_request_ids: the rows' own request ids, where the caller gave them.
    """

    sequence: int
    rows: NDArray[np.int64]
    failed: Mapping[int, MeshError]
    error: MeshError | None
    receipt: Receipt
    row_request_ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_ok(self) -> NDArray[np.bool_]:
        """Which rows were answered; shape (n,)."""
        ok = np.full(len(self.rows), self.error is None)
        ok[list(self.failed)] = False
        return ok

    def row_id(self, row: int) -> str:
        """Id under which a row of the chunk, counted from 0, can be read back."""
        if self.row_request_ids:
            return prediction_id(self.row_request_ids[row])
        return f"{self.receipt.prediction_id}.{row}"


def errors_of(response: ChunkResponse) -> tuple[MeshError | None, dict[int, MeshError]]:
    """Why a chunk was refused, None when it was not; and the errors of failed rows by their place."""
    error = from_item(response.status) if response.status.code else None
    return error, {status.row: from_item(status.status) for status in response.failed}


@contextmanager
def checked_columns(response: ChunkResponse, n: int) -> Iterator[None]:
    """Checks that a chunk was answered with columns of the n rows asked about; unpack the columns inside.

    Raises:
        Internal: a column did not unpack, or a failed row is outside of the chunk.
    """
    try:
        yield
        if any(not 0 <= status.row < n for status in response.failed):
            raise InvalidInput("failed rows are outside of the chunk")
    except InvalidInput as wrong:
        raise Internal(f"the server answered a chunk of {n} rows with {response.rows}: {wrong}") from wrong
