"""Answers about texts: parts are put together, and what contradicts the question is a peer's bug."""

import numpy as np
import pytest

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.api.type.v1 import status_pb2
from meshcast.client.analyzer_calls import REQUEST_BYTES, parts
from meshcast.client.judgements import ContentChunk
from meshcast.client.text_answers import Classification, Embeddings
from meshcast.columns import pack_floats
from meshcast.rpc import Internal, InvalidInput, prediction_id, to_item


def embedded(rows: int, dimensions: int = 2, cut: tuple[int, ...] = ()) -> pb.EmbedTextsResponse:
    vectors = np.arange(rows * dimensions, dtype=np.float32)
    return pb.EmbedTextsResponse(rows=rows, dimensions=dimensions, embeddings=pack_floats(vectors), cut=cut)


def test_parts_of_embeddings_are_put_together() -> None:
    found = Embeddings.of([embedded(2, cut=(1,)), embedded(3, cut=(0, 2))], [2, 3])
    assert found.vectors.tolist() == [[0, 1], [2, 3], [0, 1], [2, 3], [4, 5]]
    assert found.cut.tolist() == [1, 2, 4]
    assert len(found) == 5
    assert np.asarray(found, dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize(
    ("responses", "rows"), [([embedded(2)], [3]), ([embedded(2), embedded(2, dimensions=3)], [2, 2])]
)
def test_embeddings_of_other_rows_or_dimensions_are_a_bug_of_the_peer(
    responses: list[pb.EmbedTextsResponse], rows: list[int]
) -> None:
    with pytest.raises(Internal, match="texts with"):
        Embeddings.of(responses, rows)


@pytest.mark.parametrize(
    "response",
    [
        pb.ClassifyTextsResponse(labels=["a", "b"], best=[0], scores=pack_floats(np.zeros(4))),
        pb.ClassifyTextsResponse(labels=["a", "b"], best=[0, 2], scores=pack_floats(np.zeros(4))),
        pb.ClassifyTextsResponse(labels=["a", "b"], best=[0, 1], scores=pack_floats(np.zeros(3))),
    ],
)
def test_classes_that_contradict_the_question_are_a_bug_of_the_peer(response: pb.ClassifyTextsResponse) -> None:
    with pytest.raises(Internal):
        Classification.of([response], [2])


def test_a_chunk_of_judgements_names_its_rows() -> None:
    response = pb.AnalyzeContentStreamResponse(
        sequence=4,
        rows=2,
        above_median=pack_floats(np.array([0.5, np.nan])),
        viral=pack_floats(np.array([0.25, np.nan])),
        characters_read=np.array([7, 0], dtype="<i4").tobytes(),
        failed=[status_pb2.RowStatus(row=1, status=to_item(InvalidInput("no", field="contents.text[1]")))],
    )
    response.receipt.prediction_id = "p"
    rows = np.array([10, 11])
    chunk = ContentChunk.of(response, rows, 0)
    first, second = chunk.judgements()
    assert not isinstance(first, Exception)
    assert (first.viral, first.characters_read, first.receipt.prediction_id) == (0.25, 7, "p.0")
    assert isinstance(second, InvalidInput)
    named = ContentChunk.of(response, rows, 0, ("x", "y"))
    assert named.prediction_id(1) == prediction_id("y")
    for wrong in (np.array([1]), np.array([1, 2, 3])):
        with pytest.raises(Internal, match="answered a chunk of"):
            ContentChunk.of(response, wrong, 0)
    response.failed[0].row = 2
    with pytest.raises(Internal, match="outside of the chunk"):
        ContentChunk.of(response, rows, 0)


def test_a_refused_chunk_has_no_numbers() -> None:
    response = pb.AnalyzeContentStreamResponse(status=to_item(InvalidInput("no")))
    chunk = ContentChunk.of(response, np.arange(3), 0)
    assert isinstance(chunk.error, InvalidInput)
    assert np.isnan(chunk.viral).all() and not chunk.is_ok.any()
    assert chunk.judgements() == [chunk.error] * 3


def test_requests_end_by_rows_and_by_size() -> None:
    assert list(parts([], 3)) == []
    assert [len(part) for part in parts([1] * 7, 3)] == [3, 3, 1]
    half = REQUEST_BYTES // 2
    assert [len(part) for part in parts([half] * 5, 100)] == [2, 2, 1]
    assert [len(part) for part in parts([half] * 3, 100, around=1)] == [1, 1, 1]
    assert [len(part) for part in parts([1, 9 * half, 1], 100)] == [1, 1, 1], "what is too large goes alone"
