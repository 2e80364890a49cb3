from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from meshcast.rpc import InvalidInput
from meshcast.runtime import Repository
from meshcast.services.forecaster import SERVICE
from meshcast.services.forecaster.publish import train_file


def visits(folder: Path, days: int) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        f"{date(2024, 1, 1) + timedelta(days=k)},{rng.poisson(100 + 50 * (k % 7 == 0))}"
        for k in range(days)
        if k % 20  # some days are missing
    ]
    file = folder / "visits.csv"
    file.write_text("date,value\n" + "\n".join(rows) + "\n", "utf-8")
    return file


@pytest.mark.slow
def test_one_series_of_four_months_becomes_a_version_with_a_card(tmp_path: Path) -> None:
    told: set[str] = set()
    published = train_file(
        visits(tmp_path, 130),
        tmp_path / "repository",
        options={"steps": "4", "batch_rows": "8", "synthetic_share": "0", "checks": "1"},
        progress=lambda doing, done, total: told.add(doing),
    )
    assert told == {"training", "exporting and proving"}
    assert "openvino/cpu/f32" not in published.refused and "onnxruntime/cpu/f32" not in published.refused
    assert "1 series of 129 days" in published.card and "| **this model** |" in published.card
    repository = Repository(tmp_path / "repository", shipped=SERVICE.shipped)
    assert published.version in repository.versions("forecaster")
    assert repository.metrics("forecaster", published.version)["test.mase.model"] > 0


def test_too_short_a_series_is_refused_with_what_training_needs(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"112 days.*longest spans 59"):
        train_file(visits(tmp_path, 60), tmp_path / "repository", options={})
    assert not (tmp_path / "repository").exists()


def test_an_unknown_option_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="epochs"):
        train_file(tmp_path / "absent.csv", tmp_path / "repository", options={"epochs": "3"})
