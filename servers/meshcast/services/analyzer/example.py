"""Example of the analyzer's questions: made-up posts, as one text or as a chunk of them."""

import numpy as np
from numpy.typing import NDArray

from meshcast.api.analyzer.v1 import analyzer_pb2 as pb
from meshcast.columns import unpack_floats
from meshcast.contents import UNKNOWN_HOUR, Contents, content_message, pack_contents
from meshcast.runtime import Arrays, ExampleCall, ServiceExample
from meshcast.services.analyzer.features import padded, rows
from meshcast.services.analyzer.questions import chunk_question, single_question
from meshcast.services.analyzer.service import CHUNK_ROWS_MAX

__all__ = ["EXAMPLE"]

_WORDS = (
    "we will never forget this great day thank you for joining us live tonight big news about jobs and the vote "
    "watch the new video please share it with friends what do you think 🎉 ❤ #community @team https://example.com/a"
).split()
_TITLES = ("", "", "Ten things to know before the vote", "Live: the speech from the capital")

Floats = NDArray[np.float32]


def _contents(posts: int, seed: int) -> Contents:
    """Posts of 4 to 40 words, one in three with media, one in eight without a known hour."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(_WORDS, rng.integers(4, 41)).tolist()).capitalize() + "." for _ in range(posts)]
    hours = np.where(rng.random(posts) < 1 / 8, UNKNOWN_HOUR, rng.integers(0, 24, posts))
    titles = [_TITLES[pick] for pick in rng.integers(0, len(_TITLES), posts).tolist()]
    return Contents.of(texts, title=titles, has_media=rng.random(posts) < 1 / 3, hour_of_day=hours)


def _request(rows: int, seed: int) -> pb.AnalyzeContentRequest:
    """One post; `rows` is 1."""
    return pb.AnalyzeContentRequest(content=content_message(_contents(1, seed), 0))


def _chunk(rows: int, seed: int) -> pb.AnalyzeContentStreamRequest:
    """So many posts."""
    return pb.AnalyzeContentStreamRequest(contents=pack_contents(_contents(rows, seed)))


def _tensors_of(contents: Contents) -> Arrays:
    return padded(rows(contents))


def _outputs(answer: pb.AnalyzeContentResponse) -> dict[str, Floats]:
    return {
        "above_median": np.array([answer.judgement.above_median], dtype=np.float32),
        "viral": np.array([answer.judgement.viral], dtype=np.float32),
    }


def _chunk_outputs(answer: pb.AnalyzeContentStreamResponse) -> dict[str, Floats]:
    return {name: unpack_floats(getattr(answer, name), (answer.rows,), name) for name in ("above_median", "viral")}


def _bad() -> pb.AnalyzeContentRequest:
    request = _request(1, 0)
    request.content.hour_of_day = 24
    return request


def _bad_chunk() -> pb.AnalyzeContentStreamRequest:
    request = _chunk(2, 0)
    request.contents.rows = 0
    return request


EXAMPLE = ServiceExample(
    single=ExampleCall(
        method="AnalyzeContent",
        request=_request,
        tensors=lambda request: _tensors_of(single_question(request).contents),
        outputs=_outputs,
        bad=_bad,
        bad_field="content.hour_of_day",
    ),
    stream=ExampleCall(
        method="AnalyzeContentStream",
        request=_chunk,
        tensors=lambda request: _tensors_of(chunk_question(request, rows_max=CHUNK_ROWS_MAX).contents),
        outputs=_chunk_outputs,
        bad=_bad_chunk,
        bad_field="contents.rows",
        rows_max=CHUNK_ROWS_MAX,
    ),
)
