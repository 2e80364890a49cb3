"""Bad input to real processes: each gets its own clear answer, at the server and through the gateway, and the mesh
goes on serving."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from meshcast.api.oip.v2 import grpc_service_pb2 as oip
from meshcast.api.oip.v2 import model_config_pb2
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.posts import HistoryIndex, pack_planned, pack_positions, pack_posts, write_posts
from meshcast.rpc import (
    CorruptData,
    InvalidInput,
    MeshError,
    NotFound,
    Overloaded,
    Precondition,
    ServingStatus,
    from_item,
    mesh_errors,
    probe,
)
from meshcast.services.predictor import SERVICE

CONTROL_BYTES_MAX = 4 * 2**20
STREAM_BYTES_MAX = 16 * 2**20
PREDICTOR = "meshcast.api.predictor.v1.PredictorService"


@pytest.fixture(scope="module")
def doors(mesh_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of one predictor, asked directly and through a gateway."""
    folder = tmp_path_factory.mktemp("mesh")
    with mesh_of.predictor(folder) as server, mesh_of.gateway(folder, server.address) as gateway:
        yield {"direct": server.address, "gateway": gateway.address}


@pytest.fixture(params=["direct", "gateway"])
async def door(request: pytest.FixtureRequest, doors: dict[str, str], mesh_of: Any) -> AsyncIterator[Any]:
    """A client of either address; afterwards, both still answer."""
    async with mesh_of.peer(doors[request.param]) as asked:
        yield asked
    await mesh_of.still_serves(*doors.values())


async def refused(kind: type[MeshError], call: Any) -> Any:
    """The error of this class that a call ends with."""
    with pytest.raises(kind) as caught, mesh_errors():
        await call
    assert type(caught.value) is kind
    return caught.value


def fields_of(error: MeshError) -> list[str]:
    return [violation.field for violation in error.violations]


def tensors(rows: int = 2) -> dict[str, Any]:
    """Inputs of the graph that the model takes."""
    return SERVICE.signature.example(rows)


def infer(arrays: dict[str, Any], **fields: Any) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(**{"model_name": "predictor", **fields})
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


# Values


async def test_a_tensor_of_the_wrong_shape_is_named_with_the_shape_it_should_have(door: Any) -> None:
    arrays = tensors()
    arrays["planned"] = arrays["planned"][:, :-1].copy()
    error = await refused(InvalidInput, door.oip.ModelInfer(infer(arrays), timeout=10))
    assert error.reason == ErrorReason.ERROR_REASON_TENSOR_MISMATCH
    assert error.facts["tensor"] == "planned"
    assert "40" in error.message and "39" in error.message


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_a_tensor_with_a_nan_is_refused_by_name_and_place(door: Any, value: float) -> None:
    arrays = tensors()
    arrays["history"][1, 3, 2] = value
    error = await refused(InvalidInput, door.oip.ModelInfer(infer(arrays), timeout=10))
    assert error.facts["tensor"] == "history"
    assert f"{value} at [1, 3, 2]" in error.message and "must be finite" in error.message


async def test_a_nan_outside_of_the_counts_is_refused_by_field_and_place(door: Any, mesh_of: Any) -> None:
    request = mesh_of.question()
    hours = np.frombuffer(request.history_columns.hour_of_day, dtype="<f4").copy()
    hours[3] = np.nan
    request.history_columns.hour_of_day = hours.tobytes()
    error = await refused(InvalidInput, door.typed.PredictEngagement(request, timeout=10))
    assert error.reason == ErrorReason.ERROR_REASON_FIELD_INVALID
    assert fields_of(error) == ["history_columns.hour_of_day[3]"]
    assert "0 to 23" in error.violations[0].description


async def test_a_negative_count_is_refused_by_field_and_place(door: Any, mesh_of: Any) -> None:
    request = mesh_of.question()
    history, table = [], mesh_of.made_up_posts(30)
    for row in range(30):
        post = pb.Post(
            hour_of_day=int(table.hour_of_day[row]),
            day_of_week=int(table.day_of_week[row]),
            reactions=-1 if row == 2 else 5,
        )
        post.published_time.FromSeconds(int(table.published_unix_s[row]))
        history.append(post)
    request.ClearField("history_columns")
    request.history.extend(history)
    error = await refused(InvalidInput, door.typed.PredictEngagement(request, timeout=10))
    assert fields_of(error) == ["history[2].reactions"]
    assert "0 or more" in error.violations[0].description and "-1" in error.violations[0].description


async def test_hour_24_is_refused_by_field(door: Any, mesh_of: Any) -> None:
    request = mesh_of.question()
    request.planned.hour_of_day = 24
    error = await refused(InvalidInput, door.typed.PredictEngagement(request, timeout=10))
    assert fields_of(error) == ["planned.hour_of_day"]
    assert "0 to 23" in error.violations[0].description and "24" in error.violations[0].description


def chunk(mesh_of: Any, sequence: int = 0, rows: int = 4, **fields: Any) -> pb.PredictEngagementStreamRequest:
    """A chunk of good rows."""
    table = mesh_of.made_up_posts()
    asked = np.arange(100, 100 + rows)
    index = HistoryIndex(row=asked, start=asked - 60, stop=asked - 10)
    planned = mesh_of.planned_of(table, asked)
    return pb.PredictEngagementStreamRequest(
        sequence=sequence,
        history=pack_posts(table),
        planned=pack_planned(planned),
        history_start=pack_positions(index.start),
        history_stop=pack_positions(index.stop),
        **fields,
    )


async def test_a_bad_row_and_a_bad_chunk_are_answered_in_their_place_and_the_stream_goes_on(
    door: Any, mesh_of: Any
) -> None:
    row, whole = chunk(mesh_of, 1), chunk(mesh_of, 2)
    hours = np.frombuffer(row.planned.hour_of_day, dtype="<f4").copy()
    hours[2] = 24
    row.planned.hour_of_day = hours.tobytes()
    whole.history_stop = whole.history_stop[:-1]
    call = door.typed.PredictEngagementStream(iter([chunk(mesh_of, 0), row, whole, chunk(mesh_of, 3)]), timeout=20)
    with mesh_errors(call):
        answers = [answer async for answer in call]
    assert [answer.sequence for answer in answers] == [0, 1, 2, 3]
    good, bad, refused_chunk, last = answers
    assert not good.failed and not last.failed and good.log_engagement == last.log_engagement
    (failed,) = bad.failed
    error = from_item(failed.status)
    assert failed.row == 2 and isinstance(error, InvalidInput)
    assert fields_of(error) == ["planned.hour_of_day[2]"]
    found = np.frombuffer(bad.log_engagement, dtype="<f4")
    assert np.isnan(found).tolist() == [False, False, True, False]
    error = from_item(refused_chunk.status)
    assert isinstance(error, InvalidInput) and fields_of(error) == ["history_stop"]


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x1a\x7f"], ids=["no field", "cut off"])
async def test_bytes_that_are_no_message_are_refused_as_such(door: Any, data: bytes) -> None:
    unary = door.channel.unary_unary(f"/{PREDICTOR}/PredictEngagement")
    error = await refused(InvalidInput, unary(data, timeout=10))
    assert "no request message" in error.message and "contract" in error.message
    call = door.channel.stream_stream(f"/{PREDICTOR}/PredictEngagementStream")(iter([data]), timeout=10)
    with pytest.raises(InvalidInput) as caught, mesh_errors(call):
        assert [answer async for answer in call] == []
    assert "no request message" in caught.value.message


# Sizes


def padded(request: Any, size: int, field: str) -> Any:
    """The request with a text field grown until its encoding has exactly `size` bytes."""
    setattr(request, field, "x" * (size - request.ByteSize() - 8))
    setattr(request, field, getattr(request, field) + "x" * (size - request.ByteSize()))
    assert request.ByteSize() == size
    return request


async def test_a_call_one_byte_over_the_control_limit_is_told_the_limit_and_its_setting(
    door: Any, mesh_of: Any
) -> None:
    at = padded(mesh_of.question(), CONTROL_BYTES_MAX, "channel")
    error = await refused(InvalidInput, door.typed.PredictEngagement(at, timeout=10))
    assert fields_of(error) == ["channel"]  # it was read, so its size was fine
    over = padded(mesh_of.question(), CONTROL_BYTES_MAX + 1, "channel")
    error = await refused(Overloaded, door.typed.PredictEngagement(over, timeout=10))
    assert error.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    assert error.facts["limit_bytes"] == str(CONTROL_BYTES_MAX)
    assert error.facts["setting"] == "rpc.control_message_bytes_max"
    assert "rpc.control_message_bytes_max" in error.message
    assert error.retry_after_s is None  # the same message will never fit


async def test_a_chunk_one_byte_over_the_stream_limit_is_told_the_limit_and_its_setting(
    door: Any, mesh_of: Any
) -> None:
    at = padded(chunk(mesh_of), STREAM_BYTES_MAX, "channel")
    call = door.typed.PredictEngagementStream(iter([at, chunk(mesh_of, 1)]), timeout=20)
    with mesh_errors(call):
        first, second = [answer async for answer in call]
    assert fields_of(from_item(first.status)) == ["channel"]
    assert second.rows == 4 and not second.status.code
    over = padded(chunk(mesh_of), STREAM_BYTES_MAX + 1, "channel")
    call = door.typed.PredictEngagementStream(iter([over]), timeout=20)
    with pytest.raises(Overloaded) as caught, mesh_errors(call):
        assert [answer async for answer in call] == []
    assert caught.value.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    assert caught.value.facts["limit_bytes"] == str(STREAM_BYTES_MAX)
    assert caught.value.facts["setting"] == "rpc.message_bytes_max"


async def test_tensors_one_byte_over_the_limit_are_told_the_limit_and_its_setting(door: Any) -> None:
    over = padded(infer(tensors()), STREAM_BYTES_MAX + 1, "id")
    error = await refused(Overloaded, door.oip.ModelInfer(over, timeout=20))
    assert error.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE
    assert error.facts["limit_bytes"] == str(STREAM_BYTES_MAX)
    assert error.facts["setting"] == "rpc.message_bytes_max"


# Names


Ask = Callable[[Any, Any], Any]


def _load(name: str, version: int = 0) -> oip.RepositoryModelLoadRequest:
    request = oip.RepositoryModelLoadRequest(model_name=name)
    if version:
        request.parameters["config"].string_param = f'{{"version_policy": {{"specific": {{"versions": [{version}]}}}}}}'
    return request


UNKNOWN_MODEL: dict[str, Ask] = {
    "infer": lambda door, _: door.oip.ModelInfer(infer(tensors(), model_name="predictr"), timeout=10),
    "metadata": lambda door, _: door.oip.ModelMetadata(oip.ModelMetadataRequest(name="predictr"), timeout=10),
    "load": lambda door, _: door.oip.RepositoryModelLoad(_load("predictr"), timeout=10),
    "unload": lambda door, _: door.oip.RepositoryModelUnload(
        oip.RepositoryModelUnloadRequest(model_name="predictr"), timeout=10
    ),
}
UNKNOWN_VERSION: dict[str, Ask] = {
    "infer": lambda door, _: door.oip.ModelInfer(infer(tensors(), model_version="9"), timeout=10),
    "metadata": lambda door, _: door.oip.ModelMetadata(
        oip.ModelMetadataRequest(name="predictor", version="9"), timeout=10
    ),
    "load": lambda door, _: door.oip.RepositoryModelLoad(_load("predictor", 9), timeout=10),
    "predict": lambda door, mesh: door.typed.PredictEngagement(mesh.question(model_version=9), timeout=10),
    "describe": lambda door, _: door.typed.DescribeModel(pb.DescribeModelRequest(model_version=9), timeout=10),
}


@pytest.mark.parametrize("ask", UNKNOWN_MODEL.values(), ids=UNKNOWN_MODEL)
async def test_an_unknown_model_is_named(door: Any, mesh_of: Any, ask: Ask) -> None:
    error = await refused(NotFound, ask(door, mesh_of))
    assert error.reason == ErrorReason.ERROR_REASON_MODEL_UNKNOWN
    assert error.facts["model"] == "predictr"
    assert "predictr" in error.message


@pytest.mark.parametrize("ask", UNKNOWN_VERSION.values(), ids=UNKNOWN_VERSION)
async def test_an_unknown_version_is_named_beside_those_there_are(door: Any, mesh_of: Any, ask: Ask) -> None:
    error = await refused(NotFound, ask(door, mesh_of))
    assert error.reason == ErrorReason.ERROR_REASON_VERSION_UNKNOWN
    assert (error.facts["model"], error.facts["version"]) == ("predictor", "9")
    assert "no version 9" in error.message and error.message.rstrip(".").endswith("1")


async def test_an_unknown_version_in_a_stream_is_answered_in_its_place(door: Any, mesh_of: Any) -> None:
    call = door.typed.PredictEngagementStream(iter([chunk(mesh_of, 0, model_version=9), chunk(mesh_of, 1)]), timeout=20)
    with mesh_errors(call):
        first, second = [answer async for answer in call]
    error = from_item(first.status)
    assert isinstance(error, NotFound) and error.reason == ErrorReason.ERROR_REASON_VERSION_UNKNOWN
    assert not second.status.code and second.receipt.model_version == 1


# Files


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `meshcast WORDS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "meshcast.cli", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        check=False,
        env=os.environ | {"MESHCAST_RUNTIME_STATE_DIR": str(folder)},
    )


def _edited(text: str, row: int, column: str, value: str) -> str:
    """A CSV with one cell changed; `row` counts from 1."""
    lines = text.splitlines()
    cells, at = lines[row].split(","), lines[0].split(",").index(column)
    cells[at] = value
    lines[row] = ",".join(cells)
    return "\n".join(lines) + "\n"


# What is done to a good CSV; what the answer names.
BAD_FILES: dict[str, tuple[str, Callable[[str], bytes], tuple[str, ...]]] = {
    "unknown column": (
        "posts.csv",
        lambda text: text.replace("forwards", "retweets", 1).encode(),
        ("posts.csv", "'retweets'", "unknown column", "did you mean forwards?", "rename it or leave it out"),
    ),
    "empty": ("posts.csv", lambda text: b"", ("posts.csv", "is empty", "give a header")),
    "header alone": (
        "posts.csv",
        lambda text: text.splitlines()[0].encode(),
        ("posts.csv", "no posts", "at least one row"),
    ),
    "cut off in a row": (
        "posts.csv",
        lambda text: text[: text.rindex(",")].rsplit(",", 2)[0].encode(),
        ("posts.csv", "row 160 (line 161)", "cut off", "fetch or export it again"),
    ),
    "cut off in a packed file": (
        "posts.csv.gz",
        lambda text: gzip.compress(text.encode())[:-200],
        ("posts.csv.gz", "cut off", "pack it again"),
    ),
    "cut off in a JSON line": (
        "posts.jsonl",
        lambda text: b'{"published_at": "2024-01-01T00:00:00Z", "reactions": 5}\n{"published_at": "2024-0',
        ("posts.jsonl", "line 2", "cut off"),
    ),
    "NaN": (
        "posts.csv",
        lambda text: _edited(text, 7, "reactions", "nan").encode(),
        ("posts.csv", "row 7 (line 8)", "reactions", "nan"),
    ),
    "negative count": (
        "posts.csv",
        lambda text: _edited(text, 8, "replies", "-3").encode(),
        ("posts.csv", "row 8 (line 9)", "replies", "0 or more", "-3"),
    ),
    "hour 24": (
        "posts.csv",
        lambda text: _edited(text, 9, "hour_of_day", "24").encode(),
        ("posts.csv", "row 9 (line 10)", "hour_of_day", "0 to 23", "24"),
    ),
}


@pytest.mark.parametrize("verb", ["predict", "stream"])
@pytest.mark.parametrize("case", BAD_FILES)
async def test_a_bad_file_is_refused_with_file_row_column_and_way_out(
    doors: dict[str, str], mesh_of: Any, tmp_path: Path, case: str, verb: str
) -> None:
    name, spoil, wanted = BAD_FILES[case]
    good = tmp_path / "good.csv"
    write_posts(good, mesh_of.made_up_posts())
    (tmp_path / name).write_bytes(spoil(good.read_text("utf-8")))
    done = command(verb, name, "--target", doors["gateway"], folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    for words in wanted:
        assert words in done.stderr
    assert done.stdout == ""


async def test_a_parquet_file_that_is_cut_off_is_refused_and_a_good_file_is_taken(
    doors: dict[str, str], mesh_of: Any, tmp_path: Path
) -> None:
    whole = tmp_path / "posts.parquet"
    write_posts(whole, mesh_of.made_up_posts())
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-40])
    done = command("stream", "cut.parquet", "--target", doors["gateway"], folder=tmp_path)
    assert done.returncode == 2 and "cut.parquet: is cut off" in done.stderr and "again" in done.stderr
    done = command("stream", "posts.parquet", "--json", "--target", doors["gateway"], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    await mesh_of.still_serves(*doors.values())


# Artefacts


def truncate(path: Path) -> None:
    """Cuts a file in half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def artefacts(root: Path, version: int) -> tuple[Path, Path]:
    """What onnxruntime and OpenVINO load of a version."""
    return (
        root / "models" / "predictor" / str(version) / "model.onnx",
        root / "meta" / "predictor" / str(version) / "openvino.bin",
    )


async def test_a_corrupt_version_is_refused_with_its_reason_and_the_old_one_goes_on(
    mesh_of: Any, tmp_path: Path
) -> None:
    root = mesh_of.repository(tmp_path, 1)
    settings = {"RUNTIME_MODEL_REPOSITORY": str(root)}
    with (
        mesh_of.predictor(tmp_path, **settings) as server,
        mesh_of.gateway(tmp_path, server.address) as gateway,
    ):
        mesh_of.copy_version(root, 2)
        for path in artefacts(root, 2):
            truncate(path)
        for address in (server.address, gateway.address):
            async with mesh_of.peer(address) as asked:
                with pytest.raises(CorruptData) as caught:
                    await mesh_of.load(asked, 2)
                index = await asked.oip.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=10)
            error = caught.value
            assert error.reason == ErrorReason.ERROR_REASON_ARTEFACT_CORRUPT
            assert (error.facts["model"], error.facts["version"]) == ("predictor", "2")
            assert "model.onnx" in error.message and "openvino.bin" in error.message
            assert "sha256" in error.facts["why"]
            states = {entry.version: (entry.state, entry.reason) for entry in index.models}
            assert states["1"] == ("READY", "")
            assert states["2"][0] == "UNAVAILABLE"
            await mesh_of.still_serves(server.address, gateway.address)
        assert await probe(server.address, "model/predictor/1") is ServingStatus.SERVING
        assert await probe(server.address, "model/predictor/2") is ServingStatus.SERVICE_UNKNOWN

        # The reason is still known after the refusal, to whoever looks at the repository and not at the log.
        assert "model.onnx" in states["2"][1]

        # One artefact alone is the loss of one back-end, not of the version.
        shutil.rmtree(root / "models" / "predictor" / "2")
        shutil.rmtree(root / "meta" / "predictor" / "2")
        mesh_of.copy_version(root, 2)
        async with mesh_of.peer(gateway.address) as asked:
            before = await asked.typed.DescribeModel(pb.DescribeModelRequest(), timeout=10)
            serving = before.model.backend
            spoilt = artefacts(root, 2)[["onnxruntime/cpu/f32", "openvino/cpu/f32"].index(serving)]
            truncate(spoilt)
            await mesh_of.load(asked, 2)
            described = await asked.typed.DescribeModel(pb.DescribeModelRequest(), timeout=10)
        refusals = {c.backend: c.refusal for c in described.model.candidates if not c.accepted}
        assert list(refusals) == [serving]
        assert spoilt.name in refusals[serving] and "sha256" in refusals[serving]
        assert described.model.backend not in refusals
        await mesh_of.still_serves(server.address, gateway.address, version=2)


@pytest.mark.parametrize(("backend", "place"), [("onnxruntime/cpu/f32", 0), ("openvino/cpu/f32", 1)])
async def test_where_one_back_end_is_asked_for_its_truncated_artefact_refuses_the_version(
    mesh_of: Any, tmp_path: Path, backend: str, place: int
) -> None:
    root = mesh_of.repository(tmp_path, 1, 2)
    path = artefacts(root, 2)[place]
    truncate(path)
    policy = root / "models" / "predictor" / "config.pbtxt"
    settings = {"RUNTIME_MODEL_REPOSITORY": str(root), "RUNTIME_BACKEND": backend}
    text = policy.read_text("utf-8")
    assert "version_policy" in text
    shutil.move(root / "models" / "predictor" / "2", tmp_path / "kept")  # start with version 1
    with mesh_of.predictor(tmp_path, **settings) as server:
        shutil.move(tmp_path / "kept", root / "models" / "predictor" / "2")
        async with mesh_of.peer(server.address) as asked:
            with pytest.raises(CorruptData) as caught:
                await mesh_of.load(asked)
        assert path.name in caught.value.message
        assert caught.value.facts["version"] == "2"
        await mesh_of.still_serves(server.address)


async def test_a_start_with_corrupt_artefacts_alone_does_not_serve_and_says_why_until_they_are_repaired(
    mesh_of: Any, tmp_path: Path
) -> None:
    root = mesh_of.repository(tmp_path, 1)
    for path in artefacts(root, 1):
        truncate(path)
    with (
        mesh_of.predictor(tmp_path, RUNTIME_MODEL_REPOSITORY=str(root)) as server,
        mesh_of.gateway(tmp_path, server.address) as gateway,
    ):
        for address in (server.address, gateway.address):
            for name in (PREDICTOR, "model/predictor"):
                assert await probe(address, name) is ServingStatus.NOT_SERVING, name
            async with mesh_of.peer(address) as asked:
                for call in (
                    asked.typed.PredictEngagement(mesh_of.question(), timeout=10),
                    asked.typed.DescribeModel(pb.DescribeModelRequest(), timeout=10),
                    asked.oip.ModelInfer(infer(tensors()), timeout=10),
                ):
                    error = await refused(Precondition, call)
                    assert error.reason == ErrorReason.ERROR_REASON_MODEL_STATE
                    assert error.facts["model"] == "predictor"
                    assert "model.onnx" in error.message and "openvino.bin" in error.message
                stream = asked.typed.PredictEngagementStream(iter([chunk(mesh_of)]), timeout=10)
                with mesh_errors(stream):
                    (answer,) = [answer async for answer in stream]
                error = from_item(answer.status)
                assert isinstance(error, Precondition) and "model.onnx" in error.message
                ready = await asked.oip.ModelReady(oip.ModelReadyRequest(name="predictor"), timeout=10)
                assert not ready.ready
        shutil.rmtree(root)
        mesh_of.repository(tmp_path, 1)
        async with mesh_of.peer(gateway.address) as asked:
            await mesh_of.load(asked)
        await mesh_of.still_serves(server.address, gateway.address)
        for name in (PREDICTOR, "model/predictor"):
            assert await probe(server.address, name) is ServingStatus.SERVING


async def test_a_version_that_says_it_serves_answers_also_where_its_neighbour_is_corrupt(
    mesh_of: Any, tmp_path: Path
) -> None:
    root = mesh_of.repository(tmp_path, 1, 2)
    for path in artefacts(root, 2):
        truncate(path)
    config = root / "models" / "predictor" / "config.pbtxt"
    model = text_format.Parse(config.read_text("utf-8"), model_config_pb2.ModelConfig())
    model.version_policy.all.SetInParent()
    config.write_text(text_format.MessageToString(model), "utf-8")
    with mesh_of.predictor(tmp_path, RUNTIME_MODEL_REPOSITORY=str(root)) as server:
        async with mesh_of.peer(server.address) as asked:
            index = await asked.oip.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=10)
            states = {int(entry.version): entry.state == "READY" for entry in index.models}
            assert not states[2]
            for version, is_ready in states.items():
                status = await probe(server.address, f"model/predictor/{version}")
                assert (status is ServingStatus.SERVING) == is_ready
                if is_ready:
                    with mesh_errors():
                        await asked.typed.PredictEngagement(mesh_of.question(model_version=version), timeout=10)


# Ports


@pytest.mark.parametrize("process", ["predictor", "gateway"])
async def test_a_port_in_use_ends_the_second_process_with_one_clear_line_and_code_2(
    doors: dict[str, str], mesh_of: Any, tmp_path: Path, process: str
) -> None:
    port = doors["direct"].rpartition(":")[2]
    words = ["meshcast.services", "predictor"] if process == "predictor" else ["meshcast.gateway"]
    done = second(*words, "--port", port, folder=tmp_path)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"{process}: cannot listen on 127.0.0.1:{port}: another process has the port")
    assert "--port" in line
    assert "Traceback" not in done.stderr
    await mesh_of.still_serves(*doors.values())


@pytest.mark.parametrize("process", ["predictor", "gateway"])
async def test_a_metrics_port_in_use_ends_the_second_process_with_one_clear_line_and_code_2(
    tmp_path: Path, process: str
) -> None:
    words = ["meshcast.services", "predictor"] if process == "predictor" else ["meshcast.gateway"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = second(*words, "--port", "0", "--metrics-port", port, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"{process}: ") and port in line and "rpc.metrics_port" in line
    assert "Traceback" not in done.stderr


def second(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a process that should not come up."""
    environ = os.environ | {
        "MESHCAST_RUNTIME_STATE_DIR": str(folder),
        "MESHCAST_RUNTIME_CHOOSE_S": "0.05",
        "MESHCAST_GATEWAY_FIRST_CONTACT_S": "0.2",
    }
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        check=False,
        env=environ,
    )
