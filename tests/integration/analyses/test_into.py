"""Judgements streamed into a sink: each row once, though the stream ends in the middle."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.client import MeshClient
from meshcast.rpc import InvalidInput, NotReady
from meshcast.sinks import SqliteSink


async def test_every_text_stands_once_with_its_judgement(target: str, analyzer: Any, kit: Any, tmp_path: Path) -> None:
    texts = [f"won {'cup ' * (row % 3)}{row}" for row in range(95)]
    sink = SqliteSink(tmp_path / "judged.db")
    analyzer.break_at = {2: 99}
    async with MeshClient(target) as mesh:
        with pytest.raises(NotReady):
            await mesh.analyze_contents_into(sink, texts, stream_id="texts", chunk_rows=20, patience_s=0.0)
        analyzer.break_at = {}
        stored = await mesh.analyze_contents_into(sink, texts, stream_id="texts")
        assert (stored.rows, stored.rows_before, stored.rows_failed) == (95, 40, 0)
        with pytest.raises(InvalidInput, match="another source"):
            await mesh.analyze_contents_into(sink, [*texts[:-1], "other"], stream_id="texts")
    with closing(sink):
        sink.open("texts")
        (whole,) = sink.read()
    assert np.asarray(whole["row"]).tolist() == list(range(95))
    wanted = [kit.probability(kit.log_odds(text)) for text in texts]
    np.testing.assert_allclose(np.asarray(whole["viral"]), wanted, rtol=1e-6)
    assert len(set(whole["prediction_id"])) == 95
