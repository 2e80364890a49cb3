"""The gateway as a whole: drain under load, reflection over all backends, replicas that come and go, its process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.reflection.v1 import reflection_pb2
from meshcast.gateway import RouteSettings
from meshcast.rpc import Descriptions, NotReady, ServingStatus, mesh_errors, probe

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
GATEWAY = "meshcast.api.gateway.v1.GatewayService"


async def test_a_drain_under_load_costs_no_call_that_had_begun(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor() as replica, run_gateway([replica.address], drain_delay_s=0.2) as gateway:
        has_begun = asyncio.Event()
        refused: list[str] = []

        async def caller() -> None:
            while not refused:
                came_before = not has_begun.is_set()
                try:
                    await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=5)
                except grpc.aio.AioRpcError as error:
                    assert not came_before
                    refused.append(error.code().name)

        stream = gateway.predictor.PredictEngagementStream(timeout=10)
        await stream.write(pb.PredictEngagementStreamRequest(sequence=1, channel="slow"))
        slow = gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(channel="slow"), timeout=10)
        callers = [asyncio.create_task(caller(), name="test-caller") for _ in range(8)]
        await gateway.until(lambda mesh: mesh.services[0].calls_by_code["OK"] > 50)
        await replica.script.began.wait()
        has_begun.set()
        draining = asyncio.create_task(gateway.server.drain(), name="test-drain")
        assert (await slow).prediction.log_engagement == 2.5
        assert (await stream.read()).sequence == 1
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        await draining
        await asyncio.gather(*callers)
    assert refused  # callers were refused after the drain had begun, and only then


async def test_a_rolling_drain_of_the_replicas_costs_no_call(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor("stays") as stays:
        async with run_predictor("goes") as goes, run_gateway([stays.address, goes.address]) as gateway:
            is_over = asyncio.Event()
            answers: list[str] = []

            async def caller() -> None:
                while not is_over.is_set():
                    answer = await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=5)
                    answers.append(answer.receipt.model)

            callers = [asyncio.create_task(caller(), name="test-caller") for _ in range(8)]
            await gateway.until(lambda mesh: mesh.services[0].calls_by_code["OK"] > 50)
            await goes.server.drain()
            await gateway.until(lambda mesh: [r.problem != "" for r in mesh.services[0].replicas].count(True) == 1)
            is_over.set()
            await asyncio.gather(*callers)
            health = await gateway.health()
    assert {*answers} == {"stays", "goes"}
    assert {*health.services[0].calls_by_code} == {"OK"}


async def test_reflection_shows_the_backends_contracts(serve: Any, run_gateway: Any) -> None:
    file = FileDescriptorProto(name="acme/echo.proto", package="acme", syntax="proto3")
    file.message_type.add(name="Text")
    service = file.service.add(name="EchoService")
    service.method.add(name="Echo", input_type=".acme.Text", output_type=".acme.Text")
    descriptions = Descriptions()
    descriptions.add([file])
    backend = await serve(descriptions=descriptions)
    route = RouteSettings(services=("acme.EchoService",), endpoints=(backend.address,))
    async with run_gateway(routes={"echo": route}) as gateway:
        await gateway.until_methods()
        info: Any = gateway.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="acme.EchoService"),
        ]
        listed, described = [answer async for answer in info(iter(questions), timeout=5)]
        entry = (await gateway.mesh.ListServices(gateway_pb2.ListServicesRequest(), timeout=5)).services[0]
    assert {"acme.EchoService", GATEWAY} <= {service.name for service in listed.list_services_response.service}
    assert described.file_descriptor_response.file_descriptor_proto == [file.SerializeToString()]
    assert list(entry.methods) == ["/acme.EchoService/Echo"]


class ChangingEndpoints:
    """An endpoint source that a test changes."""

    def __init__(self, *endpoints: str) -> None:
        self._lists: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        self._lists.put_nowait(endpoints)

    def change(self, *endpoints: str) -> None:
        """Tells a new list."""
        self._lists.put_nowait(endpoints)

    async def watch(self) -> AsyncIterator[Sequence[str]]:
        """Yields each list."""
        while True:
            yield await self._lists.get()


async def test_replicas_come_and_go_with_their_source(run_predictor: Any, run_gateway: Any) -> None:
    async with run_predictor("one") as one, run_predictor("two") as two:
        source = ChangingEndpoints(one.address)
        async with run_gateway([], sources={"predictor": source}) as gateway:

            async def asked(script: str = "") -> str:
                answer = await gateway.predictor.PredictEngagement(
                    pb.PredictEngagementRequest(channel=script), timeout=5
                )
                model: str = answer.receipt.model
                return model

            assert await asked() == "one"
            slow = asyncio.create_task(asked("slow"), name="test-slow")
            await gateway.until(lambda mesh: mesh.services[0].calls_in_flight == 1)
            source.change(two.address)
            await gateway.until(lambda mesh: [r.endpoint for r in mesh.services[0].replicas] == [two.address])
            await gateway.until(lambda mesh: mesh.serving)
            assert await asked() == "two"
            assert await slow == "one"  # a replica that leaves ends what it has begun


async def test_the_process_says_ready_serves_and_drains(run_predictor: Any, tmp_path: Path) -> None:
    async with run_predictor() as replica:
        config = tmp_path / "meshcast.toml"
        config.write_text(
            f'[logs]\nformat = "json"\n[rpc]\ndrain_delay_s = 0.0\n'
            f'[gateway.routes.predictor]\nendpoints = ["{replica.address}"]\n',
            "utf-8",
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "meshcast.gateway", "--config", str(config), "--port", "0"),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ,
        )
        assert process.stderr is not None
        events = {}
        async for line in process.stderr:
            event = json.loads(line)
            events[event["event"]] = event
            if event["event"] == "ready":
                break
        address = f"127.0.0.1:{events['ready']['port']}"
        assert events["ready"]["metrics_port"] > 0
        assert await probe(address, PREDICTOR, timeout_s=5) is ServingStatus.SERVING
        process.send_signal(signal.SIGTERM)
        rest = await asyncio.wait_for(process.stderr.read(), 20)
        assert await process.wait() == 0
    assert "drained" in {json.loads(line)["event"] for line in rest.splitlines()}


async def test_a_port_in_use_and_bad_settings_end_the_process_with_a_clear_word(tmp_path: Path) -> None:
    async def ended(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "meshcast.gateway", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await asyncio.wait_for(process.communicate(), 20)
        return process.returncode, errors.decode()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, text = await ended("--port", str(taken.getsockname()[1]))
    assert code == 2 and "another process has the port" in text
    config = tmp_path / "meshcast.toml"
    config.write_text("[gateway]\nquestion_max = 3\n", "utf-8")
    code, text = await ended("--config", str(config))
    assert code == 2 and "questions_max" in text


async def test_a_caller_that_comes_after_the_drain_is_told_to_go_elsewhere(
    run_predictor: Any, run_gateway: Any
) -> None:
    async with run_predictor() as replica, run_gateway([replica.address]) as gateway:
        gateway.server.interceptor.is_draining = True
        with pytest.raises(NotReady) as caught, mesh_errors():
            await gateway.predictor.PredictEngagement(pb.PredictEngagementRequest(), timeout=5)
    assert caught.value.retry_after_s is not None
