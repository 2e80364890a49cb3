"""`meshcast call`: any method with JSON in and out, by the server's own description of itself."""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from meshcast.cli.describe import describe
from meshcast.cli.problem import Problem
from meshcast.cli.reflected import Reflected
from meshcast.cli.settings import Connection, connect
from meshcast.rpc import ChannelSettings, DeadlineExceeded, channel

__all__ = ["call", "documents"]


def call(
    method: str,
    symbol: str,
    *,
    data: str,
    headers: Sequence[str],
    target: str | None,
    config: Path | None,
    state_dir: Path | None,
    timeout_s: float,
    compact: bool,
) -> None:
    """Calls a method and prints its answers as JSON; or, for `list` and `describe`, what the server offers.

    Args:
        method: `Service/Method`, `list` or `describe`.
        symbol: what to list or describe.
        data: JSON documents one after the other, `@file`, `-` for stdin; empty means one empty message.
        headers: metadata, each `key=value`.
        target: as in `connect`.
        config: as in `connect`.
        state_dir: as in `connect`.
        timeout_s: deadline of the call; a server's stream that was answered before ends there without an error.
        compact: True for one line a message.

    Raises:
        Problem: the method is unknown, or the data are no JSON of its request.
        MeshError: the call failed.
    """
    connection = connect(target, config=config, state_dir=state_dir)
    metadata = [_header(word) for word in headers]
    sent = _read(data) if method not in ("list", "describe") else ""
    asyncio.run(_run(connection, method, symbol, sent, metadata, timeout_s, compact))


async def _run(
    connection: Connection,
    method: str,
    symbol: str,
    data: str,
    metadata: Sequence[tuple[str, str]],
    timeout_s: float,
    compact: bool,
) -> None:
    async with channel(connection.target, settings=ChannelSettings(plain=True), tls=connection.tls) as opened:
        reflected = Reflected(opened, timeout_s=timeout_s)
        if method == "list":
            names = await reflected.services()
            if symbol:
                service = await reflected.service(symbol)
                names = [f"{service.full_name}/{one.name}" for one in service.methods]
            print("\n".join(names))
            return
        if method == "describe":
            if not symbol:
                raise Problem("describe what?", way_out="meshcast call describe SERVICE, SERVICE/METHOD or MESSAGE")
            print(describe(await reflected.symbol(symbol)))
            return
        if symbol:
            raise Problem(f"unexpected {symbol!r} after the method", way_out="give the request with --data")
        found = await reflected.method(method)
        requests = _messages(found, data, reflected.pool)
        answers = 0
        try:
            async for answer in reflected.call(found, requests, metadata=metadata, timeout_s=timeout_s):
                print(_to_json(answer, reflected.pool, compact=compact), flush=True)
                answers += 1
        except DeadlineExceeded:
            # Who watches for so long has got what was asked for; one that sends a stream waits for all its answers.
            if not answers or not found.server_streaming or found.client_streaming:
                raise
            print(f"ended after --timeout {timeout_s:g} s, with {answers:,} answers", file=sys.stderr)


def documents(text: str) -> list[Any]:
    """Every JSON document of a text, in order; they may follow each other on one line or on many.

    >>> documents('{"a": 1} {"a": 2}')
    [{'a': 1}, {'a': 2}]

    Raises:
        Problem: the text is no JSON; says where.
    """
    decoder = json.JSONDecoder()
    found, at = [], 0
    while (at := _skip_blank(text, at)) < len(text):
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise Problem(f"the data are no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
        found.append(document)
    return found


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _messages(method: MethodDescriptor, data: str, pool: DescriptorPool) -> list[Message]:
    found = documents(data)
    if len(found) == 1 and isinstance(found[0], list):
        found = found[0]  # a stream may be given as one array
    if not method.client_streaming and len(found) > 1:
        raise Problem(f"{method.name} takes one message, {len(found)} were given")
    if not found and not method.client_streaming:
        found = [{}]
    kind = GetMessageClass(method.input_type)
    messages = []
    for index, document in enumerate(found):
        try:
            messages.append(json_format.ParseDict(document, kind(), descriptor_pool=pool))
        except (json_format.ParseError, TypeError, AttributeError) as error:
            which = f"message {index}: " if len(found) > 1 else ""
            raise Problem(
                f"{which}{_no_bytes(document, method.input_type) or error}",
                way_out=f"`meshcast call describe {method.input_type.full_name}` shows its fields",
            ) from error
    return messages


def _no_bytes(document: Any, kind: Descriptor) -> str:
    """What is wrong with the first field of bytes that is given as something else; empty where there is none."""
    if not isinstance(document, dict):
        return ""
    for field in kind.fields:
        given = document.get(field.name, document.get(field.json_name))
        for value in given if field.is_repeated and isinstance(given, list) else [given]:
            if field.type == FieldDescriptor.TYPE_BYTES and value is not None and not isinstance(value, str):
                return (
                    f"{field.name} is of bytes: JSON has them as a text in base64, not as {type(value).__name__}; "
                    "numbers go into the field of numbers beside it, where there is one"
                )
            if field.message_type is not None and (inner := _no_bytes(value, field.message_type)):
                return inner
    return ""


def _to_json(message: Message, pool: DescriptorPool, *, compact: bool) -> str:
    shown = json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool)
    return json.dumps(shown, ensure_ascii=False, indent=None if compact else 2)


def _read(data: str) -> str:
    if data == "-":
        return sys.stdin.read()
    if data.startswith("@"):
        return Path(data[1:]).read_text(encoding="utf-8")
    return data


def _header(word: str) -> tuple[str, str]:
    key, separator, value = word.partition("=")
    if not separator or not key:
        raise Problem(f"--header {word!r} is not KEY=VALUE")
    return key.lower(), value
