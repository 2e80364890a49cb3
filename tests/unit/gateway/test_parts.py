"""Parts: the table of services that answer composite questions, held against the contract."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool

from meshcast.api.forecaster.v1 import forecaster_pb2
from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.api.type.v1.receipt_pb2 import GatewayReceipt, Receipt
from meshcast.gateway.parts import BY_FIELD, BY_PART, PART_NAMES, PARTS, PartKind

GROWTH = BY_PART[pb.PART_GROWTH]


@pytest.mark.parametrize("kind", BY_PART.values(), ids=lambda kind: kind.field)
def test_every_line_fits_the_contract(kind: PartKind) -> None:
    service = descriptor_pool.Default().FindServiceByName(kind.service)
    method = service.methods_by_name[kind.method.rpartition("/")[2]]
    assert "request_id" in method.input_type.fields_by_name
    for questions in (pb.PredictComprehensiveRequest, pb.RoutePredictionRequest):
        assert questions.DESCRIPTOR.fields_by_name[kind.field].message_type == method.input_type
    for answers in (pb.PredictComprehensiveResponse, pb.RoutePredictionResponse):
        assert answers.DESCRIPTOR.fields_by_name[kind.field].message_type == method.output_type


def test_every_question_of_the_contract_has_a_line() -> None:
    questions = {field.name for field in pb.RoutePredictionRequest.DESCRIPTOR.oneofs_by_name["question"].fields}
    answers = {field.name for field in pb.PredictComprehensiveResponse.DESCRIPTOR.oneofs_by_name["answer"].fields}
    assert questions == answers == BY_FIELD.keys()


def test_parts_are_named_as_in_the_contract() -> None:
    assert PARTS == (pb.PART_ENGAGEMENT, pb.PART_GROWTH, pb.PART_CONTENT, pb.PART_DRIFT)
    assert [*PART_NAMES.values()] == ["engagement", "growth", "content", "drift"]
    assert {part: kind.field for part, kind in BY_PART.items()}.items() <= PART_NAMES.items()


def test_a_question_takes_the_request_id_of_the_whole_unless_it_has_its_own() -> None:
    request = pb.PredictComprehensiveRequest(request_id="whole")
    assert GROWTH.question(request) is None
    request.growth.series = "a"
    assert GROWTH.question(request) == forecaster_pb2.ForecastGrowthRequest(series="a", request_id="whole")
    assert not request.growth.request_id  # the caller's message is left as it is
    request.growth.request_id = "own"
    assert GROWTH.question(request) == request.growth


def test_an_answer_without_any_field_is_an_answer() -> None:
    receipt = Receipt(gateway=GatewayReceipt(attempts=1))
    for response in (GROWTH.answer(b"", receipt), GROWTH.routed_answer(b"", receipt)):
        assert response.WhichOneof("answer") == "growth"
        assert response.receipt == receipt
