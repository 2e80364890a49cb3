"""A child process trains and installs a version, or is ended; its caller never waits for longer than it said."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from meshcast.rpc.errors import Cancelled, CorruptData, DeadlineExceeded, Internal
from meshcast.runtime import Repository
from meshcast.services.drift import trainer_job
from meshcast.services.drift.trainer_job import TrainerJob, load_rows, save_rows, why_not

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def saved(folder: Path, rows: int = 300) -> Path:
    file = folder / "rows.npz"
    values = np.random.default_rng(0).standard_normal((rows, 5)).astype(np.float32)
    save_rows(file, np.concatenate([values, values], axis=1), [f"column {at}" for at in range(10)])
    return file


@needs_torch
@pytest.mark.slow
async def test_a_version_is_trained_and_installed(tmp_path: Path) -> None:
    job = TrainerJob(reference=saved(tmp_path), repository=tmp_path / "repository", version=7, options={"epochs": "2"})
    await job.start()
    trained = await job.wait()
    assert trained.version == 7 and "onnxruntime/cpu/f32" not in trained.refused
    assert (job.doing, job.share) == ("exporting and proving", 1)
    assert Repository(tmp_path / "repository").versions("drift") == (7,)
    assert "10 columns" in Repository(tmp_path / "repository").card("drift", 7)


@needs_torch
@pytest.mark.slow
async def test_what_the_child_refuses_is_told(tmp_path: Path) -> None:
    job = TrainerJob(reference=saved(tmp_path, rows=20), repository=tmp_path / "repository")
    await job.start()
    with pytest.raises(Internal, match="too few rows"):
        await job.wait()
    assert not Repository(tmp_path / "repository").versions("drift")


async def test_a_cancelled_job_leaves_nothing(tmp_path: Path) -> None:
    job = TrainerJob(reference=saved(tmp_path), repository=tmp_path / "repository")
    await job.start()
    await job.cancel()
    with pytest.raises(Cancelled):
        await job.wait()
    assert not (tmp_path / "repository").exists()


async def test_a_job_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    job = TrainerJob(reference=saved(tmp_path), repository=tmp_path / "repository", timeout_s=0.01)
    await job.start()
    with pytest.raises(DeadlineExceeded):
        await job.wait()


async def test_the_child_does_not_outlive_the_one_that_started_it(tmp_path: Path) -> None:
    argv = ("--reference", str(saved(tmp_path)), "--repository", str(tmp_path / "repository"))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", trainer_job.__name__, *argv), stdin=DEVNULL, stdout=DEVNULL
    )
    assert await child.wait() == 1
    assert not (tmp_path / "repository").exists()


def test_rows_survive_the_file_and_another_file_is_refused(tmp_path: Path) -> None:
    rows, columns = load_rows(saved(tmp_path))
    assert rows.shape == (300, 10) and columns[3] == "column 3"
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(CorruptData):
        load_rows(tmp_path / "bad.npz")
    with pytest.raises(CorruptData):
        load_rows(tmp_path / "none.npz")


def test_why_not_names_the_extra() -> None:
    missing = why_not()
    assert missing == "" or "pip install 'meshcast[train]'" in missing
