"""Requests in JSON that cannot be read: the field at fault and what it must be, in no library's words."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message

from meshcast.api.analyzer.v1 import analyzer_pb2
from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.gateway.http.misread import misread

CONTENT = "is no field of meshcast.api.analyzer.v1.Content, which has text, "


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        (b'{"content":{"text":"x","hourOfDay":"six"}}', "content.hour_of_day", "must be a whole number within 32 bits"),
        (b'{"content":{"hour_of_day":true}}', "content.hour_of_day", "must be a whole number within 32 bits"),
        (b'{"content":{"text":5}}', "content.text", "must be a text"),
        (b'{"content":{"text":"\\ud800"}}', "content.text", "holds half a character (a lone surrogate)"),
        (b'{"content":5}', "content", "must be an object"),
        (b'{"contents":{}}', "contents", "is no field of meshcast.api.analyzer.v1.AnalyzeContentRequest, which has "),
        (b'{"content":{"tExt":1}}', "content.tExt", CONTENT),
        (b'{"content":{"text":"a","text":"b"}}', "body", "has the key text twice in one object"),
        (b'{"content":{"hourOfDay":1,"hour_of_day":2}}', "content", "gives a field twice"),
        (b"[]", "body", "must be an object"),
        (b"null", "body", "must be an object"),
        (b" \n", "body", "is empty; send {}"),
        (b"{", "body", "is no JSON from line 1, column 2 on"),
        (b"\xff", "body", "is no UTF-8"),
        (b"[" * 100_000, "body", "is nested too deeply"),
        (b'{"content":{"hourOfDay":' + b"1" * 5_000 + b"}}", "body", "is no JSON that can be read"),
    ],
)
def test_what_is_wrong_is_told(text: bytes, field: str, why: str) -> None:
    check(analyzer_pb2.AnalyzeContentRequest, text, field, why)


@pytest.mark.parametrize(
    ("text", "field", "why"),
    [
        (b'{"parts":"x"}', "parts", "must be a list"),
        (b'{"parts":["PART_CONTENT","x"]}', "parts[1]", "must be one of PART_UNSPECIFIED, PART_ENGAGEMENT, "),
        (b'{"content":{"content":{"text":[]}}}', "content.content.text", "must be a text"),
    ],
)
def test_the_path_leads_into_lists_and_messages(text: bytes, field: str, why: str) -> None:
    check(gateway_pb2.PredictComprehensiveRequest, text, field, why)


def check(kind: type[Message], text: bytes, field: str, why: str) -> None:
    found = misread(text, kind, descriptor_pool.Default())
    assert found.field == field
    assert found.why.startswith(why)
