"""Requests become columns, or are refused with the fields at fault."""

import numpy as np
import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.posts import PostTable, pack_planned, pack_positions, pack_posts
from meshcast.rpc import InvalidInput
from meshcast.services.predictor.prepare import prepare
from meshcast.services.predictor.questions import chunk_question, single_question

HOUR_S, DAY_S = 3_600, 86_400
START_S = 1_400_000_000


def message(posts: int = 30) -> pb.PredictEngagementRequest:
    request = pb.PredictEngagementRequest(request_id="q")
    request.planned.published_time.FromSeconds(START_S + posts * HOUR_S + DAY_S)
    request.planned.hour_of_day, request.planned.day_of_week = 0, 0  # zero is a value, not an absence
    for number in range(posts):
        post = request.history.add(hour_of_day=number % 24, day_of_week=3, content_length=number, reactions=number)
        post.published_time.FromSeconds(START_S + number * HOUR_S)
    return request


def table(posts: int = 30) -> PostTable:
    return PostTable.of(
        {
            "published_unix_s": START_S + np.arange(posts) * HOUR_S,
            "hour_of_day": np.arange(posts) % 24,
            "day_of_week": np.full(posts, 3),
            "content_length": np.arange(posts),
            "reactions": np.arange(posts),
        }
    )


def fields(refused: pytest.ExceptionInfo[InvalidInput]) -> list[str]:
    return [violation.field for violation in refused.value.violations]


def test_messages_and_columns_make_the_same_tensors() -> None:
    by_message = message()
    by_columns = message(0)
    by_columns.planned.CopyFrom(by_message.planned)
    by_columns.history_columns.CopyFrom(pack_posts(table()))
    one, other = prepare(single_question(by_message)), prepare(single_question(by_columns))
    assert not one.violations and not other.violations
    for name, values in one.inputs.items():
        np.testing.assert_array_equal(values, other.inputs[name])


def test_a_missing_hour_is_not_hour_zero() -> None:
    request = message()
    request.planned.ClearField("hour_of_day")
    request.history[4].ClearField("day_of_week")
    found = prepare(single_question(request)).violations[0]
    assert [field for field, _ in found] == ["planned.hour_of_day", "history[4].day_of_week"]


@pytest.mark.parametrize("given", ["both", "neither"])
def test_one_form_of_history_is_asked_for(given: str) -> None:
    request = message()
    if given == "both":
        request.history_columns.CopyFrom(pack_posts(table()))
    else:
        request.ClearField("history")
    with pytest.raises(InvalidInput) as refused:
        single_question(request)
    assert fields(refused) == ["history"]
    told = {"both": "history and history_columns are both given", "neither": "history is missing: give it or "}
    assert refused.value.message.startswith(told[given])


def test_names_that_are_too_long_and_a_missing_plan_are_named_together() -> None:
    request = message()
    request.request_id, request.channel = "x" * 129, "c" * 257
    request.ClearField("planned")
    with pytest.raises(InvalidInput) as refused:
        single_question(request)
    assert fields(refused) == ["request_id", "channel", "planned"]


def chunk(rows: int = 3) -> pb.PredictEngagementStreamRequest:
    posts = table()
    planned = table(rows).planned()
    times = planned.published_unix_s + 10 * DAY_S
    planned = type(planned)(
        published_unix_s=times,
        hour_of_day=planned.hour_of_day,
        day_of_week=planned.day_of_week,
        content_length=planned.content_length,
        has_media=planned.has_media,
    )
    return pb.PredictEngagementStreamRequest(
        history=pack_posts(posts),
        planned=pack_planned(planned),
        history_start=pack_positions(np.zeros(rows, np.int64)),
        history_stop=pack_positions(np.full(rows, len(posts))),
    )


def test_a_chunk_gives_its_rows() -> None:
    asked = chunk_question(chunk(3), rows_max=8)
    assert len(asked.planned) == len(asked.start) == 3
    assert not prepare(asked).violations


def test_a_chunk_has_at_least_one_row_and_not_too_many() -> None:
    for request in (chunk(3), pb.PredictEngagementStreamRequest()):
        with pytest.raises(InvalidInput) as refused:
            chunk_question(request, rows_max=2)
        assert fields(refused) == ["planned.posts"]


def test_rows_of_a_chunk_have_all_an_id_of_their_own_or_none() -> None:
    request = chunk(3)
    request.row_request_ids.extend(["a", "b"])
    with pytest.raises(InvalidInput) as refused:
        chunk_question(request, rows_max=8)
    assert fields(refused) == ["row_request_ids"]
    request.row_request_ids.append("c" * 129)
    with pytest.raises(InvalidInput) as refused:
        chunk_question(request, rows_max=8)
    assert fields(refused) == ["row_request_ids[2]"]


def test_ranges_of_the_wrong_length_are_named() -> None:
    request = chunk(3)
    request.history_stop = request.history_stop[:-4]
    with pytest.raises(InvalidInput) as refused:
        chunk_question(request, rows_max=8)
    assert "history_stop" in refused.value.message
