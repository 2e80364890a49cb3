"""The life of a served model: damaged, unloaded, loaded again, swapped under load; and what callers are told then."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import MeshError, NotReady, Precondition
from meshcast.runtime import Repository

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASKERS = 4


async def refusals(server: Any) -> list[MeshError]:
    """What every call that needs the model is told, at both doors."""
    peer, case = server.peer, server.case
    told = []
    for ask in (peer.single(), peer.infer(peer.tensor_request(case.tensors(1))), peer.describe()):
        with pytest.raises(MeshError) as caught:
            await ask
        told.append(caught.value)
    return told


def names_of(server: Any, *versions: int) -> tuple[str, ...]:
    """The service's and the model's health names."""
    spec = server.case.spec
    return (spec.service_name, f"model/{spec.name}", *(f"model/{spec.name}/{version}" for version in versions))


async def test_an_unloaded_model_says_so_at_both_doors_until_it_is_loaded(start: Any, suite: Any) -> None:
    server = await start()
    service, model, version = names_of(server, suite.SECOND)
    async with server.peer.watching(service, model, version) as seen:
        await server.peer.unload()
        for error in await refusals(server):
            assert isinstance(error, Precondition)
            assert error.reason == ErrorReason.ERROR_REASON_MODEL_STATE
            assert error.facts["model"] == server.case.spec.name
        states = {name: await server.peer.check(name) for name in ("", service, model, version)}
        assert states == {"": "SERVING", service: "NOT_SERVING", model: "NOT_SERVING", version: "UNKNOWN"}

        outcomes: list[str] = []

        async def keep_asking() -> None:
            while not outcomes or outcomes[-1] != "OK":
                try:
                    await server.peer.single()
                    outcomes.append("OK")
                except MeshError as error:
                    assert isinstance(error, Precondition) or error.reason == ErrorReason.ERROR_REASON_MODEL_LOADING
                    assert isinstance(error, Precondition) or (isinstance(error, NotReady) and error.retry_after_s)
                    outcomes.append(error.code.name)

        await asyncio.gather(server.peer.load(), keep_asking())
        await suite.until(lambda: seen[service][-1] == seen[model][-1] == seen[version][-1] == "SERVING")
    assert seen[service] == seen[model] == ["SERVING", "NOT_SERVING", "SERVING"]
    assert seen[version] == ["SERVING", "SERVICE_UNKNOWN", "SERVING"]
    assert set(outcomes) <= {"FAILED_PRECONDITION", "UNAVAILABLE", "OK"}


async def test_a_damaged_model_lets_its_process_start_and_say_why_it_does_not_serve(
    case: Any, artefacts: Any, tmp_path: Any, suite: Any
) -> None:
    repository = artefacts.repository(tmp_path / "repository", suite.SECOND)
    paths = Repository(repository).paths(case.spec.name, suite.SECOND)
    recorded = paths.meta_dir / "recorded.npz"
    whole = recorded.read_bytes()
    recorded.write_bytes(whole[:-9])
    async with suite.running(case, repository, tmp_path / "state", rows_max=suite.ROWS_MAX) as server:
        for error in await refusals(server):
            assert isinstance(error, Precondition)
            assert "recorded.npz" in error.message
        assert {await server.peer.check(name) for name in names_of(server)} == {"NOT_SERVING"}
        recorded.write_bytes(whole)
        await server.peer.load()
        assert {await server.peer.check(name) for name in names_of(server, suite.SECOND)} == {"SERVING"}
        assert (await server.peer.single()).receipt.model_version == suite.SECOND


async def test_every_answer_under_load_is_that_of_the_version_that_its_receipt_names(
    start: Any, artefacts: Any, suite: Any
) -> None:
    server = await start(versions=(suite.FIRST,))
    case, peer = server.case, server.peer
    artefacts.repository(server.context.model.repository.root, suite.SECOND)
    single, seeds = case.example.single, range(5)
    requests = [single.request(1, seed) for seed in seeds]
    tensors = [single.tensors(request) for request in requests]

    async def answers() -> list[dict[str, Any]]:
        return [await peer.outputs(one) for one in tensors]

    expected = {suite.FIRST: await answers()}
    await peer.load(suite.SECOND)
    expected[suite.SECOND] = await answers()
    for seed in seeds:  # else a mixed-up answer would not show
        before, after = expected[suite.FIRST][seed], expected[suite.SECOND][seed]
        assert case.difference(before, after) > 10 * case.signature.tolerance
        torch = artefacts.torch.run(tensors[seed])
        assert case.difference(after, torch) <= case.signature.tolerance
    await peer.load(suite.FIRST)

    seen: list[int] = []
    is_over = asyncio.Event()

    async def typed() -> None:
        for seed in itertools.cycle(seeds):
            answer = await peer.single(requests[seed])
            version = answer.receipt.model_version
            given = single.outputs(answer)
            assert case.difference(given, expected[version][seed]) <= case.signature.tolerance
            seen.append(version)
            if is_over.is_set():
                return

    async def foreign() -> None:
        for seed in itertools.cycle(seeds):
            answer = await peer.infer(peer.tensor_request(tensors[seed]))
            version = int(answer.model_version)
            given = peer.arrays_of(answer)
            assert case.difference(given, expected[version][seed]) <= case.signature.tolerance
            seen.append(version)
            if is_over.is_set():
                return

    async def swaps() -> None:
        try:
            for version in (suite.SECOND, suite.FIRST, suite.SECOND):
                await peer.load(version)
                assert (await peer.single()).receipt.model_version == version
                asked = len(seen)
                await suite.until(lambda: len(seen) > asked + 2 * ASKERS)  # noqa: B023  # over before the next round
                assert version in seen[asked:]
        finally:
            is_over.set()

    async with asyncio.TaskGroup() as group:
        for number in range(ASKERS):
            group.create_task(foreign() if number % 2 else typed(), name=f"asker:{number}")
        group.create_task(swaps(), name="swaps")
    assert {suite.FIRST, suite.SECOND} == set(seen)
    await server.context.model.closed()
    assert server.context.model.versions == (suite.SECOND,)
