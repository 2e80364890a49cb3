"""A model whose rows have lengths of their own, from its export to its answers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.rpc import CorruptData, Deadline, InvalidInput, NotFound, Precondition
from meshcast.runtime import (
    Backend,
    Model,
    Models,
    Recorded,
    Repository,
    RuntimeSettings,
    SessionOptions,
    Signature,
    TensorSpec,
    group_rows,
)
from meshcast.runtime.candidates import gate, open_candidate, warm
from meshcast.runtime.evidence import Evidence
from meshcast.runtime.export import export_model
from meshcast.runtime.oip.config import metadata
from meshcast.runtime.oip.inference import infer
from meshcast.runtime.session import parity_error
from meshcast.runtime.torch import open_session as open_torch

BACKENDS = ("onnxruntime", "openvino")

SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="tokens", dtype="INT32", shape=(-1,), multiple_of=8, length_max=128, description="ids"),
        TensorSpec(name="grams", dtype="INT32", shape=(-1,), multiple_of=4, length_max=32, description="ids"),
        TensorSpec(name="extras", shape=(2,), description="numbers"),
    ),
    outputs=(TensorSpec(name="score", description="a number"), TensorSpec(name="vector", shape=(3,), description="3")),
    rows_max=64,
    cells_max=1024,
)


class Texts(torch.nn.Module):
    """Attention over the tokens that are not padding, and a sum over grams."""

    def __init__(self, seed: int = 1, *, sees_padding: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens = torch.nn.Embedding(100, 16)
        self.grams = torch.nn.Embedding(50, 16, padding_idx=0)
        self.near = torch.nn.Conv1d(16, 16, 3, padding=1)
        self.head = torch.nn.Linear(34, 3)
        self.sees_padding = sees_padding

    def forward(
        self, tokens: torch.Tensor, grams: torch.Tensor, extras: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        real = (tokens != 0)[:, :, None].float()
        steps = self.tokens(tokens.long()) * real
        steps = self.near(steps.transpose(1, 2)).transpose(1, 2) * real
        mean = steps.mean(1) if self.sees_padding else steps.sum(1) / real.sum(1).clamp(min=1)
        raw = self.head(torch.cat([mean, self.grams(grams.long()).sum(1), extras], 1))
        return raw[:, 0], raw


Rows = dict[str, list[NDArray[Any]]]


def rows_of(count: int, seed: int = 0, *, longest: int = 128) -> Rows:
    """Rows of lengths of their own, the first of which is empty."""
    rng = np.random.default_rng(seed)
    lengths = [0, *rng.integers(1, longest + 1, count - 1)]
    return {
        "tokens": [rng.integers(1, 100, size).astype(np.int32) for size in lengths],
        "grams": [rng.integers(1, 50, size // 4).astype(np.int32) for size in lengths],
        "extras": [rng.normal(size=2).astype(np.float32) for _ in lengths],
    }


def together(rows: Rows) -> dict[str, NDArray[Any]]:
    """The rows as one batch of the longest shape."""
    return {
        "tokens": np.stack([np.pad(row, (0, 128 - len(row))) for row in rows["tokens"]]),
        "grams": np.stack([np.pad(row, (0, 32 - len(row))) for row in rows["grams"]]),
        "extras": np.stack(rows["extras"]),
    }


def expected(rows: Rows, seed: int = 1) -> dict[str, NDArray[Any]]:
    return open_torch(Texts(seed), SIGNATURE).run(together(rows))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model `texts`."""
    root = tmp_path_factory.mktemp("texts")
    with Repository(root).install("texts", SIGNATURE) as staged:
        export_model(
            Texts(),
            SIGNATURE,
            recorded=together(rows_of(70)),
            version_dir=staged.version_dir,
            meta_dir=staged.meta_dir,
        )
    return root


@pytest.fixture(params=BACKENDS)
async def model(request: pytest.FixtureRequest, texts: Path, settings: RuntimeSettings) -> AsyncIterator[Model]:
    """The model in each back-end."""
    asked = replace(settings, backend=request.param, runs_max=2)
    async with Model(name="texts", signature=SIGNATURE, repository=Repository(texts), settings=asked) as opened:
        await opened.load()
        yield opened


# --- shapes ---


def test_axes_are_padded_together_and_long_ones_in_quarter_steps() -> None:
    assert SIGNATURE.lengths(together(rows_of(2))) == (128, 32)
    shapes = SIGNATURE.all_lengths()
    assert shapes[:3] == ((8, 4), (16, 8), (24, 12))
    assert shapes[-4:] == ((80, 32), (96, 32), (112, 32), (128, 32))
    assert SIGNATURE.rows_at((8, 4)) == 64 and SIGNATURE.rows_at((128, 32)) == 8
    assert SIGNATURE.rows_at((128, 32), 256) == 32  # a device that takes larger batches
    assert Signature.from_dict(SIGNATURE.to_dict()) == SIGNATURE


def test_padding_copies_only_what_does_not_fit() -> None:
    fits = {
        "tokens": np.ones((2, 16), np.int32),
        "grams": np.ones((2, 8), np.int32),
        "extras": np.ones((2, 2), np.float32),
    }
    assert SIGNATURE.check(fits) == 2
    assert all(SIGNATURE.padded(fits)[name] is array for name, array in fits.items())
    short = {**fits, "tokens": np.ones((2, 11), np.int32), "grams": np.ones((2, 0), np.int32)}
    assert SIGNATURE.check(short) == 2
    padded = SIGNATURE.padded(short)
    assert padded["tokens"].sum(axis=1).tolist() == [11, 11] and padded["tokens"].shape == (2, 16)
    assert padded["grams"].shape == (2, 8) and not padded["grams"].any()
    assert SIGNATURE.own_lengths(padded).tolist() == [[16, 8], [16, 8]]
    with pytest.raises(InvalidInput, match=r"Tensor tokens has shape \[2, 129\], the model takes \[rows, 0 to 128\]"):
        SIGNATURE.check({**fits, "tokens": np.ones((2, 129), np.int32)})


def test_a_signature_says_which_lengths_it_cannot_mean() -> None:
    for length_max, multiple_of in ((0, 1), (20, 8), (8, 0)):
        with pytest.raises(InvalidInput, match="length_max"):
            TensorSpec(name="x", shape=(-1,), length_max=length_max, multiple_of=multiple_of)
    with pytest.raises(InvalidInput, match="length_max"):
        TensorSpec(name="x", shape=(3,), length_max=3)
    with pytest.raises(InvalidInput, match="only inputs"):
        Signature(inputs=(), outputs=(TensorSpec(name="y", shape=(-1,), length_max=4),))


def test_rows_of_a_question_are_grouped_by_shape_and_every_row_is_there_once() -> None:
    rows = rows_of(50)
    groups = group_rows(SIGNATURE, {**rows, "extras": np.stack(rows["extras"])})
    assert sorted(np.concatenate([group.positions for group in groups]).tolist()) == list(range(50))
    assert len({SIGNATURE.lengths(group.arrays) for group in groups}) == len(groups)
    for group in groups:
        assert SIGNATURE.check(group.arrays) == len(group.positions)
        assert SIGNATURE.padded(group.arrays)["tokens"] is group.arrays["tokens"]
        for place, position in enumerate(group.positions.tolist()):
            tokens = rows["tokens"][position]
            assert group.arrays["tokens"][place, : len(tokens)].tolist() == tokens.tolist()
            assert not group.arrays["tokens"][place, len(tokens) :].any()
            assert group.arrays["extras"][place].tolist() == rows["extras"][position].tolist()


# --- export, proof, warming ---


def test_the_proofs_cover_several_lengths_within_the_cells_of_a_run(texts: Path) -> None:
    recorded = Recorded.load(Repository(texts).paths("texts", 1).meta_dir / "recorded.npz")
    shapes: set[tuple[int, ...]] = set()

    class Watched:
        def run(self, arrays: Any) -> Any:
            shapes.add(arrays["tokens"].shape)
            return open_torch(Texts(), SIGNATURE).run(arrays)

    session: Any = Watched()
    assert parity_error(session, SIGNATURE, recorded.inputs, recorded.outputs, (1, 2, 7, 64)) <= 1e-5
    assert {rows for rows, _ in shapes} >= {1, 2, 7, 64}
    assert len({length for _, length in shapes}) == 3
    assert max(rows * length for rows, length in shapes) <= 1024


def test_a_model_that_sees_its_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match="differs from torch"):
        export_model(
            Texts(sees_padding=True),
            SIGNATURE,
            recorded=together(rows_of(64)),
            version_dir=tmp_path / "version",
            meta_dir=tmp_path / "meta",
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_session_agrees_with_torch_at_lengths_and_batches_that_were_never_proved(texts: Path, backend: str) -> None:
    paths = Repository(texts).paths("texts", 1)
    evidence = Evidence.load(paths.meta_dir / "export.json")
    session = open_candidate(Backend(runtime=backend), paths, evidence, SIGNATURE, SessionOptions())
    recorded = Recorded.load(paths.meta_dir / "recorded.npz")
    assert gate(session, SIGNATURE, recorded).accepted
    for rows in (1, 3, 5, 11, 61):
        asked = rows_of(rows, seed=rows, longest=1 + rows)
        for group in group_rows(SIGNATURE, asked):
            given = session.run(group.arrays)
            wanted = expected(asked)["vector"][group.positions]
            assert given["vector"].shape == wanted.shape
            assert np.abs(given["vector"] - wanted).max() <= 1e-5
    session.close()


def test_every_shape_that_a_run_may_have_is_warmed_the_usual_lengths_first(texts: Path) -> None:
    paths = Repository(texts).paths("texts", 1)
    evidence = Evidence.load(paths.meta_dir / "export.json")
    recorded = Recorded.load(paths.meta_dir / "recorded.npz")
    session = open_candidate(Backend(runtime="openvino"), paths, evidence, SIGNATURE, SessionOptions())
    warmed: list[tuple[int, ...]] = []
    session.warm = lambda arrays: warmed.append(arrays["tokens"].shape)  # type: ignore[method-assign]
    assert len(list(warm(session, SIGNATURE, recorded, rows_max=64))) == len(warmed) == len(set(warmed))
    assert {length for _, length in warmed} == {lengths[0] for lengths in SIGNATURE.all_lengths()}
    assert all(rows & (rows - 1) == 0 and rows * length <= 1024 for rows, length in warmed)
    session.close()


def test_a_run_takes_as_many_rows_as_nearly_fill_a_shape(texts: Path) -> None:
    paths = Repository(texts).paths("texts", 1)
    evidence = Evidence.load(paths.meta_dir / "export.json")
    session = open_candidate(Backend(runtime="openvino"), paths, evidence, SIGNATURE, SessionOptions())
    assert [session.worth(rows, 16) for rows in (1, 3, 4, 5, 13, 20, 33, 60)] == [1, 3, 4, 5, 13, 16, 32, 60]
    assert [session.worth(rows, 128) for rows in (1, 2, 3, 5, 7, 8)] == [1, 2, 2, 4, 4, 8]
    session.close()


# --- answers ---


async def ask(model: Model, rows: Rows, row: int, **options: Any) -> Any:
    one = {name: column[row][None] for name, column in rows.items()}
    assert SIGNATURE.check(one) == 1
    return await model.batcher.submit(one, rows=1, deadline=Deadline.after(30.0), **options)


async def test_single_rows_of_mixed_lengths_get_torch_s_answers(model: Model) -> None:
    rows = rows_of(60, seed=3)
    answers = await asyncio.gather(*[ask(model, rows, row) for row in range(60)])
    wanted = expected(rows)
    for row, answer in enumerate(answers):
        assert np.abs(answer.outputs["vector"][0] - wanted["vector"][row]).max() <= 1e-5
    assert model.batcher.counts.rows == 60 and model.batcher.counts.runs < 60


async def test_a_question_of_mixed_lengths_is_answered_in_its_order_by_one_version(model: Model) -> None:
    rows = rows_of(300, seed=4)
    groups = group_rows(SIGNATURE, rows)
    answer = await model.batcher.submit_groups(groups, deadline=Deadline.after(30.0))
    wanted = expected(rows)
    for name, array in answer.outputs.items():
        assert np.abs(array - wanted[name]).max() <= 1e-5
    assert answer.facts.version == 1 and answer.facts.compute_us > 0
    alone = await model.batcher.submit_groups(groups[:1], deadline=Deadline.after(30.0))
    assert len(alone.outputs["score"]) == len(groups[0].positions)


def question(rows: Rows, row: int, **change: Any) -> oip_pb.ModelInferRequest:
    request = oip_pb.ModelInferRequest(model_name="texts")
    for spec in SIGNATURE.inputs:
        array = change.get(spec.name, rows[spec.name][row][None])
        request.inputs.add(name=spec.name, datatype=spec.dtype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


async def test_the_other_door_takes_any_length_and_names_the_longest(model: Model) -> None:
    models, rows = Models([model]), rows_of(20, seed=5)
    wanted = expected(rows)
    for row in (0, 1, 7):
        answer = await infer(models, question(rows, row), Deadline.after(30.0))
        got = np.frombuffer(answer.raw_output_contents[1], np.float32)
        assert np.abs(got - wanted["vector"][row]).max() <= 1e-5
    longer = np.concatenate([rows["tokens"][1], np.zeros(128 - len(rows["tokens"][1]), np.int32)])[None]
    answer = await infer(models, question(rows, 1, tokens=longer), Deadline.after(30.0))
    assert np.abs(np.frombuffer(answer.raw_output_contents[1], np.float32) - wanted["vector"][1]).max() <= 1e-5
    with pytest.raises(InvalidInput, match=r"the model takes \[rows, 0 to 128\]"):
        await infer(models, question(rows, 1, tokens=np.ones((1, 129), np.int32)), Deadline.after(30.0))
    about = metadata(model, 0)
    assert [list(tensor.shape) for tensor in about.inputs] == [[-1, -1], [-1, -1], [-1, 2]]
    assert list(model.repository.config("texts").input[0].dims) == [-1]


# --- several models of a process ---


async def test_an_optional_model_that_nobody_has_built_says_how_and_serves_when_it_is_there(
    texts: Path, settings: RuntimeSettings, tmp_path: Path
) -> None:
    repository = Repository(tmp_path / "own")
    async with Model(
        name="texts",
        signature=SIGNATURE,
        repository=repository,
        settings=replace(settings, poll_s=0.01),
        build_command="meshcast models build texts",
    ) as model:
        models = Models([model])
        with pytest.raises(Precondition, match="meshcast models build texts"):
            await model.load()
        assert model.is_missing and not model.is_ready
        for asking in (lambda: models.require("texts"), lambda: model.describe()):
            with pytest.raises(Precondition) as caught:
                asking()
            assert caught.value.facts == {"model": "texts", "command": "meshcast models build texts"}
        with pytest.raises(Precondition, match="build it with"):
            await ask(model, rows_of(2), 1)
        following = asyncio.create_task(model.follow())
        await asyncio.sleep(0.05)
        source = Repository(texts).paths("texts", 1)
        with repository.install("texts", SIGNATURE) as staged:
            for folder, target in ((source.version_dir, staged.version_dir), (source.meta_dir, staged.meta_dir)):
                for path in folder.iterdir():
                    (target / path.name).write_bytes(path.read_bytes())
        async with asyncio.timeout(20):
            while not model.is_ready:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert not model.is_missing and models.require("texts", 1) is model
        with pytest.raises(NotFound):
            models.require("nobody")
