"""Stubs of contracts that live outside of this distribution."""

from pathlib import Path

import pytest

from meshcast.cli.problem import Problem
from meshcast.cli.stubs import stubs

CONTRACT = """
syntax = "proto3";
package somebody.v1;
import "google/protobuf/timestamp.proto";
import "meshcast/api/type/v1/receipt.proto";
service AskService { rpc Ask(AskRequest) returns (AskResponse); }
message AskRequest { google.protobuf.Timestamp asked_time = 1; }
message AskResponse { meshcast.api.type.v1.Receipt receipt = 15; }
"""


def test_a_contract_elsewhere_may_import_what_contracts_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract = tmp_path / "protos" / "somebody" / "v1" / "ask.proto"
    contract.parent.mkdir(parents=True)
    contract.write_text(CONTRACT, "utf-8")
    stubs(tmp_path / "protos", out=tmp_path / "gen")
    written = {path.relative_to(tmp_path / "gen").as_posix() for path in (tmp_path / "gen").rglob("*.py*")}
    names = ("ask_pb2.py", "ask_pb2.pyi", "ask_pb2_grpc.py", "ask_pb2_grpc.pyi")
    assert written == {f"somebody/v1/{name}" for name in names}
    text = (tmp_path / "gen" / "somebody" / "v1" / "ask_pb2.pyi").read_text("utf-8")
    assert "from meshcast.api.type.v1 import receipt_pb2" in text
    assert "ask_pb2.py" in capsys.readouterr().out.replace("\n", "")


def test_a_contract_that_is_wrong_and_a_folder_without_any_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"no \.proto file"):
        stubs(tmp_path, out=tmp_path / "gen")
    (tmp_path / "wrong.proto").write_text("message {", "utf-8")
    with pytest.raises(Problem, match="refused"):
        stubs(tmp_path, out=tmp_path / "gen")
