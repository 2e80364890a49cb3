"""A file of rows becomes a version of the autoencoder with its card; what ships is sound."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from meshcast.runtime import Repository, onnxruntime
from meshcast.runtime.evidence import ONNX
from meshcast.runtime.session import Backend, SessionOptions
from meshcast.services.drift.features import learn_and_held_out
from meshcast.services.drift.signature import AUTOENCODER, REFERENCE_SHIPPED, SIGNATURE


@pytest.mark.slow
def test_a_file_of_rows_becomes_a_version_with_a_card(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from meshcast.services.drift.publish import train_file

    rng = np.random.default_rng(0)
    file = tmp_path / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("amount", "twice", "kind", "region"))
        for _ in range(200):
            amount = rng.normal()
            writer.writerow((amount, 2 * amount, "ab"[int(amount > 0)], rng.choice(["north", "south", ""])))
    told: set[str] = set()
    published = train_file(
        file,
        tmp_path / "repository",
        options={"epochs": "2"},
        progress=lambda doing, done, total: told.add(doing),
    )
    assert told == {"training", "exporting and proving"}
    assert "openvino/cpu/f32" not in published.refused and "onnxruntime/cpu/f32" not in published.refused
    assert "200 rows of 4 columns" in published.card and "| **this model** |" in published.card
    repository = Repository(tmp_path / "repository", shipped=AUTOENCODER.shipped)
    assert repository.versions("drift") == (2,)  # 1 ships
    assert repository.metrics("drift", 2)["test.error"] > 0


def test_the_shipped_reference_is_the_one_that_the_shipped_version_was_trained_on() -> None:
    assert REFERENCE_SHIPPED.stat().st_size <= 1 << 20 and AUTOENCODER.shipped is not None
    with np.load(REFERENCE_SHIPPED, allow_pickle=False) as arrays:
        columns, rows, held_out = arrays["columns"].tolist(), arrays["rows"], arrays["held_out"]
    assert rows.dtype == np.float32 and rows.shape[1] == len(columns) and len(set(columns)) == len(columns)
    np.testing.assert_array_equal(held_out, learn_and_held_out(len(rows), 0)[1])
    repository = Repository(AUTOENCODER.shipped)
    paths = repository.paths("drift", 1)
    session = onnxruntime.open_session(
        paths.version_dir / ONNX, SIGNATURE, Backend(runtime="onnxruntime"), SessionOptions()
    )
    outputs = session.run(SIGNATURE.padded({"row": rows[held_out]}))
    metrics = json.loads((paths.meta_dir / "metrics.json").read_text())
    assert outputs["error"].mean() == pytest.approx(metrics["test.error"], rel=1e-3)
    np.testing.assert_allclose(outputs["code"].var(axis=0), 1, atol=0.5)
    wider = session.run(SIGNATURE.at_lengths({"row": rows[held_out]}, (128,)))
    np.testing.assert_array_equal(wider["error"], outputs["error"])
    session.close()
