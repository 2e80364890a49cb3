"""Settings of a process: frozen dataclasses, filled from `meshcast.toml` and the environment, checked at start-up."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import InvalidInput

_MIB = 1024 * 1024
ENVIRON_PREFIX = "MESHCAST_"
TABLES = frozenset(
    {"rpc", "tls", "channel", "logs", "tracing", "runtime", "tap", "gateway", "client", "up", "predictor", "forecaster"}
    | {"analyzer", "drift", "learning"}
)
"""Tables that some process of the mesh reads: all share one file, so each process passes over the others' tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcSettings:
    """How a process serves gRPC; the table `[rpc]`.

    Args:
        host: address to listen on; beyond loopback only with TLS or behind something that gives it.
        port: TCP port; 0 takes a free one. Each process has its own default, so main passes it in.
        message_bytes_max: largest message that is taken or sent, in bytes; one byte more is RESOURCE_EXHAUSTED.
        control_message_bytes_max: the same for requests of calls that carry no bulk data: those that do not stream
            their requests, the Open Inference Protocol left out.
        max_concurrent_streams: calls in flight on one connection.
        default_deadline_s: budget of a call whose caller set none.
        drain_delay_s: seconds between health NOT_SERVING and refusing calls, so that watchers have left by then.
        drain_s: seconds that calls in flight get to end; then they are cancelled and their callers see UNAVAILABLE.
        keepalive_s: seconds of silence after which a client is pinged.
        keepalive_timeout_s: seconds after which an unanswered ping closes the connection.
        ping_interval_min_s: clients that ping more often lose their connection.
        connection_age_max_s: a connection is asked to end after so many seconds, so that clients look their names up
            again; None for never. New calls then go over another connection.
        connection_age_grace_s: seconds that the calls of such a connection get to end; then they end UNAVAILABLE, be it
            the stream of a client that watches.
        handshake_timeout_s: seconds that a connection has to say something sensible.
        reflection: True to describe the services to tools such as `buf curl`.
        metrics: True to serve Prometheus metrics.
        metrics_port: port of the metrics; None is `port` + 1000 where there is such a port; 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: int = 0
    message_bytes_max: int = 16 * _MIB
    control_message_bytes_max: int = 4 * _MIB
    max_concurrent_streams: int = 1_000
    default_deadline_s: float = 5.0
    drain_delay_s: float = 0.2
    drain_s: float = 10.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    ping_interval_min_s: float = 5.0
    connection_age_max_s: float | None = None
    connection_age_grace_s: float = 600.0
    handshake_timeout_s: float = 5.0
    reflection: bool = True
    metrics: bool = True
    metrics_port: int | None = None

    @property
    def metrics_port_asked(self) -> int:
        """Port that the metrics ask for; 0 takes a free one."""
        if self.metrics_port is not None:
            return self.metrics_port
        return self.port + 1_000 if 0 < self.port <= 64_535 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What a process logs, and how it looks; the table `[logs]`.

    Args:
        level: least severe level that is written.
        format: `auto` is the console form on a terminal and JSON lines otherwise.
        access: which calls get a line: `all`, only failed ones (`errors`), or `none`. Bugs are always logged.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    access: Literal["none", "errors", "all"] = "errors"


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """OpenTelemetry traces across hops; the table `[tracing]`. Needs the extra `meshcast[otel]`.

    Args:
        enabled: True to record and export spans.
        endpoint: `host:port` of an OTLP gRPC collector; empty leaves it to OTEL_EXPORTER_OTLP_ENDPOINT.
        insecure: True for a collector without TLS.
        sample_ratio: share of new traces that are recorded, 0 to 1; a caller's own decision wins.
    """

    enabled: bool = False
    endpoint: str = ""
    insecure: bool = True
    sample_ratio: float = 1.0


def load(
    tables: Mapping[str, type[Any]],
    *,
    path: Path | None = None,
    environ: Mapping[str, str],
    other_tables: Collection[str] = TABLES,
) -> dict[str, Any]:
    """Settings by table name: defaults, then the file, then the environment; the last one wins.

    A variable is `MESHCAST_<TABLE>_<FIELD>`; in a table's own tables (fields that are dataclasses) it is
    `MESHCAST_<TABLE>_<FIELD>_<FIELD>`, and in tables of tables (`dict[str, Dataclass]` fields)
    `MESHCAST_<TABLE>_<FIELD>_<NAME>_<FIELD>`. Lists in variables are split at commas.

    Args:
        tables: dataclass of each table that this process reads, all fields with defaults.
        path: a TOML file; None for none.
        environ: the process's environment.
        other_tables: tables of other processes, which are passed over.

    Raises:
        InvalidInput: an unknown table or key, or a value of the wrong type; names the key, its source and the nearest
            right key. Also when the file is missing or no TOML.
    """
    document = {} if path is None else _read(path)
    source = str(path)
    for name, table in document.items():
        if name not in tables and name not in other_tables:
            raise _unknown(f"table [{name}]", name, {*tables, *other_tables}, source)
        if not isinstance(table, dict):
            raise InvalidInput(f"{source}: {name} must be a table, [{name}]", field=name)
    loaded: dict[str, Any] = {}
    for name, kind in tables.items():
        values = _values(kind, document.get(name, {}), name, source)
        _override(kind, values, name, f"{ENVIRON_PREFIX}{name.upper()}_", environ)
        loaded[name] = _build(kind, values, name)
    return loaded


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidInput(f"cannot read the settings file {path}: {error.strerror}", field="config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is no TOML: {error}", field="config") from error


def _values(kind: type[Any], table: Mapping[str, Any], where: str, source: str) -> dict[str, Any]:
    """The table's values by field name, as the field types want them."""
    hints = _hints(kind)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            raise _unknown(f"key {where}.{key}", key, hints, source)
        values[key] = _convert(hints[key], value, f"{where}.{key}", source)
    return values


def _convert(hint: Any, value: Any, where: str, source: str) -> Any:
    """`value` of a TOML file as `hint` asks; raises InvalidInput when it is of another type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [argument for argument in arguments if argument is not type(None)]
        if value == "" and type(None) in arguments and str not in inner:
            return None
        return _convert(inner[0], value, where, source)
    if origin is Literal:
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), [str(argument) for argument in arguments], n=1)
        hint_text = f"; did you mean {near[0]!r}?" if near else ""
        raise _wrong(where, f"one of {', '.join(map(str, arguments))}", value, source, hint_text)
    if origin in (tuple, list) and isinstance(value, list):
        item = arguments[0] if arguments else str
        converted = [_convert(item, entry, f"{where}[{index}]", source) for index, entry in enumerate(value)]
        return tuple(converted) if origin is tuple else converted
    if origin is dict and isinstance(value, dict):
        item = arguments[1]
        return {key: _convert(item, entry, f"{where}.{key}", source) for key, entry in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _values(typing.cast("type[Any]", hint), value, where, source)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    if origin is None and isinstance(hint, type) and type(value) is hint:
        return value
    raise _wrong(where, _type_name(hint), value, source)


def _override(kind: type[Any], values: dict[str, Any], where: str, prefix: str, environ: Mapping[str, str]) -> None:
    """Lets the environment's variables win; `values` is changed in place."""
    for variable in sorted(environ):
        if variable.startswith(prefix):
            _set(kind, values, where, variable.removeprefix(prefix).lower(), environ[variable], variable)


def _set(kind: type[Any], values: dict[str, Any], where: str, rest: str, text: str, variable: str) -> None:
    """Sets what the rest of a variable's name says, in the table or in one that it holds."""
    hints = _hints(kind)
    if rest in hints:
        values[rest] = _parse(hints[rest], text, f"{where}.{rest}", variable)
        return
    for field in sorted(hints, key=len, reverse=True):
        if dataclasses.is_dataclass(hints[field]) and rest.startswith(f"{field}_"):
            table = values.setdefault(field, {})
            _set(hints[field], table, f"{where}.{field}", rest.removeprefix(f"{field}_"), text, variable)
            return
    nested = _nested(hints, rest)
    if nested is None:
        raise _unknown(f"key {where}.{rest}", rest, hints, variable)
    field, item, name, inner = nested
    entry = values.setdefault(field, {}).setdefault(name, {})
    entry[inner] = _parse(_hints(item)[inner], text, f"{where}.{field}.{name}.{inner}", variable)


def _nested(hints: Mapping[str, Any], rest: str) -> tuple[str, type[Any], str, str] | None:
    """(field, its item's dataclass, entry's name, entry's field) behind the rest of a variable's name."""
    for field, hint in hints.items():
        if typing.get_origin(hint) is not dict or not rest.startswith(f"{field}_"):
            continue
        item = typing.get_args(hint)[1]
        if not dataclasses.is_dataclass(item):
            continue
        inner_rest = rest.removeprefix(f"{field}_")
        for inner in sorted(_hints(typing.cast("type[Any]", item)), key=len, reverse=True):
            if inner_rest.endswith(f"_{inner}"):
                return field, typing.cast("type[Any]", item), inner_rest.removesuffix(f"_{inner}"), inner
    return None


def _parse(hint: Any, text: str, where: str, source: str) -> Any:
    """The text of a variable as `hint` asks."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [argument for argument in arguments if argument is not type(None)]
        return None if text == "" and type(None) in arguments else _parse(inner[0], text, where, source)
    if origin in (tuple, list):
        items = [_parse(arguments[0], part.strip(), where, source) for part in text.split(",") if part.strip()]
        return tuple(items) if origin is tuple else items
    if hint is bool:
        words = {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }
        if text.lower() not in words:
            raise _wrong(where, "true or false", text, source)
        return words[text.lower()]
    number: Callable[[str], Any] | None = {int: int, float: float}.get(hint)
    if number is not None:
        try:
            return number(text)
        except ValueError as error:
            raise _wrong(where, _type_name(hint), text, source) from error
    if origin is dict:
        raise InvalidInput(f"{source}: {where} is a table; set its entries one by one, or use the file", field=where)
    return _convert(hint, text, where, source)


def _build(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """The dataclass over its values, nested tables first; its own checks may raise ValueError."""
    hints = _hints(kind)
    for field, value in values.items():
        hint = hints[field]
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is dict and dataclasses.is_dataclass(arguments[1]):
            item = typing.cast("type[Any]", arguments[1])
            defaults = _default_entries(kind, field)
            for name, entry in value.items():
                # What an entry does not name, it keeps from the default entry of that name.
                kept = _fields(defaults[name]) if name in defaults else {}
                defaults[name] = _build(item, {**kept, **entry}, f"{where}.{field}.{name}")
            values[field] = defaults
        elif dataclasses.is_dataclass(hint) and isinstance(value, dict):
            given = _default(kind, field)
            kept = {} if given is None else _fields(given)
            values[field] = _build(typing.cast("type[Any]", hint), {**kept, **value}, f"{where}.{field}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"settings table [{where}]: {error}", field=where) from error


def _default_entries(kind: type[Any], field: str) -> dict[str, Any]:
    """Entries that a table of tables has by default; naming one entry does not take the others away."""
    return dict(_default(kind, field) or {})


def _default(kind: type[Any], field: str) -> Any:
    """What a field has where nobody sets it; None where it must be set."""
    for candidate in dataclasses.fields(kind):
        if candidate.name == field:
            if candidate.default_factory is not dataclasses.MISSING:
                return candidate.default_factory()
            return None if candidate.default is dataclasses.MISSING else candidate.default
    return None


def _fields(instance: Any) -> dict[str, Any]:
    return {field: getattr(instance, field) for field in _hints(type(instance))}


def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _type_name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path (text)"}
    origin = typing.get_origin(hint)
    if origin in (tuple, list):
        return "a list"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a table"
    return names.get(hint, str(hint))


def _wrong(where: str, wanted: str, value: Any, source: str, more: str = "") -> InvalidInput:
    return InvalidInput(f"{source}: {where} must be {wanted}, is {value!r}{more}", field=where)


def _unknown(what: str, key: str, known: Collection[str], source: str) -> InvalidInput:
    near = difflib.get_close_matches(key, known, n=1)
    suggestion = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
    return InvalidInput(f"{source}: unknown {what}; {suggestion}", field=what.split(" ", 1)[1].strip("[]"))
