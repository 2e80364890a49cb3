"""The predictor's baseline: medians and quantiles of the history, refused where the service would refuse."""

from collections.abc import Callable

import numpy as np
import pytest

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.baselines import predict_engagement
from meshcast.posts import posts_from_messages
from meshcast.posts.wire import pack_posts
from meshcast.rpc import InvalidInput
from meshcast.services.predictor.features import recent_median
from meshcast.services.predictor.prepare import violations_of
from meshcast.services.predictor.questions import single_question

Request = pb.PredictEngagementRequest
DAY_S = 86_400


def question(posts: int = 30) -> Request:
    request = Request(request_id="r-1", channel="news")
    for number in range(posts):
        post = request.history.add(hour_of_day=number % 24, day_of_week=number % 7, forwards=number, reactions=3)
        post.published_time.seconds = DAY_S * number
    request.planned.hour_of_day = request.planned.day_of_week = 3
    request.planned.published_time.seconds = DAY_S * (posts + 1)
    return request


def answered(request: Request) -> pb.PredictEngagementResponse | None:
    encoded = predict_engagement(request.SerializeToString())
    return None if encoded is None else pb.PredictEngagementResponse.FromString(encoded)


def is_refused_by_the_service(request: Request) -> bool:
    try:
        return bool(violations_of(single_question(request)))
    except InvalidInput:
        return True


def test_the_answer_is_the_histories_own_distribution() -> None:
    answer = answered(question(41))
    assert answer is not None
    levels = np.log1p(np.arange(41) + 3)
    assert answer.prediction.log_engagement == pytest.approx(np.median(levels), rel=1e-6)
    assert answer.prediction.engagement == pytest.approx(23.0)
    assert [one.level for one in answer.prediction.intervals] == [0.8, 0.95]
    narrow, wide = answer.prediction.intervals
    assert wide.lower_log < narrow.lower_log < answer.prediction.log_engagement < narrow.upper_log < wide.upper_log
    assert (wide.lower, wide.upper) == pytest.approx((np.expm1(wide.lower_log), np.expm1(wide.upper_log)))


def test_the_recent_median_is_the_services_own() -> None:
    request = question(45)
    posts = posts_from_messages(request.history)
    of_service = recent_median(posts, np.array([0]), np.array([len(posts)]))
    answer = answered(request)
    assert answer is not None
    assert answer.prediction.recent_median_log == pytest.approx(float(of_service[0]), abs=1e-6)


def test_confidence_is_a_half_on_20_posts_and_less_where_the_newest_do_better() -> None:
    rising, short = answered(question(100)), answered(question(20))
    assert rising is not None and short is not None
    assert short.prediction.confidence == 0.5
    assert rising.prediction.confidence == pytest.approx(0.1)


def test_the_receipt_names_a_baseline_and_no_id() -> None:
    answer = answered(question())
    assert answer is not None
    assert (answer.receipt.model, answer.receipt.model_version) == ("baseline/predictor", 0)
    assert answer.receipt.prediction_id == ""
    assert answer.receipt.notes[0].startswith("statistical baseline")
    assert "replies missing: left out of the sum where unknown, not counted as zero" in answer.receipt.notes


def test_both_forms_of_history_give_one_answer() -> None:
    messages, columns = question(), question()
    columns.ClearField("history")
    columns.history_columns.CopyFrom(pack_posts(posts_from_messages(messages.history)))
    assert answered(columns) == answered(messages)


def test_posts_without_a_count_are_left_out() -> None:
    request = question(40)
    for post in request.history[5:15]:
        post.ClearField("forwards")
        post.ClearField("reactions")
    answer = answered(request)
    assert answer is not None
    known = np.log1p(np.array([*range(5), *range(15, 40)]) + 3.0)
    assert answer.prediction.log_engagement == pytest.approx(np.median(known), rel=1e-6)


def test_a_version_that_must_answer_gets_no_baseline() -> None:
    request = question()
    request.model_version = 3
    assert answered(request) is None


def test_bytes_that_are_no_request_get_none() -> None:
    assert predict_engagement(b"\xff\xff") is None
    assert predict_engagement(b"") is None


def without_a_plan(request: Request) -> None:
    request.ClearField("planned")


def without_the_plans_hour(request: Request) -> None:
    request.planned.ClearField("hour_of_day")


def without_a_posts_hour(request: Request) -> None:
    request.history[3].ClearField("hour_of_day")


def with_hour_24(request: Request) -> None:
    request.history[7].hour_of_day = 24


def with_both_forms(request: Request) -> None:
    request.history_columns.CopyFrom(pack_posts(posts_from_messages(request.history)))


def with_neither_form(request: Request) -> None:
    request.ClearField("history")


def with_too_few_posts(request: Request) -> None:
    del request.history[19:]


def with_too_many_posts(request: Request) -> None:
    request.CopyFrom(question(101))


def with_too_few_counts(request: Request) -> None:
    for post in request.history[11:]:
        post.ClearField("forwards")
        post.ClearField("reactions")


def out_of_order(request: Request) -> None:
    request.history[4].published_time.seconds = 0


def unsettled(request: Request) -> None:
    request.planned.published_time.seconds = request.history[-1].published_time.seconds + DAY_S - 1


def with_a_negative_count(request: Request) -> None:
    request.history[2].views = -1


def with_a_long_id(request: Request) -> None:
    request.request_id = "x" * 129


def with_a_long_channel(request: Request) -> None:
    request.channel = "x" * 257


def with_columns_that_differ_in_length(request: Request) -> None:
    request.history_columns.CopyFrom(pack_posts(posts_from_messages(request.history)))
    request.ClearField("history")
    request.history_columns.forwards = b"1234"


@pytest.mark.parametrize(
    "change",
    [
        without_a_plan,
        without_the_plans_hour,
        without_a_posts_hour,
        with_hour_24,
        with_both_forms,
        with_neither_form,
        with_too_few_posts,
        with_too_many_posts,
        with_too_few_counts,
        out_of_order,
        unsettled,
        with_a_negative_count,
        with_a_long_id,
        with_a_long_channel,
        with_columns_that_differ_in_length,
    ],
)
def test_what_the_service_would_refuse_gets_no_baseline(change: Callable[[Request], None]) -> None:
    request = question()
    assert not is_refused_by_the_service(request)
    change(request)
    assert is_refused_by_the_service(request)
    assert answered(request) is None
