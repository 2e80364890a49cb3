"""The HTTP door's application: which route of the door answers a request, and who may ask at all."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qs

from connectrpc.errors import ConnectError

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import InvalidInput, NotReady, Precondition, Unimplemented

from ..contracts import Idempotency, MethodKind
from .access import Access
from .answers import Left, Send, answer_lines, context_of, send_failure, send_json
from .calls import Calls
from .connect import ConnectDoor, both_ways
from .errors import CallFailed, masked
from .intake import Bodies, Intake
from .methods import Method, Methods
from .rest import RestDoor
from .settings import HttpSettings

_UNARY = ("application/json", "application/proto")
_STREAM = ("application/connect+json", "application/connect+proto")
_WEB = ("application/grpc-web", "application/grpc-web+proto", "application/grpc-web+json")
# Answers go out as they are: to compress one would hold the gateway's loop up, and networks inside are fast. Deadlines
# are the door's own affair: the library's would end a call without saying why.
_PLAIN = (b"content-encoding", b"identity")  # the library says it, HTTP leaves it out
_NOT_PASSED = frozenset(
    {b"accept-encoding", b"connect-accept-encoding", b"grpc-accept-encoding", b"connect-timeout-ms", b"grpc-timeout"}
)


class DoorApp:
    """The ASGI application.

    Args:
        methods: of the mesh.
        calls: runs them.
        settings: of the door.
        access: who may call.
        grpc_port: of gRPC's own door, for those who knock at the wrong one.
    """

    def __init__(
        self, methods: Methods, calls: Calls, settings: HttpSettings, access: Access, *, grpc_port: int
    ) -> None:
        self._methods = methods
        self._calls = calls
        self._settings = settings
        self._access = access
        self._grpc_port = grpc_port
        self._connect = ConnectDoor(methods, calls, settings)
        self._rest = RestDoor(calls, settings)
        self._bodies = Bodies()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        intake = Intake(receive, headers, self._settings, self._bodies)
        is_preflight = scope["method"] == "OPTIONS"
        refusal = self._access.refusal(headers)
        extra = [] if refusal else self._access.headers(headers, is_preflight=is_preflight)
        sender = _Sender(send, extra, intake, self._calls)
        try:
            if refusal:
                await send_json(sender, 403, {"code": "permission_denied", "message": refusal, "error": refusal})
            elif is_preflight:
                await sender({"type": "http.response.start", "status": 204, "headers": [(b"allow", b"GET, POST")]})
                await sender({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await self._answer(scope, headers, intake, sender)
        except (Left, ConnectError):
            pass  # there is nobody to be told
        except Exception as error:
            failure = masked(error, scope["path"])
            if not sender.is_started:
                await send_failure(sender, failure, failure.to_json() | {"error": failure.message})
        finally:
            intake.release()

    async def _answer(self, scope: Any, headers: Mapping[str, str], intake: Intake, send: Send) -> None:
        path: str = scope["path"]
        if path == "/v2" or path.startswith("/v2/"):
            await self._rest.answer(scope, headers, intake, send)
            return
        try:
            if path == "/":
                await self._about(scope, send)
                return
            method = self._find(path)
            context = context_of(scope)
            content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            if scope["method"] == "POST":
                self._check_type(method, content_type)
            else:
                self._check_get(method, scope)
            if content_type == "application/json" and method.contract.kind is MethodKind.SERVER_STREAM:
                await answer_lines(method, self._calls, intake, context, send)
                return
        except _WrongWay as wrong:
            failure = CallFailed.of(wrong.error)
            allow = [(b"allow", wrong.allow.encode())] if wrong.allow else []
            await send_json(send, wrong.status, failure.to_json(), allow)
            return
        except CallFailed as failure:
            is_unknown = failure.http_status == 501 and not self._methods.serves(path)
            await send_failure(send, failure, failure.to_json(), status=404 if is_unknown else None)
            return
        passed = [
            (key, value)
            for key, value in scope["headers"]
            if key not in _NOT_PASSED and key.isascii() and value.isascii()
        ]
        await self._connect.answer({**scope, "headers": passed}, context, intake, send)

    def _find(self, path: str) -> Method:
        method = self._methods.find(path)
        if method is not None:
            return method
        service, _, name = path[1:].rpartition("/")
        if not self._methods.serves(path):
            raise CallFailed.of(
                Unimplemented(
                    f"nobody serves {path[:200]} here; GET / lists what there is",
                    reason=ErrorReason.ERROR_REASON_METHOD_UNKNOWN,
                    method=path[:200],
                )
            )
        if self._methods.knows(service):
            raise CallFailed.of(
                Unimplemented(
                    f"{service} has no method {name[:100]!r}; GET / lists what there is",
                    reason=ErrorReason.ERROR_REASON_METHOD_UNKNOWN,
                    method=path[:200],
                )
            )
        raise CallFailed.of(
            NotReady(
                f"nothing is known of {service} yet: none of its replicas has been reached",
                reason=ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE,
                retry_after_s=1.0,
                service=service,
            )
        )

    def _check_type(self, method: Method, given: str) -> None:
        """Says what to send, where the library would answer 415 without a word."""
        if given in _WEB:
            return
        if given.startswith("application/grpc-web"):
            raise _WrongWay(f"content-type {given[:60]!r} is not taken; send {_WEB[1]}", 415)
        if given.startswith("application/grpc"):
            raise _WrongWay(f"this is the HTTP door; gRPC is spoken at port {self._grpc_port}", 415)
        kind = method.contract.kind
        if kind is MethodKind.BIDI_STREAM and given not in _STREAM:
            raise CallFailed.of(both_ways(method.path))
        known = _UNARY if kind is MethodKind.UNARY else (*_STREAM, "application/json")
        if kind is MethodKind.CLIENT_STREAM:
            known = _STREAM
        if given not in known:
            wanted = " or ".join(known)
            raise _WrongWay(f"content-type {given[:60]!r} is not taken by {method.path}; send {wanted}", 415)

    def _check_get(self, method: Method, scope: Any) -> None:
        contract = method.contract
        if contract.kind is not MethodKind.UNARY or contract.idempotency is not Idempotency.NO_SIDE_EFFECTS:
            raise _WrongWay(f"{method.path} is asked by POST", 405, "POST")
        if scope["method"] != "GET":
            raise _WrongWay(f"{method.path} is asked by GET or POST", 405, "GET, POST")
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if "message" not in query or query.get("encoding", [""])[0] not in ("json", "proto"):
            raise _WrongWay("a GET holds its request as ?encoding=json&message={}, percent-encoded", 400)

    async def _about(self, scope: Any, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise CallFailed.of(Precondition("there is nothing to be posted here; GET / lists what there is"))
        methods = [
            {
                "path": contract.path,
                "kind": contract.kind.value,
                "get": contract.idempotency.value == "no_side_effects" and contract.kind is MethodKind.UNARY,
            }
            for contract in self._methods
        ]
        about = {
            "name": "meshcast gateway",
            "version": version("meshcast"),
            "speaks": ["connect", "grpc-web", "json", "open-inference-rest"],
            "grpc_port": self._grpc_port,
            "health": ["/v2/health/live", "/v2/health/ready"],
            "rest": ["/v2", "/v2/models/{model}", "/v2/models/{model}/infer", "/v2/repository/index"],
            "methods": methods,
        }
        await send_json(send, 200, about)


class _WrongWay(Exception):
    """A request in a form that the method does not take; `status` and `allow` are HTTP's word for it."""

    def __init__(self, message: str, status: int, allow: str = "") -> None:
        super().__init__(message)
        self.error = InvalidInput(message)
        self.status = status
        self.allow = allow


class _Sender:
    """ASGI's `send`, with what every answer of the door says.

    Attributes:
        is_started: True once the head of the answer is out.
    """

    __slots__ = ("_calls", "_extra", "_head", "_intake", "_send", "is_started")

    def __init__(self, send: Send, extra: list[tuple[bytes, bytes]], intake: Intake, calls: Calls) -> None:
        self._send = send
        self._extra = extra
        self._intake = intake
        self._calls = calls
        self._head: Any = None  # held back until the first piece tells whether it is the last one
        self.is_started = False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [header for header in message.get("headers", ()) if header != _PLAIN]
            headers += [*self._extra, (b"x-content-type-options", b"nosniff")]
            if self._calls.is_draining or not self._intake.is_over:
                headers.append((b"connection", b"close"))
            if self._intake.retry_after_s is not None:
                headers = [header for header in headers if header[0] != b"retry-after"]
                headers.append((b"retry-after", str(self._intake.retry_after_s).encode()))
            self._head = {**message, "headers": headers}
            return
        if self._head is not None:
            head, self._head = self._head, None
            names = {name for name, _ in head["headers"]}
            if not message.get("more_body", False) and b"content-length" not in names and head["status"] != 204:
                head["headers"].append((b"content-length", str(len(message.get("body", b""))).encode()))
            self.is_started = True
            await self._send(head)
        await self._send(message)
