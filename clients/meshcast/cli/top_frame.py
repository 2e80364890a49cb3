"""The frame of `meshcast top`: one look at the mesh as tables that fit the terminal's width."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from meshcast.api.gateway.v1 import gateway_pb2 as pb
from meshcast.cli.mesh_history import Figure, MeshHistory, brief, load_of

__all__ = ["frame", "sparkline"]

_BLOCKS, _ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_NOTHING = "·"
_STATES = {
    pb.SERVING_STATE_SERVING: ("serving", "green"),
    pb.SERVING_STATE_NOT_SERVING: ("not serving", "yellow"),
    pb.SERVING_STATE_UNREACHABLE: ("unreachable", "red"),
}
_BREAKERS = {
    pb.BREAKER_STATE_CLOSED: ("closed", "dim"),
    pb.BREAKER_STATE_OPEN: ("open", "bold red"),
    pb.BREAKER_STATE_HALF_OPEN: ("half open", "yellow"),
}
_GAP = 2  # blank cells between two columns of a table: one is padding, one the box
_HEADINGS = {"calls": "recently", "p50": "p50 recently", "p99": "p99 recently"}
_POINTS, _WIDE = 24, 140  # of a graph, in a terminal of at least so many columns; half of them in others


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table.

    Attributes:
        heading: its name.
        cells: its values.
        rank: what gives way first where the terminal is narrow has the highest; 0 never does.
        is_number: aligned to the right.
    """

    heading: str
    cells: Sequence[Text]
    rank: int = 0
    is_number: bool = True

    @property
    def width(self) -> int:
        """Cells of the terminal that it takes."""
        return max([cell_len(self.heading), *(cell.cell_len for cell in self.cells)])


def frame(
    health: pb.MeshHealth,
    history: MeshHistory,
    *,
    target: str,
    width: int,
    figure: Figure = "calls",
    problem: str = "",
    is_ascii: bool = False,
) -> RenderableType:
    """One look at the mesh.

    Args:
        health: the newest message.
        history: of the messages before, this one included.
        target: where it comes from.
        width: columns of the terminal; what does not fit is left out, the least important first.
        figure: what the graphs show.
        problem: why the message is not of now; empty when it is.
        is_ascii: draw without characters that only Unicode has.
    """
    parts: list[RenderableType] = [_head(health, history, target, width)]
    if problem:
        parts.append(Text(problem, style="bold red"))
    nothing = "." if is_ascii else _NOTHING
    points = _POINTS if width >= _WIDE else _POINTS // 2
    services = _services(health, history, figure, points, is_ascii=is_ascii, nothing=nothing)
    replicas = _replicas(health, history, nothing=nothing)
    hidden: list[str] = []
    for what, columns in (("services", services), ("replicas", replicas)):
        kept = _fitting(columns, width)
        parts += [Text(), _table(kept)]
        gone = [column.heading for column in columns if column not in kept]
        hidden += [f"of {what} {', '.join(gone)}"] if gone else []
    parts += [
        Text(f"! {service.name} {replica.endpoint}: {brief(replica.problem)}", style="red")
        for service in health.services
        for replica in service.replicas
        if replica.problem
    ]
    span_s = history.span_s
    parts.append(
        Text(f"rates and errors of the last {span_s:.0f} s" if span_s else "rates from the next look on", style="dim")
    )
    if hidden:
        parts.append(Text(f"left out: {'; '.join(hidden)} (a wider terminal or --json shows them)", style="dim"))
    return Group(*parts)


def sparkline(points: Sequence[float], *, is_ascii: bool = False) -> str:
    """Values as a line of blocks, from 0 to the largest of them; a value above 0 is never drawn as 0.

    >>> sparkline([0, 1, 2, 7])
    '▁▂▃█'
    """
    blocks = _ASCII_BLOCKS if is_ascii else _BLOCKS
    top = max(points, default=0.0)
    if top <= 0:
        return blocks[0] * len(points)
    steps = len(blocks) - 1
    return "".join(blocks[0 if value <= 0 else max(1, round(steps * value / top))] for value in points)


def _head(health: pb.MeshHealth, history: MeshHistory, target: str, width: int) -> Text:
    since_s = max(0, health.read_time.seconds - health.started_time.seconds)
    alarm = "" if health.serving else "  nothing can be asked"
    words = [f"Mesh at {target}"]
    # On one line: the first of these that does not fit, and what comes after it, is left out.
    further = [
        f"up {_duration(since_s)}",
        f"{health.calls_in_flight:,} call{'s' * (health.calls_in_flight != 1)} under way",
    ]
    if history.restarts:
        further.append(f"{history.restarts} restart{'s' * (history.restarts > 1)} seen")
    if health.rss_bytes:
        further.append(f"{health.rss_bytes / 1e6:,.0f} MB")
    further.append(f"meshcast {health.meshcast_version}")
    for word in further:
        if cell_len(" · ".join([*words, word]) + alarm) > width:
            break
        words.append(word)
    head = Text(" · ".join(words), style="bold", no_wrap=True)
    head.append(alarm, style="bold red")
    return head


def _services(
    health: pb.MeshHealth, history: MeshHistory, figure: Figure, points: int, *, is_ascii: bool, nothing: str
) -> list[_Column]:
    services = health.services
    paces = [history.pace(service.name) for service in services]
    calls = [history.calls(service.name) for service in services]

    def rates(heading: str, name: str, rank: int) -> _Column:
        return _Column(heading, [_rate(getattr(pace, name), nothing, alarming=True) for pace in paces], rank)

    return [
        _Column("service", [Text(service.name, style="bold") for service in services], is_number=False),
        _Column("state", [_word(_STATES, service.state) for service in services], is_number=False),
        _Column("calls/s", [_rate(pace.tries_per_s, nothing) for pace in calls]),
        _Column(
            _HEADINGS[figure],
            [
                Text(sparkline(history.graph(s.name, figure)[-points:], is_ascii=is_ascii), style="cyan")
                for s in services
            ],
            rank=5,
            is_number=False,
        ),
        _Column("errors", [_share(pace.failed_share, nothing) for pace in calls]),
        _Column("p50 ms", [_ms(s.latency_ms_p50 if s.HasField("latency_ms_p50") else None) for s in services]),
        _Column("p99 ms", [_ms(s.latency_ms_p99 if s.HasField("latency_ms_p99") else None) for s in services]),
        _Column("under way", [_under_way(service, nothing) for service in services], rank=1),
        _Column("chunks", [_count(service.chunks_in_flight, nothing) for service in services], rank=9),
        rates("hedges/s", "hedges", 4),
        rates("retries/s", "retries", 4),
        rates("shed/s", "shed", 3),
        rates("refused/s", "refused", 6),
        _Column("cache/s", [_rate(pace.cached, nothing) for pace in paces], rank=7),
        rates("fallbacks/s", "fallbacks", 2),
        rates("resent/s", "resent", 8),
    ]


def _replicas(health: pb.MeshHealth, history: MeshHistory, *, nothing: str) -> list[_Column]:
    found = [(service, replica) for service in health.services for replica in service.replicas]
    paces = [history.tries(service.name, replica.endpoint) for service, replica in found]
    names = [service.name for service, _ in found]
    shown = [name if at == 0 or names[at - 1] != name else "" for at, name in enumerate(names)]
    loads = [load_of(health, replica) for _, replica in found]
    return [
        _Column("", [Text(name) for name in shown], is_number=False),
        _Column("replica", [Text(replica.endpoint) for _, replica in found], is_number=False),
        _Column("state", [_word(_STATES, replica.state) for _, replica in found], is_number=False),
        _Column("breaker", [_word(_BREAKERS, replica.breaker) for _, replica in found], is_number=False),
        _Column("tries/s", [_rate(pace.tries_per_s, nothing) for pace in paces], rank=1),
        _Column("failed", [_share(pace.failed_share, nothing) for pace in paces], rank=2),
        _Column("p50 ms", [_ms(r.latency_ms_p50 if r.HasField("latency_ms_p50") else None) for _, r in found], rank=3),
        _Column("p99 ms", [_ms(r.latency_ms_p99 if r.HasField("latency_ms_p99") else None) for _, r in found], rank=3),
        _Column("under way", [_count(replica.calls_in_flight, nothing) for _, replica in found], rank=4),
        _Column(
            "load",
            [Text("-", style="dim") if load is None else Text(f"{load.utilization:.0%}") for load in loads],
            rank=5,
        ),
        _Column(
            "queue",
            [Text("-", style="dim") if load is None else _count(round(load.queue_rows), nothing) for load in loads],
            rank=6,
        ),
        _Column("models", [Text(_models(replica)) for _, replica in found], rank=7, is_number=False),
    ]


def _fitting(columns: Sequence[_Column], width: int) -> list[_Column]:
    """Those that fit, the least important left out."""
    kept = list(columns)
    while sum(column.width for column in kept) + _GAP * len(kept) > width:
        last = max(kept, key=lambda column: column.rank)
        if not last.rank:
            break  # the rest is folded
        kept.remove(last)
    return kept


def _table(columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column.heading, justify="right" if column.is_number else "left", no_wrap=True)
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def _word(words: Mapping[Any, tuple[str, str]], state: int) -> Text:
    word, style = words.get(state, ("-", "dim"))
    return Text(word, style=style)


def _under_way(service: pb.ServiceHealth, nothing: str) -> Text:
    text = _count(service.calls_in_flight, nothing)
    if service.limit:
        text.append(f" of {service.limit:,}", style="dim")
    if service.calls_waiting:
        text.append(f" +{service.calls_waiting:,}", style="yellow")
    return text


def _models(replica: pb.ReplicaHealth) -> str:
    """Models and the versions of each that serve, as in `predictor 3, 2`."""
    versions: dict[str, list[str]] = {}
    for name, state in replica.models.items():
        if state == pb.SERVING_STATE_SERVING and name.count("/") == 2:  # model/<name>/<version>
            _, model, number = name.split("/")
            versions.setdefault(model, []).append(number)
    return "; ".join(
        f"{model} {', '.join(sorted(numbers, key=lambda n: (len(n), n), reverse=True))}"
        for model, numbers in sorted(versions.items())
    )


def _count(number: int, nothing: str) -> Text:
    return Text(f"{number:,}") if number else Text(nothing, style="dim")


def _rate(rate: float, nothing: str, *, alarming: bool = False) -> Text:
    if rate < 0.005:
        return Text(nothing, style="dim")
    digits = 2 if rate < 1 else 1 if rate < 100 else 0
    return Text(f"{rate:,.{digits}f}", style="yellow" if alarming else "")


def _share(share: float | None, nothing: str) -> Text:
    if share is None:
        return Text("-", style="dim")
    if share <= 0:
        return Text(nothing, style="dim")
    percent = 100 * share
    return Text(f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %", style="red" if share >= 0.01 else "yellow")


def _ms(latency_ms: float | None) -> Text:
    if latency_ms is None:
        return Text("-", style="dim")
    digits = 2 if latency_ms < 10 else 1 if latency_ms < 100 else 0
    return Text(f"{latency_ms:,.{digits}f}")


def _duration(seconds: int) -> str:
    """A time in its two largest units, as in `3 h 12 min`."""
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, rest = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])
