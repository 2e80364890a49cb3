"""What is said of posts that were not predicted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from meshcast.cli.predictions import PredictionTable
from meshcast.cli.problem import ExitCode
from meshcast.posts import read_posts
from meshcast.rpc import InvalidInput, MeshError


def chunk(*rows: int, failed: dict[int, MeshError]) -> Any:
    return cast(Any, SimpleNamespace(error=None, rows=np.array(rows), failed=failed))


def test_refused_posts_are_told_by_reason_with_how_many_and_the_first(tmp_path: Path) -> None:
    file = tmp_path / "posts.csv"
    lines = [f"2024-01-{day:02d}T10:00:00Z,{day}" for day in range(1, 6)]
    file.write_text("\n".join(("published_at,content_length", *lines)))
    table = PredictionTable(posts=read_posts(file), actual=np.zeros(5), chunks=[])
    few = [InvalidInput(f"start[{n}] has few", violations=[(f"start[{n}]", "has few")]) for n in range(2)]
    table.add(chunk(0, 1, 2, failed={1: InvalidInput("odd", violations=[("x", "is odd")])}))
    table.add(chunk(3, 4, failed=dict(enumerate(few))))
    problem = table.refusal(5)
    assert (problem.message, problem.exit_code) == ("3 of 5 posts were refused", ExitCode.REFUSED)
    assert problem.details == (
        "2 x has few (first the post of 2024-01-04 10:00 UTC)",
        "1 x is odd (first the post of 2024-01-02 10:00 UTC)",
    )
