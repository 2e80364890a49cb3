"""Reading a backend's description: what it gave, and why it would not."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from meshcast.api.reflection.v1 import reflection_pb2 as pb
from meshcast.api.reflection.v1 import reflection_pb2_grpc as pb_grpc
from meshcast.gateway.contracts import read_files
from meshcast.rpc import ChannelSettings, Precondition, RpcSettings, channel, from_rpc_error

SERVICE = "meshcast.test.KindsService"


class Refusing(pb_grpc.ServerReflectionServicer):
    """Ends every stream before it has read a question."""

    async def ServerReflectionInfo(
        self, request_iterator: AsyncIterator[pb.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        raise Precondition("not now", why="on request")
        yield pb.ServerReflectionResponse()


async def test_a_backend_that_refuses_at_once_is_heard(serve: Any) -> None:
    server = await serve(
        lambda grpc_server: pb_grpc.add_ServerReflectionServicer_to_server(Refusing(), grpc_server),
        settings=RpcSettings(metrics=False, reflection=False),
    )
    async with channel(server.address, settings=ChannelSettings(plain=True)) as opened:
        for _ in range(30):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_files(opened, SERVICE, timeout_s=5.0)
            error = from_rpc_error(caught.value)
            assert isinstance(error, Precondition)
            assert error.facts == {"why": "on request"}


async def test_a_backend_that_does_not_know_the_service_says_so(serve: Any) -> None:
    server = await serve(settings=RpcSettings(metrics=False, reflection=True))
    async with channel(server.address, settings=ChannelSettings(plain=True)) as opened:
        with pytest.raises(LookupError, match="does not know"):
            await read_files(opened, SERVICE, timeout_s=5.0)
        found = await read_files(opened, "grpc.health.v1.Health", timeout_s=5.0)
    assert any(service.name == "Health" for file in found for service in file.service)
