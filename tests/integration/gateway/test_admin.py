"""The admin port: channelz where it is asked for, and never beside the callers' services."""

from __future__ import annotations

import socket
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from meshcast.gateway.admin import AdminSettings, admin
from meshcast.rpc import ChannelSettings, RpcSettings, channel


async def test_channelz_tells_of_the_gateways_servers_and_replicas(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        async with admin(AdminSettings(port=0), RpcSettings(), tls=None) as server:
            assert server is not None
            assert server.address.startswith("127.0.0.1:")
            async with channel(server.address, settings=ChannelSettings(plain=True)) as to_admin:
                channelz = channelz_pb2_grpc.ChannelzStub(to_admin)
                servers = await channelz.GetServers(channelz_pb2.GetServersRequest(), timeout=5)
                channels = await channelz.GetTopChannels(channelz_pb2.GetTopChannelsRequest(), timeout=5)
    assert gateway.server.port and sum(one.data.calls_started > 0 for one in servers.server) >= 2
    assert any(replica.address in one.data.target for one in channels.channel)


async def test_callers_cannot_ask_for_channelz(run_gateway: Any) -> None:
    async with run_gateway(["127.0.0.1:1"], admin=AdminSettings(port=0)) as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channelz_pb2_grpc.ChannelzStub(gateway.channel).GetServers(
                channelz_pb2.GetServersRequest(), timeout=5
            )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_gateway_listens_where_its_settings_say(run_gateway: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with run_gateway(["127.0.0.1:1"], admin=AdminSettings(port=port)):
        async with channel(f"127.0.0.1:{port}", settings=ChannelSettings(plain=True)) as to_admin:
            stub = channelz_pb2_grpc.ChannelzStub(to_admin)
            assert (await stub.GetServers(channelz_pb2.GetServersRequest(), timeout=5)).server


async def test_without_a_port_nothing_listens() -> None:
    async with admin(AdminSettings(), RpcSettings(), tls=None) as server:
        assert server is None


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=r"admin\.port"):
        AdminSettings(port=port)
