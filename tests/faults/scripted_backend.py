"""Scripted backend: a real server of a model service whose speed, failures and capacity follow a script.

In a process of its own: `python tests/faults/scripted_backend.py --port 0 --latency-ms 20 --failure-share 0.5` prints
one JSON line with its port and serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, fields, replace
from types import TracebackType
from typing import Any, Self

import grpc

from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.rpc import LoadReport, LogSettings, Overloaded, RpcSettings, Server, ServingStatus, run, setup_logs
from meshcast.rpc.orca import NATIVE_TRAILER, TRAILER, encode
from scripted_answers import ANSWERS

CONTROL_SERVICE = "meshcast.test.ScriptedBackend"
SERVICES = {
    name: f"meshcast.api.{name}.v1.{name.capitalize()}Service"
    for name in ("predictor", "forecaster", "analyzer", "drift")
}
PRIORITIES = ("high", "normal", "low")
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How a scripted backend behaves.

    Attributes:
        service: what it stands in for: a name of `SERVICES`, or the full name of any other gRPC service.
        model_version: that it lists as `model/<name>/<version>` and names in its receipts.
        latency_ms: of every call and every message of a stream.
        straggler_share: share of them that take `straggler_ms` instead.
        straggler_ms: see there.
        failure_share: share of them that fail with `failure_code`, once their time is over.
        failure_code: name of a gRPC status code.
        batch_ms: time of one batch, where calls go through batches, one at a time; 0 for none.
        batch_rows: most rows of a batch. A unary call is a row; a chunk has as many as it says.
        queue_rows_max: rows that may wait for a batch; more are refused with RESOURCE_EXHAUSTED. 0: any number.
        utilization: that unary answers tell (ORCA), at 100 calls a second; 0 tells nothing.
        seed: of the draws of stragglers and failures.
    """

    service: str = "predictor"
    model_version: int = 1
    latency_ms: float = 0.0
    straggler_share: float = 0.0
    straggler_ms: float = 1_000.0
    failure_share: float = 0.0
    failure_code: str = "UNAVAILABLE"
    batch_ms: float = 0.0
    batch_rows: int = 1
    queue_rows_max: int = 0
    utilization: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.failure_code not in grpc.StatusCode.__members__:
            raise ValueError(f"failure_code {self.failure_code!r} is no gRPC status code")

    @property
    def full_service(self) -> str:
        """Full name of the gRPC service."""
        return SERVICES.get(self.service, self.service)


@dataclass(slots=True)
class Counts:
    """What a scripted backend has counted: unary calls and messages of streams alike.

    Attributes:
        begun: that arrived.
        answered: OK.
        failed: as the script says.
        refused: by a full queue.
        cancelled: by their callers or their deadlines, before they were answered.
        executed: that a batch, or the script's latency, was spent on.
        executed_late: executed although their deadline had passed when that began.
        wasted: cancelled while they were executed.
        rows: of answered calls and messages.
        batches: that were run.
        in_flight: now.
        in_flight_max: at most so far.
    """

    begun: int = 0
    answered: int = 0
    failed: int = 0
    refused: int = 0
    cancelled: int = 0
    executed: int = 0
    executed_late: int = 0
    wasted: int = 0
    rows: int = 0
    batches: int = 0
    in_flight: int = 0
    in_flight_max: int = 0


@dataclass(eq=False, slots=True)
class _Job:
    rows: int
    ends_at: float
    done: asyncio.Future[None]
    executing: bool = False


class ScriptedBackend(grpc.GenericRpcHandler):
    """A server that behaves as its script says; use it as an async context manager.

    The priority of a call is that of the metadata key `meshcast-priority`, else of a predictor's request, else normal,
    and low in streams; of two that wait for a batch, the higher goes first. A control service answers over the same
    port: `read_counts`, `change` and `reset` of this module call it.

    Attributes:
        script: may be replaced at any time.
        counts: of everything.
        by_priority: begun, answered and cancelled by priority.
        health: of the server; all names are SERVING at first.
        server: once it is entered.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        port: int = 0,
        settings: RpcSettings | None = None,
        answers: dict[str, Callable[[bytes], bytes]] | None = None,
        streams: Sequence[str] = (),
    ) -> None:
        """Prepares the backend.

        Args:
            script: None for one that answers at once.
            port: to listen on; 0 takes a free one.
            settings: of the server, whose port and metrics are not looked at.
            answers: by method name, what makes the encoded answer from the encoded request; for each message where the
                method is one of `streams`. They come before our own, `ANSWERS` by service. Other methods of the service
                answer an empty message.
            streams: further methods that stream both ways, by name.
        """
        self.script = script or Script()
        self.counts = Counts()
        self.by_priority = {priority: {"begun": 0, "answered": 0, "cancelled": 0} for priority in PRIORITIES}
        self._answers = {**ANSWERS.get(self.script.service, {}), **(answers or {})}
        self._streams = frozenset((*streams, *(name for name in self._answers if name.endswith("Stream"))))
        self._random = random.Random(self.script.seed)
        self._jobs: dict[str, list[_Job]] = {priority: [] for priority in PRIORITIES}
        self._queued_rows = 0
        self._arrived = asyncio.Event()
        self._stack = AsyncExitStack()
        base = settings or RpcSettings(drain_delay_s=0.0, drain_s=1.0)
        rpc = replace(base, port=port, metrics=False, reflection=False)
        self.server = Server(rpc, generic_handlers=[self], access="none")
        self.health = self.server.health

    @property
    def address(self) -> str:
        """`host:port`, once it is entered."""
        return self.server.address

    async def __aenter__(self) -> Self:
        name = self.script.service
        models = (f"model/{name}", f"model/{name}/{self.script.model_version}") if name in SERVICES else ()
        for health_name in ("", self.script.full_service, *models):
            self.health.set(health_name, ServingStatus.SERVING)
        await self._stack.enter_async_context(self.server)
        self._batching = asyncio.create_task(self._run_batches(), name="scripted-batches")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stack.aclose()
        finally:
            self._batching.cancel()
            await asyncio.gather(self._batching, return_exceptions=True)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """grpc's handler of a method of the service or of the control service; None for others."""
        service, _, method = handler_call_details.method[1:].rpartition("/")
        if service == CONTROL_SERVICE:
            return grpc.unary_unary_rpc_method_handler(self._control(method))
        if service != self.script.full_service:
            return None
        answer = self._answers.get(method, _empty)
        if method in self._streams:
            return grpc.stream_stream_rpc_method_handler(self._bidi(method, answer))
        return grpc.unary_unary_rpc_method_handler(self._unary(method, answer))

    def report(self) -> dict[str, Any]:
        """All counters, as the control service tells them."""
        return {**asdict(self.counts), "by_priority": self.by_priority, "queued_rows": self._queued_rows}

    def reset_counts(self) -> None:
        """Sets the counters to 0, those of what is under way now left out."""
        self.counts = Counts(in_flight=self.counts.in_flight, in_flight_max=self.counts.in_flight)
        for counts in self.by_priority.values():
            counts.update(dict.fromkeys(counts, 0))

    def _control(self, method: str) -> Callable[[bytes, Context], Any]:
        async def control(request: bytes, context: Context) -> bytes:
            if method == "Change":
                self.script = replace(self.script, **json.loads(request))
            elif method == "Reset":
                self.reset_counts()
            return json.dumps(self.report()).encode()

        return control

    def _unary(self, method: str, answer: Callable[[bytes], bytes]) -> Callable[[bytes, Context], Any]:
        async def unary(request: bytes, context: Context) -> bytes:
            await self._work(1, _priority(method, request, context), context)
            if self.script.utilization:
                report = LoadReport(self.script.utilization, 100.0, named_metrics={"queue_rows": self._queued_rows})
                data = encode(report)
                context.set_trailing_metadata(((NATIVE_TRAILER, data), (TRAILER, data)))
            return answer(request)

        return unary

    def _bidi(self, method: str, answer: Callable[[bytes], bytes]) -> Callable[[Any, Context], Any]:
        async def bidi(requests: Any, context: Context) -> None:
            while (request := await context.read()) is not grpc.aio.EOF:
                response = answer(request)
                await self._work(_rows(response), _priority(method, request, context), context)
                await context.write(response)

        return bidi

    async def _work(self, rows: int, priority: str, context: Context) -> None:
        """Spends the time of a call of so many rows, and fails it if the script says so."""
        counts, script = self.counts, self.script
        by_priority = self.by_priority[priority]
        left_s = context.time_remaining()
        job = _Job(rows, float("inf") if left_s is None else time.monotonic() + left_s, asyncio.Future())
        counts.begun += 1
        by_priority["begun"] += 1
        counts.in_flight += 1
        counts.in_flight_max = max(counts.in_flight_max, counts.in_flight)
        try:
            if script.batch_ms:
                await self._queue(job, priority)
            latency_ms = script.straggler_ms if self._draws(script.straggler_share) else script.latency_ms
            if not script.batch_ms:
                self._execute(job)
            if latency_ms:
                await asyncio.sleep(latency_ms / 1e3)
            if self._draws(script.failure_share):
                counts.failed += 1
                await context.abort(grpc.StatusCode[script.failure_code], "the script says so")
            counts.answered += 1
            counts.rows += rows
            by_priority["answered"] += 1
        except asyncio.CancelledError:
            counts.cancelled += 1
            by_priority["cancelled"] += 1
            counts.wasted += job.executing
            raise
        finally:
            self.counts.in_flight -= 1

    async def _queue(self, job: _Job, priority: str) -> None:
        limit = self.script.queue_rows_max
        if limit and self._queued_rows + job.rows > limit:
            self.counts.refused += 1
            raise Overloaded(f"{self._queued_rows} rows wait already", retry_after_s=self.script.batch_ms / 1e3)
        self._queued_rows += job.rows
        self._jobs[priority].append(job)
        self._arrived.set()
        try:
            await job.done
        except asyncio.CancelledError:
            if job in self._jobs[priority]:
                self._jobs[priority].remove(job)
                self._queued_rows -= job.rows
            raise

    async def _run_batches(self) -> None:
        while True:
            await self._arrived.wait()
            batch: list[_Job] = []
            rows = 0
            for priority in PRIORITIES:
                waiting = self._jobs[priority]
                # What is larger than a batch takes several times as long, alone.
                while waiting and (not batch or rows + waiting[0].rows <= self.script.batch_rows):
                    job = waiting.pop(0)
                    batch.append(job)
                    rows += job.rows
            if not batch:
                self._arrived.clear()
                continue
            self._queued_rows -= rows
            self.counts.batches += 1
            for job in batch:
                self._execute(job)
            await asyncio.sleep(self.script.batch_ms / 1e3 * max(1, -(-rows // self.script.batch_rows)))
            for job in batch:
                if not job.done.done():
                    job.done.set_result(None)

    def _execute(self, job: _Job) -> None:
        job.executing = True
        self.counts.executed += 1
        self.counts.executed_late += time.monotonic() > job.ends_at

    def _draws(self, share: float) -> bool:
        return share > 0 and self._random.random() < share


async def read_counts(channel: grpc.aio.Channel) -> dict[str, Any]:
    """The counters of the scripted backend behind a channel, as of `ScriptedBackend.report`."""
    return await _controlled(channel, "Read", {})


async def change(channel: grpc.aio.Channel, **script: Any) -> dict[str, Any]:
    """Changes fields of the `Script` of the scripted backend behind a channel; returns its counters."""
    return await _controlled(channel, "Change", script)


async def reset(channel: grpc.aio.Channel) -> dict[str, Any]:
    """Sets the counters of the scripted backend behind a channel to 0; returns them."""
    return await _controlled(channel, "Reset", {})


async def _controlled(channel: grpc.aio.Channel, method: str, asked: dict[str, Any]) -> dict[str, Any]:
    call: Any = channel.unary_unary(f"/{CONTROL_SERVICE}/{method}")
    report: dict[str, Any] = json.loads(await call(json.dumps(asked).encode(), timeout=10, wait_for_ready=True))
    return report


_WITH_PRIORITY: dict[str, Any] = {
    "PredictEngagement": predictor_pb2.PredictEngagementRequest,
    "PredictEngagementStream": predictor_pb2.PredictEngagementStreamRequest,
}


def _empty(_request: bytes) -> bytes:
    return b""


def _rows(response: bytes) -> int:
    return max(1, predictor_pb2.PredictEngagementStreamResponse.FromString(response).rows)


def _priority(method: str, request: bytes, context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "meshcast-priority" and value in PRIORITIES:
            return str(value)
    kind = _WITH_PRIORITY.get(method)
    number = 0 if kind is None else kind.FromString(request).priority
    if number:
        return PRIORITIES[number - 1]
    return "low" if method.endswith("Stream") else "normal"


async def _serve(script: Script, options: argparse.Namespace) -> None:
    setup_logs(LogSettings(level="error"), service="scripted")
    settings = RpcSettings(host=options.host, drain_delay_s=options.drain_delay_s, drain_s=options.drain_s)
    async with ScriptedBackend(script, port=options.port, settings=settings) as backend:
        print(json.dumps({"port": backend.server.port, "address": backend.address, "pid": os.getpid()}), flush=True)
        await backend.server.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM; every field of `Script` is an option, as in `--latency-ms`."""
    parser = argparse.ArgumentParser(description="A real server whose speed, failures and capacity follow a script.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--drain-delay-s", type=float, default=0.2)
    parser.add_argument("--drain-s", type=float, default=5.0)
    for field in fields(Script):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = parser.parse_args(arguments)
    run(_serve(Script(**{field.name: getattr(options, field.name) for field in fields(Script)}), options))


if __name__ == "__main__":
    main()
