"""Questions out of requests: messages become columns, and nothing is computed yet."""

import numpy as np

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.posts import (
    history_range,
    planned_from_columns,
    planned_from_message,
    posts_from_columns,
    posts_from_messages,
)
from meshcast.rpc import Violation
from meshcast.runtime.requests import chunk_violations, name_violations, refusal
from meshcast.services.predictor.prepare import Naming, Question


def _message_field(column: str) -> str:
    return "published_time" if column == "published_unix_s" else column


MESSAGES = Naming(
    planned=lambda row, column: f"planned.{_message_field(column)}",
    history=lambda post, column: f"history[{post}].{_message_field(column)}",
    range=lambda row: "history",
)
COLUMNS = Naming(
    planned=MESSAGES.planned,
    history=lambda post, column: f"history_columns.{column}[{post}]",
    range=lambda row: "history_columns",
)
CHUNK = Naming(
    planned=lambda row, column: f"planned.{column}[{row}]",
    history=lambda post, column: f"history.{column}[{post}]",
    range=lambda row: f"history_start[{row}]",
)


def single_question(request: pb.PredictEngagementRequest) -> Question:
    """The one row of a unary request.

    Raises:
        InvalidInput: a required field is missing, both forms of history are given, or columns differ in length.
    """
    violations = name_violations(request.request_id, request.channel, field="channel")
    if bool(request.history) == request.HasField("history_columns"):
        both = "and history_columns are both given: give one of them"
        violations.append(Violation("history", both if request.history else "is missing: give it or history_columns"))
    if not request.HasField("planned"):
        violations.append(Violation("planned", "is required"))
    if violations:
        raise refusal(violations)
    if request.history:
        posts, naming = posts_from_messages(request.history, field="history"), MESSAGES
    else:
        posts, naming = posts_from_columns(request.history_columns, field="history_columns"), COLUMNS
    planned = planned_from_message(request.planned)
    start, stop = np.array([0], dtype=np.int64), np.array([len(posts)], dtype=np.int64)
    return Question(posts=posts, planned=planned, start=start, stop=stop, naming=naming)


def chunk_question(request: pb.PredictEngagementStreamRequest, *, rows_max: int) -> Question:
    """The rows of a chunk.

    Raises:
        InvalidInput: columns differ in length, the chunk is empty or larger than `rows_max`, or the rows' own ids do
            not match the rows.
    """
    violations = name_violations(request.request_id, request.channel, field="channel")
    rows = request.planned.posts
    violations += chunk_violations(rows, request.row_request_ids, rows_max=rows_max, field="planned.posts")
    if violations:
        raise refusal(violations)
    start, stop = history_range(request.history_start, request.history_stop, rows)
    return Question(
        posts=posts_from_columns(request.history),
        planned=planned_from_columns(request.planned),
        start=start,
        stop=stop,
        naming=CHUNK,
    )
