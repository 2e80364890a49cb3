"""Errors as a person reads them, and the exit codes that scripts read."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.cli.problem import ExitCode, Problem, report, translate
from meshcast.cli.settings import connect
from meshcast.cli.train import as_typed
from meshcast.rpc import (
    CorruptData,
    InvalidInput,
    MeshError,
    NotFound,
    NotReady,
    Overloaded,
    Precondition,
    Unimplemented,
)
from meshcast.runtime import read_options

UNREACHABLE = ErrorReason.ERROR_REASON_BACKEND_UNREACHABLE
GRPC_TEXT = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8001: Failed to connect to remote host: "
    "Connection refused"
)


@dataclass(frozen=True)
class Trainer:
    """Settings of a trainer."""

    epochs: int = 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("hour_of_day is 24", field="planned.hour_of_day"), ExitCode.USAGE),
        (NotFound("no version 9", reason=ErrorReason.ERROR_REASON_VERSION_UNKNOWN), ExitCode.REFUSED),
        (NotReady("loading", retry_after_s=1.0), ExitCode.REFUSED),
        (NotReady(GRPC_TEXT, reason=UNREACHABLE), ExitCode.UNREACHABLE),
        (Overloaded("full", retry_after_s=0.2), ExitCode.REFUSED),
        (CorruptData("truncated"), ExitCode.REFUSED),
        (
            Precondition("no pyarrow", reason=ErrorReason.ERROR_REASON_EXTRA_MISSING, command="pip install x"),
            ExitCode.EXTRA_MISSING,
        ),
    ],
)
def test_every_class_of_error_has_its_exit_code(error: MeshError, code: ExitCode) -> None:
    assert translate(error).exit_code is code


def test_fields_at_fault_are_listed_under_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = InvalidInput("2 fields are wrong", violations=[("a", "must be 1"), ("b[3]", "is missing")])
    assert report(error) == 2
    assert capsys.readouterr().err == "error: 2 fields are wrong\n  a: must be 1\n  b[3]: is missing\n"


@pytest.mark.parametrize(
    ("message", "field", "description"),
    [
        ("a.csv, row 3 (line 4), column 'views': is -1", "rows[3].views", "is -1"),
        ("the history is too short", "history", "the history is too short"),
    ],
)
def test_a_field_that_the_line_names_already_is_not_named_again(
    capsys: pytest.CaptureFixture[str], message: str, field: str, description: str
) -> None:
    assert report(InvalidInput(message, violations=[(field, description)])) == ExitCode.USAGE
    assert capsys.readouterr().err == f"error: {message}\n"


def test_of_many_faults_five_are_shown_and_the_others_counted() -> None:
    violations = [(f"line {at}", "is wrong") for at in range(50)]
    details = translate(InvalidInput("many faults", violations=violations)).details
    assert details == (*(f"line {at}: is wrong" for at in range(5)), "… and 45 more")
    counted = InvalidInput("many faults", violations=violations, faults=4_000)
    assert translate(counted).details[-1] == "… and 3,995 more"
    assert len(translate(InvalidInput("five faults", violations=violations[:5])).details) == 5


def test_what_is_not_served_names_the_way_out() -> None:
    unloaded = Precondition("it was unloaded", reason=ErrorReason.ERROR_REASON_MODEL_STATE, model="forecaster")
    assert translate(unloaded).way_out == "meshcast models load forecaster"
    elsewhere = Unimplemented("no such method", reason=ErrorReason.ERROR_REASON_METHOD_UNKNOWN)
    assert "meshcast up" in translate(elsewhere).way_out


def test_a_setting_of_a_trainer_is_named_as_it_was_typed() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_options(Trainer, {"Foo": "1"})
    assert str(as_typed(caught.value, {"Foo": "1"})) == "--set Foo: there is no such setting; known are epochs"
    with pytest.raises(InvalidInput) as caught:
        read_options(Trainer, {"epochs": "many"})
    assert str(as_typed(caught.value, {"epochs": "many"})) == "--set epochs: must be a whole number, is 'many'"
    other = InvalidInput("too few posts")
    assert as_typed(other, {"epochs": "1"}) is other


def test_an_address_that_nobody_listens_on_is_named_without_grpcs_wrapping() -> None:
    assert (
        translate(NotReady(GRPC_TEXT, reason=UNREACHABLE)).message == "cannot reach 127.0.0.1:8001: Connection refused"
    )
    behind = f"drift at 127.0.0.1:8001 cannot be reached ({GRPC_TEXT})"  # as a gateway says it
    assert translate(NotReady(behind, reason=UNREACHABLE)).message == "cannot reach 127.0.0.1:8001: Connection refused"


def test_a_target_that_is_away_is_told_in_the_commands_words() -> None:
    error = NotReady("to Python", reason=UNREACHABLE, target="a:1", cause="its health says NOT_SERVING")
    problem = translate(error)
    assert problem.message == "a:1 takes no calls now: its health says NOT_SERVING"
    assert problem.exit_code is ExitCode.UNREACHABLE
    error.facts["cause"] = "Connection refused"
    assert translate(error).message == "cannot reach a:1: Connection refused"


@pytest.mark.parametrize(
    ("target", "way_out"),
    [
        ("http://mesh.example:8001/x", "--target mesh.example:8001"),
        ("https://mesh.example", "--target mesh.example:8001"),
    ],
)
def test_a_url_is_no_target(target: str, way_out: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="is a URL") as caught:
        connect(target, config=None, state_dir=tmp_path)
    assert (caught.value.exit_code, caught.value.way_out) == (ExitCode.USAGE, way_out)
    assert connect("dns:///mesh:8001", config=None, state_dir=tmp_path).target == "dns:///mesh:8001"


def test_the_missing_extra_is_named_with_its_pip_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = ModuleNotFoundError("No module named 'torch'", name="torch._C")
    assert report(error) == ExitCode.EXTRA_MISSING
    assert "pip install 'meshcast[train]'" in capsys.readouterr().err


def test_a_bug_is_called_one_and_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(ZeroDivisionError("division by zero")) == ExitCode.REFUSED
    shown = capsys.readouterr().err
    assert "internal error: ZeroDivisionError" in shown
    assert "Traceback" not in shown


def test_one_failure_of_several_processes_speaks_for_all() -> None:
    group = ExceptionGroup("tasks", [ExceptionGroup("inner", [Problem("no port")]), ValueError("x")])
    assert translate(group).message == "no port"


def test_help_is_there_without_loading_grpc() -> None:
    code = (
        "import sys\n"
        "from meshcast.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "sys.exit(any(name.split('.')[0] in ('grpc', 'numpy', 'torch') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "meshcast predict posts.csv" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        *("up", "down", "status", "predict", "stream", "train", "export", "call", "probe", "doctor"),
        *("models list", "models metadata", "models card", "models load", "models unload"),
    ],
)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from meshcast.cli import main

    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"$ meshcast {command}" in shown
    assert "Exit codes: 0 done" in shown


def test_a_fault_of_a_file_is_told_once() -> None:
    first, second = ("row 1, column 'x'", "must be a number"), ("row 2, column 'x'", "must be a number")
    text = "a.csv, row 1 (line 2), column 'x': must be a number"
    assert translate(InvalidInput(text, violations=[first], file="a.csv")).details == ()
    told = translate(InvalidInput(text, violations=[first, second], file="a.csv")).details
    assert told == ("row 2, column 'x': must be a number",)
