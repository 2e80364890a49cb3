"""Contracts: kinds and receipts of methods, from stubs at hand and from a backend's files."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st

from meshcast.api.predictor.v1 import predictor_pb2
from meshcast.gateway.contracts import Contracts, MethodKind

PREDICTOR = "meshcast.api.predictor.v1.PredictorService"
ACME = "acme.EchoService"


def acme_files(*methods: tuple[str, bool, bool]) -> list[FileDescriptorProto]:
    text = FileDescriptorProto(name="acme/text.proto", package="acme", syntax="proto3")
    text.message_type.add(name="Text")
    echo = FileDescriptorProto(name="acme/echo.proto", package="acme", syntax="proto3", dependency=["acme/text.proto"])
    service = echo.service.add(name="EchoService")
    for name, client, server in methods:
        service.method.add(
            name=name,
            input_type=".acme.Text",
            output_type=".acme.Text",
            client_streaming=client,
            server_streaming=server,
        )
    return [echo, text]


def test_our_own_contracts_are_known_from_their_stubs() -> None:
    assert predictor_pb2.DESCRIPTOR is not None  # imported, so in the pool
    methods = Contracts().methods(PREDICTOR)
    assert methods is not None
    unary = methods[f"/{PREDICTOR}/PredictEngagement"]
    stream = methods[f"/{PREDICTOR}/PredictEngagementStream"]
    assert (unary.kind, stream.kind) == (MethodKind.UNARY, MethodKind.BIDI_STREAM)
    assert unary.has_receipt and stream.has_receipt


def test_nothing_is_known_of_a_service_that_nobody_described() -> None:
    assert Contracts().methods(ACME) is None


def test_a_backends_files_teach_all_four_kinds() -> None:
    contracts = Contracts()
    kinds = [("A", False, False), ("B", True, False), ("C", False, True), ("D", True, True)]
    contracts.learn(ACME, acme_files(*kinds))
    methods = contracts.methods(ACME)
    assert methods is not None
    assert [method.kind for method in methods.values()] == [*MethodKind]
    assert not any(method.has_receipt for method in methods.values())


def test_what_replicas_of_two_releases_have_is_all_routed() -> None:
    contracts = Contracts()
    contracts.learn(ACME, acme_files(("Old", False, False)))
    contracts.learn(ACME, acme_files(("New", False, False)))
    assert {*(contracts.methods(ACME) or ())} == {f"/{ACME}/Old", f"/{ACME}/New"}


def test_learning_the_same_again_changes_nothing() -> None:
    contracts = Contracts()
    contracts.learn(ACME, acme_files(("A", False, False)))
    revision = contracts.revision
    contracts.learn(ACME, acme_files(("A", False, False)))
    assert contracts.revision == revision


def test_files_that_lack_an_import_are_refused() -> None:
    with pytest.raises(ValueError, match=ACME):
        Contracts().learn(ACME, acme_files(("A", False, False))[:1])


@given(st.lists(st.binary(max_size=64), max_size=4))
def test_hostile_files_are_refused_or_taken_but_never_crash(encoded: list[bytes]) -> None:
    files = []
    for data in encoded:
        try:
            files.append(descriptor_pb2.FileDescriptorProto.FromString(data))
        except Exception:
            continue
    with pytest.raises(ValueError, match=ACME):
        Contracts().learn(ACME, files)
