"""Further models of a service's process: what each answers, and what callers are told where nobody has built one.

Where one is there, it is one of untrained weights, exported here: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import InvalidInput, NotFound, Precondition, mesh_errors
from meshcast.runtime import Session

pytestmark = pytest.mark.asyncio(loop_scope="session")


def missing(served: Any) -> Iterator[Any]:
    """The optional models of the process: `served` has the service's own alone."""
    found = [spec for spec in served.case.spec.also if spec.is_optional]
    if not found:
        pytest.skip("every model of it is there")
    yield from found


def question(spec: Any) -> oip_pb.ModelInferRequest:
    """A question of one row."""
    request = oip_pb.ModelInferRequest(model_name=spec.name)
    for tensor in spec.signature.inputs:
        array = spec.signature.example(1)[tensor.name]
        request.inputs.add(name=tensor.name, datatype=tensor.dtype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


async def test_every_model_of_the_process_is_listed_by_its_name(served: Any) -> None:
    index = (await served.peer.oip.RepositoryIndex(oip_pb.RepositoryIndexRequest(), timeout=20)).models
    names = {spec.name for spec in served.case.spec.models}
    assert {model.name for model in index} == set(served.context.models.names()) == names
    assert {f"model/{name}" for name in names} <= set(await served.peer.listed())


async def test_a_model_that_nobody_has_built_does_not_keep_the_others_from_serving(served: Any) -> None:
    for spec in missing(served):
        assert await served.peer.check(f"model/{spec.name}") == "NOT_SERVING"
        ready = await served.peer.oip.ModelReady(oip_pb.ModelReadyRequest(name=spec.name), timeout=20)
        assert not ready.ready
    assert await served.peer.check(served.case.spec.service_name) == "SERVING"
    assert (await served.peer.oip.ServerReady(oip_pb.ServerReadyRequest(), timeout=20)).ready


async def test_calls_that_need_a_missing_model_are_told_the_command_that_builds_it(served: Any) -> None:
    stub = served.peer.oip
    for spec in missing(served):
        for method, request in (
            (stub.ModelInfer, question(spec)),
            (stub.ModelMetadata, oip_pb.ModelMetadataRequest(name=spec.name)),
            (stub.RepositoryModelLoad, oip_pb.RepositoryModelLoadRequest(model_name=spec.name)),
        ):
            with pytest.raises(Precondition) as caught, mesh_errors():
                await method(request, timeout=20)
            assert caught.value.reason == ErrorReason.ERROR_REASON_MODEL_MISSING
            assert caught.value.facts == {"model": spec.name, "command": spec.build_command}
            assert spec.build_command in caught.value.message


# --- with the model ---

ROWS = (1, 2, 7)
RECORDED_ROWS = 8
"""Rows that the export is proved with: more would take long for a model whose runs do."""


@dataclass(frozen=True)
class Beside:
    """A server that has a further model.

    Attributes:
        server: of the service.
        peer: asks for the further model.
        torch: the same weights.
        version: of the further model.
    """

    server: Any
    peer: Any
    torch: Session
    version: int

    @property
    def names(self) -> tuple[str, str]:
        """The further model's health names."""
        return f"model/{self.peer.case.spec.name}", f"model/{self.peer.case.spec.name}/{self.version}"

    def agrees(self, given: Any, expected: Any) -> bool:
        """True where two answers are the same, as far as the signature promises."""
        case = self.peer.case
        return bool(case.difference(given, expected) <= case.signature.tolerance)


@pytest.fixture(scope="session")
def complete_of(
    artefacts_of: Any, suite: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Any], tuple[Path, Session]]:
    """A repository that has a further model and the service's own, and the torch session of the further one."""
    made: dict[str, tuple[Path, Session]] = {}

    def of(further: Any) -> tuple[Path, Session]:
        name = further.spec.name
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "repository"
            repository = artefacts_of(further.host).repository(folder, suite.SECOND)
            made[name] = repository, suite.untrained(further, repository, suite.FIRST, RECORDED_ROWS)
        return made[name]

    return of


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def beside(
    further: Any, complete_of: Any, suite: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Beside]:
    """A server that has the further model; tests leave it as they found it."""
    repository, torch = complete_of(further)
    state = tmp_path_factory.mktemp("beside")
    async with suite.running(further.host, repository, state, rows_max=suite.ROWS_MAX) as server:
        yield Beside(server, suite.Peer(further, server.peer.channel), torch, suite.FIRST)


async def test_a_further_model_gives_what_torch_gives_in_the_back_end_that_was_asked_for(beside: Beside) -> None:
    for rows in ROWS:
        tensors = beside.peer.case.tensors(rows, seed=rows)
        answer = await beside.peer.infer(beside.peer.tensor_request(tensors))
        given = beside.peer.arrays_of(answer)
        assert list(given) == list(beside.peer.case.signature.output_names)
        assert beside.agrees(given, beside.torch.run(tensors))
        assert answer.parameters["meshcast_backend"].string_param == beside.peer.case.backend
        assert answer.model_version == str(beside.version)


async def test_the_longest_row_gives_what_torch_gives(beside: Beside, suite: Any) -> None:
    signature = beside.peer.case.signature
    tensors = suite.made_up(signature, 1, 5, multiples=max(spec.length_max for spec in signature.inputs))
    assert beside.agrees(await beside.peer.outputs(tensors), beside.torch.run(tensors))


async def test_a_row_of_a_further_model_does_not_depend_on_its_crowd(beside: Beside) -> None:
    tensors = beside.peer.case.tensors(7, seed=3)
    crowd = await beside.peer.outputs(tensors)
    for row in range(7):
        own = {name: array[row : row + 1] for name, array in tensors.items()}
        assert beside.agrees(
            await beside.peer.outputs(own), {name: array[row : row + 1] for name, array in crowd.items()}
        )


async def test_a_wrong_tensor_of_a_further_model_is_refused_by_its_name(beside: Beside) -> None:
    for tensor, request in beside.peer.wrong_tensors():
        with pytest.raises(InvalidInput) as caught:
            await beside.peer.infer(request)
        assert caught.value.reason == ErrorReason.ERROR_REASON_TENSOR_MISMATCH
        assert caught.value.facts["tensor"] == caught.value.violations[0].field == tensor
        assert caught.value.facts["model"] == beside.peer.case.spec.name
    nothing = {name: array[:0] for name, array in beside.peer.case.tensors(1).items()}
    with pytest.raises(InvalidInput):
        await beside.peer.infer(beside.peer.tensor_request(nothing))


async def test_a_version_of_a_further_model_that_is_not_loaded_is_not_found(beside: Beside) -> None:
    request = beside.peer.tensor_request(beside.peer.case.tensors(1), model_version=str(beside.version + 7))
    with pytest.raises(NotFound) as caught:
        await beside.peer.infer(request)
    assert caught.value.reason == ErrorReason.ERROR_REASON_VERSION_UNKNOWN
    assert caught.value.facts["version"] == str(beside.version + 7)


async def test_a_further_model_is_served_by_its_names_and_described_by_its_signature(beside: Beside) -> None:
    case = beside.peer.case
    assert {await beside.peer.check(name) for name in ("", case.host.spec.service_name, *beside.names)} == {"SERVING"}
    assert (await beside.peer.oip.ModelReady(oip_pb.ModelReadyRequest(name=case.spec.name), timeout=20)).ready
    told = await beside.peer.oip.ModelMetadata(oip_pb.ModelMetadataRequest(name=case.spec.name), timeout=20)
    assert [tensor.name for tensor in told.inputs] == list(case.signature.input_names)
    assert [tensor.name for tensor in told.outputs] == list(case.signature.output_names)
    assert told.versions == [str(beside.version)]


async def test_an_unloaded_further_model_says_so_while_the_service_goes_on(beside: Beside) -> None:
    tensors = beside.peer.case.tensors(2)
    before = await beside.peer.outputs(tensors)
    await beside.peer.unload()
    try:
        with pytest.raises(Precondition) as caught:
            await beside.peer.outputs(tensors)
        assert caught.value.reason == ErrorReason.ERROR_REASON_MODEL_STATE
        assert caught.value.facts["model"] == beside.peer.case.spec.name
        assert [await beside.peer.check(name) for name in beside.names] == ["NOT_SERVING", "UNKNOWN"]
        assert await beside.peer.check(beside.peer.case.host.spec.service_name) == "SERVING"
        assert (await beside.server.peer.single()).receipt.model_version
    finally:
        await beside.peer.load()
    assert {await beside.peer.check(name) for name in beside.names} == {"SERVING"}
    for name, array in (await beside.peer.outputs(tensors)).items():
        np.testing.assert_allclose(array, before[name], atol=beside.peer.case.signature.tolerance)
