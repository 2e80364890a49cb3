import shutil
from pathlib import Path
from typing import Any

import pytest

from meshcast.api.oip.v2 import model_config_pb2
from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc import AlreadyExists, CorruptData, InvalidInput, NotFound
from meshcast.runtime import Evidence, Recorded, Repository, VersionPolicy


def test_the_layout_is_tritons_with_nothing_else_inside(small: Any) -> None:
    models = small.root / "models"
    files = sorted(str(path.relative_to(models)) for path in models.rglob("*") if path.is_file())
    assert files == ["small/1/model.onnx", "small/2/model.onnx", "small/config.pbtxt"]


def test_the_configuration_tells_triton_what_the_model_takes(small: Any) -> None:
    config = Repository(small.root).config("small")
    assert (config.name, config.backend, config.max_batch_size) == ("small", "onnxruntime", 64)
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [
        ("history", [24, 8]),
        ("mask", [24]),
        ("planned", [4]),
    ]
    assert config.input[0].data_type == model_config_pb2.TYPE_FP32
    assert list(config.output[0].dims) == [1] and config.output[0].HasField("reshape")  # a scalar a row
    assert Repository(small.root).policy("small") == VersionPolicy(latest=1)


def test_versions_count_up_and_one_that_exists_is_not_replaced(repository: Any) -> None:
    assert repository.add(2) == 2
    assert repository.add(1, version=7) == 7
    assert repository.add(1) == 8
    assert repository.versions("small") == (1, 2, 7, 8)
    assert repository.index() == (("small", 1), ("small", 2), ("small", 7), ("small", 8))
    with pytest.raises(AlreadyExists):
        repository.add(1, version=2)
    repository.remove("small", 7)
    assert repository.versions("small") == (1, 2, 8)


def test_a_version_that_fails_to_be_written_leaves_no_trace(repository: Any) -> None:
    before = sorted(repository.root.rglob("*"))
    with (
        pytest.raises(ZeroDivisionError),
        repository.install("small", repository.evidence("small", 1).signature) as new,
    ):
        (new.version_dir / "model.onnx").write_bytes(b"half")
        raise ZeroDivisionError
    assert sorted(repository.root.rglob("*")) == before


def test_unknown_names_and_versions_are_told_apart(repository: Any) -> None:
    with pytest.raises(NotFound) as caught:
        repository.paths("other", 1)
    assert caught.value.reason == error_reason_pb2.ERROR_REASON_MODEL_UNKNOWN
    with pytest.raises(NotFound) as caught:
        repository.paths("small", 5)
    assert caught.value.reason == error_reason_pb2.ERROR_REASON_VERSION_UNKNOWN
    with pytest.raises(InvalidInput):
        repository.paths("../small", 1)


def test_a_repository_that_is_not_there_is_empty(tmp_path: Path) -> None:
    empty = Repository(tmp_path / "none")
    assert empty.names() == () and empty.versions("small") == ()


def test_what_ships_answers_until_the_user_has_a_version_of_the_model(small: Any, tmp_path: Path) -> None:
    own = Repository(tmp_path / "own", shipped=small.root)
    assert own.names() == ("small",) and own.versions("small") == (1, 2)
    assert own.card("small", 2) == "# Small 2" and own.config("small").name == "small"
    source = own.paths("small", 1)
    with own.install("small", small.signature) as staged:
        shutil.copytree(source.version_dir, staged.version_dir, dirs_exist_ok=True)
        shutil.copytree(source.meta_dir, staged.meta_dir, dirs_exist_ok=True)
    assert staged.version == 3  # a number never means two models
    assert own.versions("small") == (3,) and own.card("small", 3) == "# Small 1"
    assert own.card("small", 2) == "# Small 2"  # it may be loaded still
    with pytest.raises(NotFound) as unknown:
        own.paths("small", 9)
    assert unknown.value.message == "Model small has no version 9 in the repository; it has 3."
    with pytest.raises(NotFound):
        own.remove("small", 1)
    way_back = own.version_unknown("small", 2).message
    assert "Version 2 ships" in way_back and "move models/small out of the repository" in way_back
    (own.root / "models" / "small").rename(tmp_path / "kept")
    assert own.versions("small") == (1, 2)  # as it says
    assert Repository(small.root).versions("small") == (1, 2)


def test_damaged_files_have_clear_errors(repository: Any) -> None:
    meta = repository.paths("small", 1).meta_dir
    for name, read in (("recorded.npz", Recorded.load), ("export.json", Evidence.load)):
        whole = (meta / name).read_bytes()
        for content in (b"", whole[: len(whole) // 2]):
            (meta / name).write_bytes(content)
            with pytest.raises(CorruptData, match=name):
                read(meta / name)
        (meta / name).unlink()
        with pytest.raises(CorruptData, match=name) as missing:
            read(meta / name)
        assert str(meta) not in missing.value.message  # the path is the host's own business
    (repository.root / "models" / "small" / "config.pbtxt").write_text("name: 3 {")
    with pytest.raises(CorruptData, match=r"config\.pbtxt"):
        repository.config("small")


@pytest.mark.parametrize(
    ("policy", "picked"),
    [
        (VersionPolicy(), (5,)),
        (VersionPolicy(latest=2), (3, 5)),
        (VersionPolicy(latest=0, all=True), (1, 3, 5)),
        (VersionPolicy(latest=0, specific=(1, 4)), (1,)),
        (VersionPolicy(latest=9), (1, 3, 5)),
    ],
)
def test_a_policy_picks_versions(policy: VersionPolicy, picked: tuple[int, ...]) -> None:
    assert policy.pick((1, 3, 5)) == picked


def test_the_card_and_the_metrics_are_read_back(small: Any) -> None:
    repository = Repository(small.root)
    assert repository.card("small", 2) == "# Small 2"
    assert repository.metrics("small", 2) == {"test.mae": 0.2}
