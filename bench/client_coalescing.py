"""What coalescing gains: single predictions in flight at a time, as unary calls and gathered on one stream.

Runs against a predictor whose "model" is arithmetic on the columns, so that the figures are those of transport and
client alone, or against `--target host:port`. The two ways take turns, round by round; figures are medians of the
rounds. Prints JSON. By hand: `python bench/client_coalescing.py`.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from processes import machine

from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.client import EngagementPrediction, History, MeshClient, PlannedPost
from meshcast.posts import (
    PostTable,
    history_range,
    pack_floats,
    planned_from_columns,
    planned_from_message,
    posts_from_columns,
    row_violations,
)
from meshcast.rpc import RpcSettings, Server, ServingStatus

LEVELS = (0.8, 0.95)
Context = grpc.aio.ServicerContext[Any, Any]


class ArithmeticPredictor:
    """Two rpcs of the predictor: answers with sums over the columns: a predictor whose model costs nothing."""

    async def PredictEngagement(
        self, request: pb.PredictEngagementRequest, context: Context
    ) -> pb.PredictEngagementResponse:
        posts = posts_from_columns(request.history_columns)
        planned = planned_from_message(request.planned)
        start, stop = np.zeros(1, dtype=np.int64), np.full(1, len(posts))
        if row_violations(posts, planned, start, stop):
            raise ValueError("the bench sends good rows alone")
        log = float(_sums(posts, start, stop)[0])
        intervals = [pb.Interval(level=level, lower_log=log - level, upper_log=log + level) for level in LEVELS]
        prediction = pb.Prediction(log_engagement=log, intervals=intervals, confidence=0.5, recent_median_log=log)
        return pb.PredictEngagementResponse(prediction=prediction)

    async def PredictEngagementStream(
        self, request_iterator: AsyncIterator[pb.PredictEngagementStreamRequest], context: Context
    ) -> AsyncIterator[pb.PredictEngagementStreamResponse]:
        async for request in request_iterator:
            posts = posts_from_columns(request.history)
            planned = planned_from_columns(request.planned)
            start, stop = history_range(request.history_start, request.history_stop, len(planned))
            if row_violations(posts, planned, start, stop):
                raise ValueError("the bench sends good rows alone")
            log = _sums(posts, start, stop)
            column = pack_floats(log)
            yield pb.PredictEngagementStreamResponse(
                sequence=request.sequence,
                rows=len(planned),
                log_engagement=column,
                levels=LEVELS,
                lower_log=pack_floats(np.stack([log - level for level in LEVELS])),
                upper_log=pack_floats(np.stack([log + level for level in LEVELS])),
                confidence=column,
                recent_median_log=column,
            )


def _sums(posts: PostTable, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.float32]:
    total = np.concatenate([[0.0], np.cumsum(posts.reactions, dtype=np.float64)])
    logs: NDArray[np.float32] = np.log1p(total[stop] - total[start]).astype(np.float32)
    return logs


async def serve() -> None:
    """Serves the arithmetic until standard input closes; prints the address."""
    settings = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=1.0)
    predictor: Any = ArithmeticPredictor()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "PredictEngagement": grpc.unary_unary_rpc_method_handler(
            predictor.PredictEngagement,
            request_deserializer=pb.PredictEngagementRequest.FromString,
            response_serializer=pb.PredictEngagementResponse.SerializeToString,
        ),
        "PredictEngagementStream": grpc.stream_stream_rpc_method_handler(
            predictor.PredictEngagementStream,
            request_deserializer=pb.PredictEngagementStreamRequest.FromString,
            response_serializer=pb.PredictEngagementStreamResponse.SerializeToString,
        ),
    }
    handler = grpc.method_handlers_generic_handler("meshcast.api.predictor.v1.PredictorService", handlers)
    async with Server(settings, generic_handlers=[handler]) as server:
        for name in ("", "meshcast.api.predictor.v1.PredictorService"):
            server.health.set(name, ServingStatus.SERVING)
        print("address", server.address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def posts_of_a_channel(posts: int, seed: int) -> PostTable:
    """Made-up posts, one every six hours."""
    rng = np.random.default_rng(seed)
    hours = np.arange(posts) * 6
    return PostTable.of(
        {
            "published_unix_s": 1_460_000_000 + hours * 3600,
            "hour_of_day": hours % 24,
            "day_of_week": hours // 24 % 7,
            "content_length": rng.integers(0, 500, posts),
            "has_media": rng.integers(0, 2, posts),
            "forwards": rng.poisson(20, posts),
            "replies": rng.poisson(10, posts),
            "reactions": rng.poisson(200, posts),
        }
    )


async def rate(client: MeshClient, ask: Callable[[int], Awaitable[object]], *, in_flight: int, seconds: float) -> float:
    """Predictions a second with so many callers, each of which asks again once it is answered."""
    done = 0
    ends_at = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        nonlocal done
        turn = number
        while time.perf_counter() < ends_at:
            await ask(turn)
            turn += in_flight
            done += 1

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(in_flight):
            group.create_task(caller(number))
    return done / (time.perf_counter() - began)


async def measure(target: str, *, rounds: int, seconds: float, in_flight: int) -> dict[str, Any]:
    """Both ways, round by round: with a slice of one table a call, and with a prepared history of its own each."""
    tables = [posts_of_a_channel(100, seed) for seed in range(in_flight)]
    own = [History(table) for table in tables]
    shared = posts_of_a_channel(1_000, 99)
    plan = PlannedPost(published_at=datetime(2026, 1, 5, 18, tzinfo=UTC), content_length=120, has_media=True)
    figures: dict[str, list[float]] = {}
    async with MeshClient(target) as plain, MeshClient(target, coalesce=True) as gathered:

        def asks(client: MeshClient) -> dict[str, Callable[[int], Awaitable[EngagementPrediction]]]:
            return {
                "own_histories": lambda turn: client.predict_engagement(plan, own[turn % in_flight]),
                "slices_of_one_table": lambda turn: client.predict_engagement(
                    plan, shared[turn % 800 : turn % 800 + 100]
                ),
            }

        ways = [("unary", plain), ("coalesced", gathered)]
        for _way, client in ways:
            for ask in asks(client).values():
                await rate(client, ask, in_flight=in_flight, seconds=0.3)  # connections, caches
        for number in range(rounds):
            for way, client in ways if number % 2 else reversed(ways):
                for kind, ask in asks(client).items():
                    figure = await rate(client, ask, in_flight=in_flight, seconds=seconds)
                    figures.setdefault(f"{way}_{kind}", []).append(figure)
    medians = {f"{name}_per_s": round(statistics.median(values), 1) for name, values in figures.items()}
    ratios = {
        f"gain_{kind}": round(
            statistics.median(
                c / u for c, u in zip(figures[f"coalesced_{kind}"], figures[f"unary_{kind}"], strict=True)
            ),
            2,
        )
        for kind in ("own_histories", "slices_of_one_table")
    }
    return medians | ratios


def main() -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--target", help="host:port of a predictor or gateway; default: an arithmetic one of its own")
    options.add_argument("--in-flight", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    options.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.serve:
        asyncio.run(serve())
        return
    server = None
    target = given.target
    if target is None:
        command = [sys.executable, __file__, "--serve"]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        target = next(line.split()[1] for line in server.stdout if line.startswith("address "))
    try:
        figures = asyncio.run(measure(target, rounds=given.rounds, seconds=given.seconds, in_flight=given.in_flight))
    finally:
        if server is not None and server.stdin is not None:
            server.stdin.close()
            server.wait(10)
    about = {
        "bench": "client_coalescing",
        "against": given.target or "arithmetic",
        "in_flight": given.in_flight,
        "rounds": given.rounds,
        "seconds": given.seconds,
        "machine": machine(),
        "grpcio": grpc.__version__,
    }
    print(json.dumps(about | figures, indent=2))


if __name__ == "__main__":
    main()
