"""`meshcast models card` and `meshcast models load --version` against real servers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshcast.api.oip.v2 import grpc_service_pb2 as pb
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as pb_grpc
from meshcast.cli.models import load_model, show_card
from meshcast.cli.problem import ExitCode, Problem
from meshcast.rpc import RpcSettings, Server

Context = grpc.aio.ServicerContext[Any, Any]


class Repository(pb_grpc.GRPCInferenceServiceServicer):
    """Keeps what loads ask for."""

    def __init__(self) -> None:
        self.loads: list[pb.RepositoryModelLoadRequest] = []

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        self.loads.append(request)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        one = pb.RepositoryIndexResponse.ModelIndex(name="forecaster", version="2", state="READY")
        return pb.RepositoryIndexResponse(models=[one])


def options(target: str, folder: Path) -> dict[str, Any]:
    return {"target": target, "config": None, "state_dir": folder, "timeout_s": 10.0}


async def test_the_card_of_the_version_that_serves_is_shown(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(show_card, "forecaster", **options(target, tmp_path), as_json=False)
    assert "A card" in capsys.readouterr().out
    await asyncio.to_thread(show_card, "forecaster", **options(target, tmp_path), as_json=True)
    assert json.loads(capsys.readouterr().out)["card"] == "# A card"
    with pytest.raises(Problem) as caught:
        await asyncio.to_thread(show_card, "nobody", **options(target, tmp_path), as_json=False)
    assert "describes a model 'nobody'" in caught.value.message
    assert caught.value.details == ("described are: forecaster",)
    assert caught.value.exit_code is ExitCode.REFUSED


async def test_a_version_that_is_asked_for_is_the_only_one_loaded(
    serve: Callable[..., Awaitable[Server]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository()  # type: ignore[abstract]  # the other methods are not asked
    server = await serve(
        lambda server: pb_grpc.add_GRPCInferenceServiceServicer_to_server(repository, server),
        settings=RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=0.2),
    )
    await asyncio.to_thread(load_model, "forecaster", 2, **options(server.address, tmp_path))
    asked = json.loads(repository.loads[0].parameters["config"].string_param)
    assert asked == {"version_policy": {"specific": {"versions": [2]}}}
    assert "serving version 2" in capsys.readouterr().out
    await asyncio.to_thread(load_model, "forecaster", 0, **options(server.address, tmp_path))
    assert not repository.loads[1].parameters
