"""Traces across two hops, over every call kind; health left out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshcast.rpc import (
    ChannelSettings,
    NotFound,
    NotReady,
    Server,
    Tracing,
    TracingSettings,
    channel,
    mesh_errors,
    probe,
    setup_tracing,
)

Serve = Callable[..., Awaitable[Server]]
PLAIN = ChannelSettings(plain=True)


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Iterator[Tracing]:
    settings = TracingSettings(enabled=True)
    with setup_tracing(settings, "test", processors=[SimpleSpanProcessor(spans)]) as made:
        yield made


async def finished(spans: InMemorySpanExporter, number: int) -> list[ReadableSpan]:
    async with asyncio.timeout(10):
        while len(spans.get_finished_spans()) < number:  # noqa: ASYNC110  # an exporter has no event to wait for
            await asyncio.sleep(0.005)
    return list(spans.get_finished_spans())


@pytest.mark.parametrize("writes", [False, True], ids=["generator", "coroutine"])
@pytest.mark.parametrize("kind", ["Unary", "ClientStream", "ServerStream", "BidiStream"])
async def test_two_hops_are_one_trace(
    serve: Serve,
    kinds_service: Any,
    ask: Any,
    tracing: Tracing,
    spans: InMemorySpanExporter,
    kind: str,
    writes: bool,
) -> None:
    async def leaf(text: str, context: object) -> str:
        return text

    back = await serve(kinds_service(leaf, writes=writes), observers=tracing.observers)
    to_back = channel(back.address, settings=PLAIN, interceptors=tracing.client_interceptors)

    async def hop(text: str, context: object) -> str:
        answers: list[str] = await ask(to_back, kind, [text])
        return answers[0]

    front = await serve(kinds_service(hop, writes=writes), observers=tracing.observers)
    async with to_back, channel(front.address, settings=PLAIN, interceptors=tracing.client_interceptors) as to_front:
        await ask(to_front, kind)
        hops = 2 if kind == "ServerStream" else 1  # it answers twice, so it hops twice
        made = await finished(spans, 2 + 2 * hops)
    assert len({span.context.trace_id for span in made if span.context}) == 1
    by_id = {span.context.span_id: span for span in made if span.context}
    chains = [_chain(span, by_id) for span in made if span.name.endswith(kind)]
    assert sorted(map(len, chains)) == sorted([1, 2] + [3, 4] * hops)
    assert {span.status.status_code.name for span in made} == {"UNSET"}


async def test_a_failed_call_is_an_error_for_the_caller_and_only_a_fault_for_the_server(
    serve: Serve, kinds_service: Any, ask: Any, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    async def fail(text: str, context: object) -> str:
        if text == "missing":
            raise NotFound("nothing here")
        raise NotReady("loading")

    server = await serve(kinds_service(fail), observers=tracing.observers)
    async with channel(server.address, settings=PLAIN, interceptors=tracing.client_interceptors) as to_server:
        for text, server_status in (("missing", "UNSET"), ("loading", "ERROR")):
            with pytest.raises((NotFound, NotReady)), mesh_errors():
                await ask(to_server, "Unary", [text])
            made = await finished(spans, 2)
            assert {span.kind.name: span.status.status_code.name for span in made} == {
                "CLIENT": "ERROR",
                "SERVER": server_status,
            }
            spans.clear()


async def test_a_cancelled_call_ends_its_spans_and_reaches_the_server(
    serve: Serve, kinds_service: Any, ask: Any, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    entered = asyncio.Event()

    async def stall(text: str, context: object) -> str:
        entered.set()
        await asyncio.Event().wait()
        return text

    server = await serve(kinds_service(stall), observers=tracing.observers)
    async with channel(server.address, settings=PLAIN, interceptors=tracing.client_interceptors) as to_server:
        for kind in ("Unary", "ServerStream"):
            asking = asyncio.create_task(ask(to_server, kind))
            await entered.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await finished(spans, 2)
            spans.clear()
            entered.clear()


async def test_probes_are_no_part_of_any_trace(serve: Serve, tracing: Tracing, spans: InMemorySpanExporter) -> None:
    server = await serve(observers=tracing.observers)
    await probe(server.address, timeout_s=5)
    await server.drain()
    assert spans.get_finished_spans() == ()


def test_tracing_that_is_off_adds_nothing() -> None:
    tracing = setup_tracing(TracingSettings(), "test")
    assert (tracing.observers, tracing.client_interceptors, tracing.log_processors) == ((), (), ())


async def test_tracing_without_the_extra_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from meshcast.rpc import Precondition, TracingSettings, setup_tracing\n"
        "try: setup_tracing(TracingSettings(enabled=True), 'x')\n"
        "except Precondition as error: print(error.facts['command'])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert out.decode().strip() == "pip install 'meshcast[otel]'"


def _chain(span: ReadableSpan | None, by_id: dict[int, ReadableSpan]) -> list[ReadableSpan]:
    chain = []
    while span is not None:
        chain.append(span)
        span = by_id.get(span.parent.span_id) if span.parent else None
    return chain
