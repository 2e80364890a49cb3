"""What callers notice when replicas die, freeze, vanish or fail, through the gateway and without it.

Prints JSON. Four real predictors, a gateway and the relays that break things are processes of their own. Callers ask
idempotent single questions without a pause, half of them through the gateway and half straight over one channel that
takes turns on the replicas (gRPC's round_robin, no retries), while in each phase one replica, or two, is

- killed (SIGKILL), and started again,
- frozen (SIGSTOP), and thawed,
- blackholed: its connections stay open in silence, and
- made to fail half of its calls with UNAVAILABLE.

Every answer is compared with the one that the same question got before all that. A replica is back in full use at the
end of the first second in which it gives three quarters of its share of the answers.

    python bench/gateway_faults.py
    python bench/gateway_faults.py --seconds 8 --faults kill freeze    # a minute, for CI
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from fault_relays import RelayProcess
from processes import Restartable, machine, restartable_gateway, restartable_predictor

from meshcast.api.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from meshcast.api.predictor.v1 import predictor_pb2 as pb
from meshcast.api.predictor.v1 import predictor_pb2_grpc as pb_grpc
from meshcast.rpc import ChannelSettings, channel, run
from meshcast.rpc.channel import channel_options

DEADLINE_S = 1.0
TOLERANCE = 1e-5  # log1p units; rows of one batch may differ from single ones by less
QUESTIONS = 64
POSTS = 24
FAULTS = ("kill", "freeze", "blackhole", "fail_half")
TOGETHER = ("kill+freeze", "blackhole+fail_half")
BEGINS, ENDS = 0.05, 0.7  # of a phase, for its fault
SETTLE_S = 8.0  # after a replica's return, before the next phase
FULL_USE = 0.75


@dataclass(slots=True)
class Call:
    """One call that has ended: when, how, and by which replica it was answered."""

    began: float
    ended: float
    code: str
    is_wrong: bool
    endpoint: str


@dataclass
class Fault:
    """How a replica is broken and mended; `mend` returns when it is back."""

    endpoint: str
    break_it: Callable[[], Awaitable[None]]
    mend: Callable[[], Awaitable[None]]


class Callers:
    """So many callers that ask one question after the other until they are cancelled.

    Attributes:
        calls: that have ended.
    """

    def __init__(self, stub: Any, questions: Sequence[pb.PredictEngagementRequest], truth: Sequence[Any]) -> None:
        self.calls: list[Call] = []
        self._stub = stub
        self._questions = questions
        self._truth = truth

    async def call(self, first: int) -> None:
        """One caller; begins with a question of its own."""
        number = first
        while True:
            number = (number + 1) % len(self._questions)
            began, code, is_wrong, endpoint = time.perf_counter(), "OK", False, ""
            try:
                answer = await self._stub.PredictEngagement(self._questions[number], timeout=DEADLINE_S)
                is_wrong = not np.allclose(_figures(answer), self._truth[number], rtol=0, atol=TOLERANCE)
                endpoint = answer.receipt.gateway.endpoint
            except grpc.aio.AioRpcError as error:
                code = error.code().name
            self.calls.append(Call(began, time.perf_counter(), code, is_wrong, endpoint))
            if code != "OK":
                await asyncio.sleep(0.005)  # a refusal costs nothing: more of them would only drown the other way

    def summary(self, since: float, until: float) -> dict[str, Any]:
        """What became of the calls that began in a time."""
        calls = [call for call in self.calls if since <= call.began < until]
        took_ms = sorted((call.ended - call.began) * 1e3 for call in calls)
        ok = sum(call.code == "OK" for call in calls)
        return {
            "calls": len(calls),
            "ok_share": round(ok / max(1, len(calls)), 5),
            "not_ok": dict(Counter(call.code for call in calls if call.code != "OK")),
            "wrong": sum(call.is_wrong for call in calls),
            "late": sum(call.code == "OK" and call.ended - call.began > DEADLINE_S + 0.05 for call in calls),
            "p50_ms": _at(took_ms, 0.5),
            "p99_ms": _at(took_ms, 0.99),
            "max_ms": _at(took_ms, 1.0),
        }

    def full_use_after_s(self, endpoint: str, since: float, replicas: int) -> float | None:
        """Seconds until a replica gave its share of the answers of one second; None when it never did."""
        answers = [(call.ended, call.endpoint) for call in self.calls if call.ended >= since and call.code == "OK"]
        last = answers[-1][0] if answers else since
        begin = since
        while begin + 1.0 <= last:
            given = [by for ended, by in answers if begin <= ended < begin + 1.0]
            if given.count(endpoint) >= FULL_USE * len(given) / replicas and given:
                return round(begin + 1.0 - since, 2)
            begin += 0.1
        return None


def questions() -> list[pb.PredictEngagementRequest]:
    """Questions about different posts after different histories."""
    rng = np.random.default_rng(17)
    asked = []
    for number in range(QUESTIONS):
        request = pb.PredictEngagementRequest(request_id=f"question-{number}", channel="bench")
        planned, history = request.planned, request.history_columns
        planned.published_time.FromSeconds(1_700_000_000)
        planned.hour_of_day, planned.day_of_week = number % 24, number % 7
        planned.content_length, planned.has_media = int(rng.integers(0, 400)), bool(number % 2)
        history.posts = POSTS
        history.published_unix_s = (1_690_000_000 + np.arange(POSTS, dtype="<i8") * 7_200).tobytes()
        for name, most in (("content_length", 400), ("forwards", 5_000), ("replies", 500), ("reactions", 20_000)):
            setattr(history, name, rng.integers(0, most, POSTS).astype("<f4").tobytes())
        history.hour_of_day = (np.arange(POSTS) * 2 % 24).astype("<f4").tobytes()
        history.day_of_week = (np.arange(POSTS) // 12 % 7).astype("<f4").tobytes()
        history.has_media = rng.integers(0, 2, POSTS).astype("<f4").tobytes()
        asked.append(request)
    return asked


def _figures(answer: pb.PredictEngagementResponse) -> list[float]:
    prediction = answer.prediction
    levels = (figure for level in prediction.intervals for figure in (level.lower_log, level.upper_log))
    return [prediction.log_engagement, prediction.recent_median_log, *levels]


def _at(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1) if ordered else None


async def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Every phase."""
    async with AsyncExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        predictors = [restartable_predictor(folder(), {}) for _ in range(4)]
        for predictor in predictors:
            stack.push_async_callback(predictor.end)
            await predictor.start()
        silent = await stack.enter_async_context(RelayProcess("bytes", predictors[2].target))
        failing = await stack.enter_async_context(RelayProcess("calls", predictors[3].target))
        targets = [predictors[0].target, predictors[1].target, silent.target, failing.target]
        gateway = restartable_gateway(targets, folder())
        stack.push_async_callback(gateway.end)
        await gateway.start()
        to_gateway = await stack.enter_async_context(channel(gateway.target, settings=ChannelSettings(plain=True)))
        turns = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})
        plain = dict(channel_options(ChannelSettings(plain=True)))
        straight_options = [*(plain | {"grpc.service_config": turns}).items()]
        straight = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"ipv4:{','.join(targets)}", options=straight_options)
        )
        asked = questions()
        stub: Any = pb_grpc.PredictorServiceStub(straight)
        truth = [
            _figures(await stub.PredictEngagement(question, timeout=30, wait_for_ready=True)) for question in asked
        ]
        assert len({round(figures[0], 3) for figures in truth}) > QUESTIONS / 2  # so that a mix-up would be seen
        faults = _faults(predictors, silent, failing, targets)
        through = Callers(pb_grpc.PredictorServiceStub(to_gateway), asked, truth)
        bare = Callers(stub, asked, truth)
        health: Any = gateway_pb2_grpc.GatewayServiceStub(to_gateway)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(through.call(7 * number)) for number in range(options.callers)]
            tasks += [group.create_task(bare.call(7 * number)) for number in range(options.straight_callers)]
            try:
                await asyncio.sleep(2.0)  # connections, and latencies to go by
                phases = {"none": await _phase(options, through, bare, health, [])}
                for name in options.faults:
                    phases[name] = await _phase(
                        options, through, bare, health, [faults[part] for part in name.split("+")]
                    )
            finally:
                for task in tasks:
                    task.cancel()
        broken = {name: phase for name, phase in phases.items() if name != "none"}
        calls = sum(phase["gateway"]["calls"] for phase in broken.values())
        ok = sum(phase["gateway"]["ok_share"] * phase["gateway"]["calls"] for phase in broken.values())
        return {
            "phases": phases,
            "all_faults": {
                "calls": calls,
                "ok_share": round(ok / calls, 5),
                "least_ok_share": min(phase["gateway"]["ok_share"] for phase in broken.values()),
                "wrong": sum(phase["gateway"]["wrong"] for phase in phases.values()),
            },
        }


def _faults(
    predictors: Sequence[Restartable], silent: RelayProcess, failing: RelayProcess, targets: Sequence[str]
) -> dict[str, Fault]:
    async def kill() -> None:
        await asyncio.to_thread(predictors[0].kill)

    def signalled(number: signal.Signals) -> Callable[[], Awaitable[None]]:
        async def send() -> None:
            process = predictors[1].process
            assert process is not None
            os.kill(process.pid, number)

        return send

    return {
        "kill": Fault(targets[0], kill, predictors[0].start),
        "freeze": Fault(targets[1], signalled(signal.SIGSTOP), signalled(signal.SIGCONT)),
        "blackhole": Fault(targets[2], lambda: silent.say("blackhole"), lambda: silent.say("heal")),
        "fail_half": Fault(targets[3], lambda: failing.say("fail 0.5"), lambda: failing.say("heal")),
    }


async def _phase(
    options: argparse.Namespace, through: Callers, bare: Callers, health: Any, faults: Sequence[Fault]
) -> dict[str, Any]:
    before = await _counts(health)
    since = time.perf_counter()
    await asyncio.sleep(options.seconds * BEGINS)
    for fault in faults:
        await fault.break_it()
    await asyncio.sleep(options.seconds * (ENDS - BEGINS))

    async def mended(fault: Fault) -> float:
        await fault.mend()
        return time.perf_counter()

    returned = await asyncio.gather(*(mended(fault) for fault in faults))
    until = max([since + options.seconds, *(at + SETTLE_S for at in returned)])
    await asyncio.sleep(until - time.perf_counter())
    after = await _counts(health)
    return {
        "gateway": through.summary(since, until),
        "straight": bare.summary(since, until),
        "full_use_after_s": [
            through.full_use_after_s(fault.endpoint, at, 4) for fault, at in zip(faults, returned, strict=True)
        ],
        "pipeline": {name: after[name] - before[name] for name in after},
    }


async def _counts(health: Any) -> dict[str, int]:
    answer = await health.ReadMeshHealth(gateway_pb2.ReadMeshHealthRequest(), timeout=10)
    counts = next(service for service in answer.health.services if service.name == "predictor").counts
    return {name: getattr(counts, name) for name in ("hedges", "hedges_won", "retries", "broken", "late")}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="a phase")
    parser.add_argument("--callers", type=int, default=8, help="through the gateway")
    parser.add_argument("--straight-callers", type=int, default=8)
    parser.add_argument("--faults", nargs="*", default=[*FAULTS, *TOGETHER], help="of kill, freeze, …, joined by +")
    options = parser.parse_args()
    report = {
        "bench": "gateway_faults",
        "machine": machine(),
        "grpcio": grpc.__version__,
        "seconds": options.seconds,
        "callers": {"gateway": options.callers, "straight": options.straight_callers},
        "deadline_s": DEADLINE_S,
        **run(measured(options)),
    }
    print(json.dumps(report, indent=2))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
