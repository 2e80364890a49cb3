"""A running call, as everything below its handler may know it: method, request id, the caller's metadata."""

from __future__ import annotations

import secrets
from contextvars import ContextVar
from typing import Any, Protocol

import grpc

REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the caller's id for this call; it appears in the log beside ours."""

Context = grpc.aio.ServicerContext[Any, Any]


class Call:
    """One running call, as interceptor parts and logs see it.

    Args:
        method: `/package.Service/Method`.
        context: grpc's context.
    """

    __slots__ = ("_context", "_request_id", "method")

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self._context: Context | None = context
        self._request_id = ""

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id`, or one made up; read only when something is logged or an error is masked."""
        if not self._request_id:
            given = self.metadata(REQUEST_ID_KEY)
            usable = isinstance(given, str) and 0 < len(given) <= 128 and given.isprintable()
            self._request_id = str(given) if usable else secrets.token_hex(8)
        return self._request_id

    def metadata(self, key: str) -> str | bytes | None:
        """The first value under a key of the caller's metadata; None when there is none, or the call has ended."""
        if self._context is None:
            return None
        for name, value in self._context.invocation_metadata() or ():
            if name == key:
                return value
        return None

    def peer(self) -> str:
        """Address of the caller, as grpc writes it; empty after the call has ended."""
        return "" if self._context is None else self._context.peer()

    def end(self) -> None:
        """Lets go of grpc's context: tasks started during the call may keep this object for long."""
        self._context = None


class Observer(Protocol):
    """Something that wants to know of calls, such as tracing. Runs inside the call's own task and context."""

    def begin(self, call: Call) -> Any:
        """Called before the handler; what it returns comes back at the end."""

    def end(self, state: Any, call: Call, code: grpc.StatusCode, error: BaseException | None) -> None:
        """Called after the handler, however it ended."""


_current: ContextVar[Call | None] = ContextVar("meshcast_call", default=None)


enter_call = _current.set
"""Makes a call the current one of this task; its context ends with the task, so nothing is reset."""


def current_call() -> Call | None:
    """The call that this code runs for; None outside of calls."""
    return _current.get()
