"""A rolling restart under load: every service, then the gateway, ended by SIGTERM and started again, one after another.

Prints JSON. The processes are those of docker-compose.yml, restarted in its order, one replica of each as it has by
default. Callers of the typed client ask all services without a pause, with the recommended channel, calls that wait,
and a deadline of 10 s. Beside them others ask ten times a second with a channel that does not wait, to show what
waiting is worth.

    python bench/rolling_restart.py
    python bench/rolling_restart.py --replicas 2 --rounds 3
    python bench/rolling_restart.py --short
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from made_up import made_up_posts
from processes import Restartable, free_port, machine

from meshcast.client import History, MeshClient, PlannedPost
from meshcast.gateway import GatewaySettings
from meshcast.rpc import ChannelSettings, MeshError, run

SERVICES = ("predictor", "forecaster", "analyzer", "drift")  # the order of docker-compose.yml
DEADLINE_S = 10.0
SETTLE_S = 1.0  # between two restarts
Question = Callable[[MeshClient, int], Awaitable[Any]]


class Tally:
    """What became of the calls of some callers."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failures: Counter[str] = Counter()

    async def ask(self, kind: str, question: Awaitable[Any]) -> None:
        """One call, counted."""
        began = time.perf_counter()
        try:
            await question
        except MeshError as error:
            self.failures[f"{kind}: {type(error).__name__}: {error.message[:160]}"] += 1
        self.seconds[kind].append(time.perf_counter() - began)

    def report(self) -> dict[str, Any]:
        """Calls, failures and times."""
        every = np.array([second for seconds in self.seconds.values() for second in seconds]) * 1e3
        return {
            "calls": {kind: len(seconds) for kind, seconds in self.seconds.items()},
            "failed": sum(self.failures.values()),
            "failures": dict(self.failures.most_common(8)),
            **{f"p{share}_ms": round(float(np.percentile(every, share)), 1) for share in (50, 99)},
            "slowest_ms": round(float(every.max()), 1),
        }


def questions(services: tuple[str, ...]) -> dict[str, Question]:
    """A small question to each service."""
    posts = made_up_posts()
    history = History(posts)[:60]
    plan = PlannedPost(
        published_at=datetime.fromtimestamp(int(posts.published_unix_s[60]) + 2 * 86_400, UTC), content_length=100
    )
    days = {date(2016, 1, 1) + timedelta(days=day): 100.0 + day % 7 for day in range(60)}
    asked: dict[str, Question] = {
        "predictor": lambda mesh, number: mesh.predict_engagement(plan, history),
        "forecaster": lambda mesh, number: mesh.forecast_growth(days, horizon_days=7),
        "analyzer": lambda mesh, number: mesh.analyze_content(f"The match number {number} is won!"),
        "drift": lambda mesh, number: mesh.describe_drift(),
    }
    return {name: asked[name] for name in services}


def processes(services: tuple[str, ...], replicas: int, folder: Path) -> tuple[list[Restartable], Restartable]:
    """Every service's processes in compose's order, and the gateway, none started yet."""
    routes = GatewaySettings().routes
    lines, backends = ["[gateway.http]", "port = 0"], []
    for name in services:
        own = []
        for number in range(replicas):
            state = folder / f"{name}-{number}"
            state.mkdir()
            command = [sys.executable, "-m", "meshcast.services", name]
            settings = {"MESHCAST_RUNTIME_RUNS_MAX": "1", "MESHCAST_RUNTIME_CHOOSE_S": "0.2"}
            own.append(Restartable(command, free_port(), routes[name].services[0], state, settings))
        endpoints = ", ".join(f'"{process.target}"' for process in own)
        lines += [f"[gateway.routes.{name}]", f"endpoints = [{endpoints}]"]
        backends += own
    config = folder / "gateway.toml"
    config.write_text("\n".join(lines))
    port = free_port()
    command = [sys.executable, "-m", "meshcast.gateway", "--config", str(config)]
    settings = {"MESHCAST_GATEWAY_PORT": str(port)}
    return backends, Restartable(command, port, routes[services[0]].services[0], folder, settings)


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Restarts everything under load, and counts."""
    services = ("predictor",) if arguments.short else SERVICES
    backends, gateway = processes(services, arguments.replicas, folder)
    ask = questions(services)
    waiting, failing = Tally(), Tally()
    restarts: list[dict[str, Any]] = []
    is_over = False
    async with AsyncExitStack() as stack:
        for process in (*backends, gateway):
            stack.push_async_callback(process.end)
            await process.start()
        mesh = await stack.enter_async_context(
            MeshClient(gateway.target, timeout_s=DEADLINE_S, settings=ChannelSettings(wait_for_ready=True))
        )
        hasty = await stack.enter_async_context(MeshClient(gateway.target, timeout_s=DEADLINE_S))
        for question in ask.values():
            await question(mesh, 0)  # each first question prepares something

        async def caller(tally: Tally, client: MeshClient, kind: str, pause_s: float) -> None:
            number = 0
            while not is_over:
                await tally.ask(kind, ask[kind](client, number))
                number += 1
                await asyncio.sleep(pause_s)

        async with asyncio.TaskGroup() as group:
            kinds = list(ask)
            for number in range(arguments.callers):
                group.create_task(caller(waiting, mesh, kinds[number % len(kinds)], arguments.pause_s))
            for kind in kinds:
                group.create_task(caller(failing, hasty, kind, 0.1))
            await asyncio.sleep(SETTLE_S)
            for _ in range(arguments.rounds):
                for process in (*backends, gateway):
                    began = time.perf_counter()
                    await process.end()  # SIGTERM: it drains
                    ended = time.perf_counter()
                    await process.start()
                    serving = time.perf_counter()
                    name = "gateway" if process is gateway else services[backends.index(process) // arguments.replicas]
                    restarts.append(
                        {"what": name, "drain_s": round(ended - began, 2), "start_s": round(serving - ended, 2)}
                    )
                    await asyncio.sleep(SETTLE_S)
            is_over = True
    return {
        "machine": machine(),
        "replicas": arguments.replicas,
        "callers": arguments.callers,
        "deadline_s": DEADLINE_S,
        "restarts": restarts,
        "waiting": waiting.report(),
        "not_waiting": failing.report(),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=1, help="of each service")
    parser.add_argument("--rounds", type=int, default=1, help="restarts of everything")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--pause-s", type=float, default=0.0, help="of a caller between two calls")
    parser.add_argument("--short", action="store_true", help="predictor and gateway only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(measure(arguments, Path(folder))), indent=2))


if __name__ == "__main__":
    main()
