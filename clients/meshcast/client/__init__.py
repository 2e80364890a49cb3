"""The typed client of the mesh: `MeshClient` for asyncio, `SyncMeshClient` for plain code, over one code path."""

from meshcast.client.answers import (
    ComprehensivePart,
    EngagementChunk,
    EngagementPrediction,
    Interval,
    StoredPrediction,
    Validation,
)
from meshcast.client.mesh import MeshClient, Progress
from meshcast.client.questions import (
    Columns,
    History,
    HistoryLike,
    PlannedPost,
    Post,
    PostRow,
    PostsLike,
    Priority,
    Question,
    post_table,
)
from meshcast.client.receipts import Receipt, ReceiptSummary
from meshcast.client.sync import SyncMeshClient
from meshcast.rpc import prediction_id

__all__ = [
    "MeshClient",
    "SyncMeshClient",
    # questions
    "PlannedPost",
    "Post",
    "History",
    "Question",
    "Priority",
    "post_table",
    "HistoryLike",
    "PostsLike",
    "PostRow",
    "Columns",
    "Progress",
    # answers
    "EngagementPrediction",
    "EngagementChunk",
    "Interval",
    "StoredPrediction",
    "Validation",
    "ComprehensivePart",
    "Receipt",
    "ReceiptSummary",
    "prediction_id",
]
