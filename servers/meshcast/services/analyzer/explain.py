"""Explanations: rounds of questions to the model about a content without its spans, all on one version."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meshcast.contents import Contents
from meshcast.runtime import Answer, RunFacts
from meshcast.services.analyzer.spans import Found, Place, Search, log_odds, variants

__all__ = ["Explained", "Judge", "explain"]

Floats = NDArray[np.float32]

Judge = Callable[[Contents, int], Awaitable[Answer]]
"""Asks a version (0: the one that serves) about contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What moved a judgement.

    Attributes:
        outputs: what the model gave for the content itself, each of shape (1,).
        spans: those that move it most, strongest first.
        without: probability when a span is missing, by span.
        typical: median size of the effects that were tried, in log-odds.
        tried: how many were.
        facts: of all runs.
    """

    outputs: dict[str, Floats]
    spans: list[Found]
    without: dict[Place, float]
    typical: float
    tried: int
    facts: RunFacts


async def explain(
    contents: Contents, judge: Judge, *, output: str, length_follows: bool, spans_max: int, version: int = 0
) -> Explained:
    """Asks about a content with and without its spans.

    Args:
        contents: one row.
        judge: asks the model; its first answer decides which version gives the others.
        output: which probability is explained.
        length_follows: see `spans.variants`.
        spans_max: most spans to name.
        version: that must answer; 0 for the one that serves.

    Raises:
        MeshError: as `judge`.
    """
    search = Search(contents)
    places = search.next_round()
    ran = await judge(Contents.joined([contents, variants(contents, places, length_follows=length_follows)]), version)
    facts, outputs = ran.facts, {name: array[:1] for name, array in ran.outputs.items()}
    base = log_odds(outputs[output])[0]
    left = ran.outputs[output][1:]
    without: dict[Place, float] = {}
    while True:
        without.update(zip(places, left.tolist(), strict=True))
        search.learn(places, (base - log_odds(left)).tolist())
        if not (places := search.next_round()):
            break
        ran = await judge(variants(contents, places, length_follows=length_follows), facts.version)
        facts, left = facts.and_of(ran.facts), ran.outputs[output]
    return Explained(
        outputs=outputs,
        spans=search.strongest(spans_max),
        without=without,
        typical=search.typical,
        tried=search.tried,
        facts=facts,
    )
