"""A small exported model in two versions, and what the runtime's tests share around it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from meshcast.runtime import Repository, RuntimeSettings, Signature, TensorSpec
from meshcast.runtime.export import export_model

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="history", shape=(24, 8)),
        TensorSpec(name="mask", shape=(24,)),
        TensorSpec(name="planned", shape=(4,)),
    ),
    outputs=(TensorSpec(name="log_engagement"), TensorSpec(name="quantiles", shape=(3,))),
    rows_max=64,
)


class SmallModel(torch.nn.Module):
    """Two LSTM layers of 64 units over 24 steps, and one linear layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.lstm = torch.nn.LSTM(8, 64, num_layers=2, batch_first=True)
        self.head = torch.nn.Linear(68, 3)

    def forward(
        self, history: torch.Tensor, mask: torch.Tensor, planned: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        steps, _ = self.lstm(history * mask[:, :, None])
        raw = self.head(torch.cat([steps[:, -1], planned], 1))
        return raw[:, 0], raw


def inputs(rows: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {
        "history": rng.normal(size=(rows, 24, 8)).astype(np.float32),
        "mask": np.ones((rows, 24), np.float32),
        "planned": rng.normal(size=(rows, 4)).astype(np.float32),
    }


@dataclass(frozen=True)
class Small:
    """The exported versions: `root` holds version 1 and 2, whose weights differ."""

    signature: Signature
    root: Path

    @staticmethod
    def module(seed: int) -> SmallModel:
        return SmallModel(seed)

    @staticmethod
    def inputs(rows: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
        return inputs(rows, seed)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Versions 1 and 2 of the model `small`, exported once a session."""
    root = tmp_path_factory.mktemp("small")
    repository = Repository(root)
    for seed in (1, 2):
        with repository.install("small", SIGNATURE) as staged:
            export_model(
                SmallModel(seed),
                SIGNATURE,
                recorded=inputs(100),
                version_dir=staged.version_dir,
                meta_dir=staged.meta_dir,
                card=f"# Small {seed}",
                metrics={"test.mae": seed / 10},
            )
    return Small(SIGNATURE, root)


class OwnRepository(Repository):
    """A repository of a test's own; `add` installs the weights of one of the exported versions under a new number."""

    def __init__(self, root: Path, source: Path) -> None:
        super().__init__(root)
        self._source = Repository(source)

    def add(self, weights: int, version: int | None = None) -> int:
        paths = self._source.paths("small", weights)
        with self.install("small", SIGNATURE, version=version) as staged:
            shutil.copytree(paths.version_dir, staged.version_dir, dirs_exist_ok=True)
            shutil.copytree(paths.meta_dir, staged.meta_dir, dirs_exist_ok=True)
        return staged.version


@pytest.fixture
def repository(small: Small, tmp_path: Path) -> Iterator[OwnRepository]:
    """A repository with version 1."""
    own = OwnRepository(tmp_path / "repository", small.root)
    own.add(1)
    yield own


@pytest.fixture
def settings(tmp_path: Path) -> RuntimeSettings:
    """Settings over an empty state directory, with little time to measure."""
    return RuntimeSettings(state_dir=tmp_path / "state", runs_max=1, choose_s=0.05, load_rest=0.0)
