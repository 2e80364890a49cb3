"""What the encoder remembers of versions that were trained here."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from meshcast.services.drift.encoder import Encoder


def encoder(record: Path) -> Encoder:
    return Encoder(cast(Any, None), ThreadPoolExecutor(1), record, default_deadline_s=1.0)


def test_trained_versions_are_remembered_by_the_next_process(tmp_path: Path) -> None:
    record = tmp_path / "autoencoders.json"
    assert encoder(record)._remembered([1, 2]) == {2}
    assert encoder(record)._remembered([3]) == {2, 3}
    assert [path.name for path in tmp_path.iterdir()] == [record.name]


def test_where_nothing_can_be_written_the_process_remembers(tmp_path: Path) -> None:
    one = encoder(tmp_path / "nowhere" / "autoencoders.json")
    assert one._remembered([2]) == {2}
    assert one._remembered([]) == {2}
