"""Repository of models on disk: Triton's layout, with our evidence beside it.

<root>/models/<name>/config.pbtxt           what Triton takes as its model repository
<root>/models/<name>/<version>/model.onnx
<root>/meta/<name>/<version>/               openvino.xml, openvino.bin, export.json, recorded.npz, card.md, metrics.json
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from meshcast.api.oip.v2 import model_config_pb2
from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import AlreadyExists, InvalidInput, NotFound
from meshcast.runtime.candidates import VersionPaths
from meshcast.runtime.evidence import CARD, EVIDENCE, METRICS, Evidence
from meshcast.runtime.session import artefact_corrupt
from meshcast.runtime.signature import Signature

__all__ = ["Repository", "VersionPolicy", "model_config"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")  # what an int64 surely holds


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPolicy:
    """Which versions of a model are loaded; Triton's words. The highest of them is live.

    Attributes:
        latest: how many of the highest versions; 0 where another choice is made.
        specific: exactly these, where they exist.
        all: every version.
    """

    latest: int = 1
    specific: tuple[int, ...] = ()
    all: bool = False

    def pick(self, versions: tuple[int, ...]) -> tuple[int, ...]:
        """The versions to be loaded, ascending."""
        if self.all:
            return versions
        if self.specific:
            return tuple(version for version in versions if version in self.specific)
        return versions[-self.latest :] if self.latest else ()

    @classmethod
    def of(cls, config: model_config_pb2.ModelConfig) -> "VersionPolicy":
        """The policy that a configuration states; the latest one when it states none."""
        policy = config.version_policy
        match policy.WhichOneof("policy_choice"):
            case "all":
                return cls(latest=0, all=True)
            case "specific":
                return cls(latest=0, specific=tuple(policy.specific.versions))
            case "latest":
                return cls(latest=max(1, policy.latest.num_versions))
            case _:
                return cls()


class Repository:
    """Models on disk. Reads see whole versions only: a version appears, and goes, by one rename.

    Args:
        root: folder that holds `models/` and `meta/`; it may be missing.
        shipped: a second such folder, only read, for models of which `root` has no version. Asked at every read, so
            that the first version of the user's own is found by a process that serves the shipped one.
    """

    def __init__(self, root: Path, *, shipped: Path | None = None) -> None:
        self.root = root
        self._models = root / "models"
        self._meta = root / "meta"
        self._shipped = None if shipped is None else Repository(shipped)

    def names(self) -> tuple[str, ...]:
        """Models with at least one version, in order."""
        found = set() if self._shipped is None else set(self._shipped.names())
        if self._models.is_dir():
            found |= {entry.name for entry in self._models.iterdir() if _NAME.fullmatch(entry.name)}
        return tuple(sorted(name for name in found if self.versions(name)))

    def versions(self, name: str, *, with_shipped: bool = False) -> tuple[int, ...]:
        """Versions of a model, ascending; empty when there is no such model.

        Args:
            name: of the model.
            with_shipped: True for those that ship beside those of `root`, in whose place a version of `root` stands.
        """
        own = self._own_versions(name)
        if self._shipped is None or (own and not with_shipped):
            return own
        return tuple(sorted({*own, *self._shipped.versions(name)}))

    def _own_versions(self, name: str) -> tuple[int, ...]:
        try:
            entries = [entry.name for entry in (self._models / _checked(name)).iterdir() if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(sorted(int(number) for number in entries if _VERSION.fullmatch(number)))

    def index(self) -> tuple[tuple[str, int], ...]:
        """Every (model, version), in order."""
        return tuple((name, version) for name in self.names() for version in self.versions(name))

    def paths(self, name: str, version: int) -> VersionPaths:
        """Where a version lies.

        Raises:
            NotFound: MODEL_UNKNOWN or VERSION_UNKNOWN.
        """
        own = self._own_versions(name)
        if version not in own and self._shipped is not None and (not own or version in self._shipped.versions(name)):
            return self._shipped.paths(name, version)  # it may be loaded still, although `root` has the model by now
        versions = self.versions(name)
        if not versions:
            raise model_unknown(name)
        if version not in versions:
            raise self.version_unknown(name, version)
        return self._paths(name, version)

    def version_unknown(self, name: str, version: int) -> NotFound:
        """The error for a version that the repository lacks; of one that ships, with the way back to it."""
        has = ", ".join(map(str, self.versions(name))) or "none"
        message = f"Model {name} has no version {version} in the repository; it has {has}."
        if self._shipped is not None and version in self._shipped.versions(name):
            message += (
                f" Version {version} ships with Meshcast and serves where the repository has no version of its own:"
                f" move models/{name} out of the repository (repository/ in the state folder, unless the settings"
                " name another) and load again."
            )
        return NotFound(message, reason=error_reason_pb2.ERROR_REASON_VERSION_UNKNOWN, model=name, version=version)

    def config(self, name: str) -> model_config_pb2.ModelConfig:
        """The model's `config.pbtxt`.

        Raises:
            NotFound: there is no such model.
            CorruptData: the file is no model configuration.
        """
        path = self._models / _checked(name) / "config.pbtxt"
        if self._shipped is not None and not self._own_versions(name):
            return self._shipped.config(name)
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            if not self.versions(name):
                raise model_unknown(name) from None
            return model_config_pb2.ModelConfig(name=name)
        except OSError as error:
            raise artefact_corrupt(path, error.strerror or "it cannot be read") from error
        except UnicodeDecodeError as error:
            raise artefact_corrupt(path, str(error)) from error
        try:
            config = text_format.Parse(text, model_config_pb2.ModelConfig())
        except text_format.ParseError as error:
            raise artefact_corrupt(path, str(error)) from error
        if not config.name:
            config.name = name
        return config

    def policy(self, name: str) -> VersionPolicy:
        """Which versions the model's configuration asks for."""
        return VersionPolicy.of(self.config(name))

    def evidence(self, name: str, version: int) -> Evidence:
        """The evidence of a version's export.

        Raises:
            NotFound: no such version.
            CorruptData: the evidence is missing or damaged.
        """
        return Evidence.load(self.paths(name, version).meta_dir / EVIDENCE)

    def card(self, name: str, version: int) -> str:
        """The version's model card, in Markdown; empty when it has none."""
        try:
            return (self.paths(name, version).meta_dir / CARD).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def metrics(self, name: str, version: int) -> Mapping[str, float]:
        """Figures that the version's training wrote, by name; empty when it wrote none."""
        try:
            values = json.loads((self.paths(name, version).meta_dir / METRICS).read_text("utf-8"))
            return {str(key): float(value) for key, value in values.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    @contextlib.contextmanager
    def install(
        self, name: str, signature: Signature, *, version: int | None = None, policy: VersionPolicy | None = None
    ) -> Iterator["Staged"]:
        """A new version that appears whole, or not at all.

        Write the files into the folders of the `Staged` that is given (`export.export_model` does); leaving the block
        puts them in place, an exception throws them away.

        Args:
            name: letters, digits, `.`, `_`, `-`.
            signature: of the model, for its configuration.
            version: number; None: one more than the highest, those that ship included.
            policy: which versions are loaded; None keeps what the model has, the latest at first.

        Raises:
            AlreadyExists: the version is there already.
        """
        _checked(name)
        (self._models / name).mkdir(parents=True, exist_ok=True)
        (self._meta / name).mkdir(parents=True, exist_ok=True)
        # Staged beside `models`: the same file system, and out of sight of a Triton that watches the folder.
        with tempfile.TemporaryDirectory(prefix=".staging-", dir=self.root) as folder:
            staged = Staged(version_dir=Path(folder) / "version", meta_dir=Path(folder) / "meta")
            staged.version_dir.mkdir()
            staged.meta_dir.mkdir()
            yield staged
            with self._locked():
                number = version if version is not None else self._next_version(name)
                target = self._paths(name, number)
                if target.version_dir.exists():
                    raise AlreadyExists(f"Model {name} has a version {number} already.", name=f"{name}/{number}")
                _sync(Path(folder))
                if target.meta_dir.exists():  # left by an install that was killed between the two renames
                    shutil.rmtree(target.meta_dir)
                staged.meta_dir.rename(target.meta_dir)
                self._write_config(name, signature, policy)
                staged.version_dir.rename(target.version_dir)
            staged.version = number

    def remove(self, name: str, version: int) -> None:
        """Deletes a version from disk; a process that has it loaded goes on serving it.

        Raises:
            NotFound: no such version; one that ships cannot be removed.
        """
        with self._locked():
            paths = Repository(self.root).paths(name, version)
            with tempfile.TemporaryDirectory(prefix=".removed-", dir=self.root) as folder:
                paths.version_dir.rename(Path(folder) / "version")
                if paths.meta_dir.exists():
                    paths.meta_dir.rename(Path(folder) / "meta")

    def _next_version(self, name: str) -> int:
        """Counts on from what ships, so that a version's number never means two models on one host."""
        shipped = () if self._shipped is None else self._shipped.versions(name)
        return max((*self._own_versions(name), *shipped), default=0) + 1

    def _paths(self, name: str, version: int) -> VersionPaths:
        return VersionPaths(version_dir=self._models / name / str(version), meta_dir=self._meta / name / str(version))

    def _write_config(self, name: str, signature: Signature, policy: VersionPolicy | None) -> None:
        path = self._models / name / "config.pbtxt"
        if policy is None:
            policy = self.policy(name) if path.exists() else VersionPolicy()
        text = text_format.MessageToString(model_config(name, signature, policy))
        temporary = self.root / f".config-{os.getpid()}"
        temporary.write_text(text, "utf-8")
        temporary.replace(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keeps other processes from installing at the same moment."""
        with (self.root / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@dataclass(kw_only=True)
class Staged:
    """Folders of a version that is being written, and its number once it is in place (0 before)."""

    version_dir: Path
    meta_dir: Path
    version: int = 0


def model_config(name: str, signature: Signature, policy: VersionPolicy) -> model_config_pb2.ModelConfig:
    """Triton's configuration of a model of ours."""
    config = model_config_pb2.ModelConfig(
        name=name, platform="onnxruntime_onnx", backend="onnxruntime", max_batch_size=signature.rows_max
    )
    for spec in signature.inputs:
        config.input.add(name=spec.name, data_type=_data_type(spec.dtype), dims=spec.shape or (1,))
        if not spec.shape:  # a scalar a row: Triton wants a dimension, and reshapes it away
            config.input[-1].reshape.SetInParent()
    for spec in signature.outputs:
        config.output.add(name=spec.name, data_type=_data_type(spec.dtype), dims=spec.shape or (1,))
        if not spec.shape:
            config.output[-1].reshape.SetInParent()
    if policy.all:
        config.version_policy.all.SetInParent()
    elif policy.specific:
        config.version_policy.specific.versions.extend(policy.specific)
    else:
        config.version_policy.latest.num_versions = policy.latest
    config.dynamic_batching.SetInParent()
    return config


def model_unknown(name: str) -> NotFound:
    """The error for a model that no repository has."""
    return NotFound(
        f"There is no model {name!r} in the repository.",
        reason=error_reason_pb2.ERROR_REASON_MODEL_UNKNOWN,
        model=name[:128],
    )


def _data_type(dtype: str) -> model_config_pb2.DataType.ValueType:
    return model_config_pb2.DataType.Value(f"TYPE_{dtype}")


def _checked(name: str) -> str:
    """The name, which is about to become a path."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:128]!r} is no model name: letters, digits, '.', '_' and '-', at most 128.", field="model"
        )
    return name


def _sync(folder: Path) -> None:
    """Puts every file below on disk, so that a rename never shows a version that a power cut empties."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
