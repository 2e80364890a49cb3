import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from meshcast.rpc import InvalidInput
from meshcast.runtime import Repository
from meshcast.services.analyzer import SERVICE
from meshcast.services.analyzer.publish import train_file


def posts(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    file = folder / "posts.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("published_at", "text", "title", "has_media", "forwards", "reactions"))
        for k in range(count):
            good = rng.random() < 0.5
            words = ["wonderful" if good else "boring", *rng.choice(["river", "road", "house", "tree", "day"], 6)]
            when = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=3 * k)
            reactions = round(float(np.exp(4 + 0.7 * good + rng.normal(0, 0.3))))
            writer.writerow((when.isoformat(), " ".join(words), "A title" if k % 3 else "", k % 2, k % 5, reactions))
    return file


@pytest.mark.slow
def test_a_posts_file_becomes_a_version_with_a_card(tmp_path: Path) -> None:
    told: set[str] = set()
    published = train_file(
        posts(tmp_path, 700),
        tmp_path / "repository",
        options={"rows_min": "300", "steps_min": "8", "epochs": "1", "folds": "2", "train_before": "2024-03-01"},
        progress=lambda doing, done, total: told.add(doing),
    )
    assert told == {"reading texts", "fitting n-grams", "training", "exporting and proving"}
    assert "openvino/cpu/f32" not in published.refused and "onnxruntime/cpu/f32" not in published.refused
    assert "700 posts of 1 channel" in published.card and "| **this model** |" in published.card
    repository = Repository(tmp_path / "repository", shipped=SERVICE.shipped)
    assert published.version in repository.versions("analyzer")
    assert 0.6 < repository.metrics("analyzer", published.version)["test.above_median.auc"] <= 1


def test_too_few_posts_are_refused_with_what_training_needs(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match="too few posts: 73 have an outcome and a usable history, training needs 600"
    ):
        train_file(posts(tmp_path, 100), tmp_path / "repository", options={})
    assert not (tmp_path / "repository").exists()


def test_a_file_is_read_in_the_encoding_that_is_named(tmp_path: Path) -> None:
    file = posts(tmp_path, 100)
    file.write_bytes(file.read_bytes().replace(b"river", b"for\xeat"))
    with pytest.raises(InvalidInput, match="is not UTF-8"):
        train_file(file, tmp_path / "repository", options={})
    for way in ({"encoding": "latin-1"}, {"replace_invalid": True}):
        with pytest.raises(InvalidInput, match="too few posts"):  # it was read
            train_file(file, tmp_path / "repository", options={}, **way)


def test_a_wrong_option_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="layers"):
        train_file(tmp_path / "absent.csv", tmp_path / "repository", options={"layers": "3"})
    with pytest.raises(InvalidInput, match="train_before must be an ISO 8601 time"):
        train_file(tmp_path / "absent.csv", tmp_path / "repository", options={"train_before": "yesterday"})
