"""Odd rows to real processes: every rpc gives a right answer or names the field, in bounded time, and goes on serving;
directly and through the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.observations import CategoryColumn, Observations, pack_observations
from meshcast.rpc import InvalidInput, MeshError, Overloaded, from_item, mesh_errors

BOUND_S = 15.0
"""Deadline of each of these calls, in seconds, for a busy host; alone none takes more than two."""

ROWS = 600
HOUR_US = 3_600_000_000
NOW_US = 1_750_000_000_000_000

Asked = Any


def table(rows: int = ROWS, seed: int = 0, **changes: Any) -> Observations:
    """Rows of a number, a constant, a column of nulls and a category; changes replace columns."""
    rng = np.random.default_rng(seed)
    numeric = {
        "x": rng.normal(size=rows).astype(np.float32),
        "one": np.ones(rows, dtype=np.float32),
        "void": np.full(rows, np.nan, dtype=np.float32),
    }
    town = CategoryColumn(rng.integers(0, 3, rows).astype(np.int32), ("Oslo", "Rome", "Bonn"))
    return Observations(rows, {**numeric, **changes}, {"town": town})


def wide(columns: int, rows: int = 2) -> Observations:
    return Observations(rows, {f"c{at}": np.zeros(rows, dtype=np.float32) for at in range(columns)}, {})


@pytest.fixture(scope="module")
def doors(mesh_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of one drift service, asked directly and through a gateway."""
    folder = tmp_path_factory.mktemp("mesh")
    with (
        mesh_of.drift(folder, DRIFT_WINDOW_ROWS="100") as server,
        mesh_of.gateway(folder, drifts=[server.address]) as gateway,
    ):
        yield {"direct": server.address, "gateway": gateway.address}


@pytest.fixture(params=["direct", "gateway"])
async def asked(request: pytest.FixtureRequest, doors: dict[str, str], mesh_of: Any) -> AsyncIterator[Asked]:
    """A client of either address, with a reference under the name `a`; afterwards the service still answers."""
    async with mesh_of.peer(doors[request.param]) as peer:
        await set_reference(peer.drift, table())
        yield peer.drift
    for address in doors.values():
        async with mesh_of.peer(address) as peer:
            report = await detect(peer.drift, subject="a", observations=table(200, 1))
            assert report.window.rows == 200


async def set_reference(stub: Any, rows: Observations, subject: str = "a", **fields: Any) -> pb.ReferenceDescription:
    with mesh_errors():
        request = pb.SetReferenceRequest(subject=subject, observations=pack_observations(rows), **fields)
        answer: pb.SetReferenceResponse = await stub.SetReference(request, timeout=BOUND_S)
    return answer.reference


async def detect(stub: Any, **fields: Any) -> pb.DriftReport:
    fields = {name: pack_observations(one) if isinstance(one, Observations) else one for name, one in fields.items()}
    with mesh_errors():
        answer: pb.DetectDataDriftResponse = await stub.DetectDataDrift(
            pb.DetectDataDriftRequest(**fields), timeout=BOUND_S
        )
    return answer.report


async def observe(stub: Any, *chunks: Observations, subject: str = "a") -> list[pb.ObserveStreamResponse]:
    requests = [
        pb.ObserveStreamRequest(sequence=at, subject=subject, observations=pack_observations(chunk))
        for at, chunk in enumerate(chunks)
    ]
    call = stub.ObserveStream(iter(requests), timeout=BOUND_S)
    with mesh_errors(call):
        return [answer async for answer in call]


def fields_of(error: MeshError) -> set[str]:
    return {violation.field for violation in error.violations}


# --- odd windows ---


ODD: dict[str, Callable[[], Observations]] = {
    "one row": lambda: table(1),
    "infinities": lambda: table(x=np.where(np.arange(ROWS) % 2, np.inf, -np.inf).astype(np.float32)),
    "nothing but nulls": lambda: table(x=np.full(ROWS, np.nan, dtype=np.float32)),
    "a constant that moved": lambda: table(one=np.full(ROWS, 2, dtype=np.float32)),
    "the largest numbers": lambda: table(x=np.full(ROWS, 3e38, dtype=np.float32)),
    "numbers beyond float32": lambda: table(x=np.full(ROWS, 1e308)),
    "the smallest numbers": lambda: table(x=np.full(ROWS, 5e-324)),
    "values where there were nulls": lambda: table(void=np.ones(ROWS, dtype=np.float32)),
    "new categories": lambda: Observations(
        ROWS,
        table().numeric,
        {"town": CategoryColumn(np.arange(ROWS, dtype=np.int32), tuple(f"town {at}" for at in range(ROWS)))},
    ),
    "odd names of categories": lambda: Observations(
        ROWS,
        table().numeric,
        {"town": CategoryColumn(np.arange(ROWS, dtype=np.int32) % 5, ("", "\x00", "x" * 256, "\u202eevil", "😀"))},
    ),
    "a void column of the other kind": lambda: Observations(
        ROWS,
        {name: values for name, values in table().numeric.items() if name != "void"},
        {**table().categorical, "void": CategoryColumn(np.full(ROWS, -1, dtype=np.int32), ())},
    ),
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_windows_are_reported_and_counted(asked: Asked, name: str) -> None:
    rows = ODD[name]()
    report = await detect(asked, subject="a", observations=rows, plots=["*"])
    assert report.window.rows == rows.rows and report.summary
    assert len(report.features) == 4
    standing_alone = await detect(asked, reference=table(), observations=rows)
    assert standing_alone.is_drift == report.is_drift
    (answer,) = await observe(asked, rows)
    assert answer.status.code == 0 and answer.windows_closed == rows.rows // 100
    if rows.rows >= 100:
        assert (await detect(asked, subject="a")).window.rows == 100


async def test_a_drift_to_infinity_and_new_categories_are_told(asked: Asked) -> None:
    infinite = await detect(asked, subject="a", observations=ODD["infinities"]())
    assert infinite.is_drift and infinite.features[0].name == "x"
    assert infinite.features[0].window.infinities == ROWS
    novel = await detect(asked, subject="a", observations=ODD["new categories"]())
    assert novel.is_drift and novel.features[0].name == "town"
    assert novel.features[0].effects.unseen_share == 1
    assert len(novel.features[0].window.unseen_categories) == 20


async def test_odd_references_are_taken(asked: Asked) -> None:
    for rows in (table(2), ODD["infinities"](), ODD["nothing but nulls"](), ODD["numbers beyond float32"]()):
        reference = await set_reference(asked, rows, subject="odd")
        assert reference.rows == rows.rows and len(reference.features) >= 4
        assert (await detect(asked, subject="odd", observations=table(50))).summary
        answers = await observe(asked, table(150), subject="odd")
        assert answers[0].status.code == 0


# --- rows that are refused ---


async def test_other_columns_zero_rows_and_too_many_columns_name_their_fields(asked: Asked) -> None:
    missing = Observations(5, {"x": np.zeros(5), "more": np.zeros(5)}, {})
    for window, fields in (
        (missing, {"observations.one", "observations.void", "observations.town", "observations.more"}),
        (table(0), {"observations.rows"}),
        (wide(10_000), {"observations"}),
    ):
        with pytest.raises(InvalidInput) as caught:
            await detect(asked, subject="a", observations=window)
        assert fields_of(caught.value) >= fields
        (answer,) = await observe(asked, window)
        assert fields_of(from_item(answer.status)) >= fields
    with pytest.raises(InvalidInput, match="features_max"):
        await set_reference(asked, wide(10_000), subject="b")


async def test_columns_that_lie_about_their_length_name_their_fields(asked: Asked) -> None:
    message = pack_observations(table(4))
    message.numeric[0].f32 = b"\0" * 15
    message.numeric[1].ClearField("f32")
    message.categorical[0].codes[0] = 3
    message.unix_us.append(1)
    with pytest.raises(InvalidInput) as caught, mesh_errors():
        await asked.DetectDataDrift(pb.DetectDataDriftRequest(subject="a", observations=message), timeout=BOUND_S)
    assert fields_of(caught.value) == {
        "observations.numeric[0].f32",
        "observations.numeric[1]",
        "observations.categorical[0].codes[0]",
        "observations.unix_us",
    }
    message.rows = -(2**31)
    with pytest.raises(InvalidInput), mesh_errors():
        await asked.DetectDataDrift(pb.DetectDataDriftRequest(subject="a", observations=message), timeout=BOUND_S)


async def test_identifiers_are_no_feature(asked: Asked) -> None:
    rows = 66_000
    column = CategoryColumn(np.arange(rows, dtype=np.int32) % 65_536, tuple(f"{at:x}" for at in range(65_536)))
    reference = await set_reference(asked, Observations(rows, {}, {"id": column}), subject="ids")
    assert reference.rows == rows
    message = pack_observations(Observations(1, {}, {"id": CategoryColumn(np.zeros(1, np.int32), ("a",))}))
    message.categorical[0].categories.extend(f"{at}" for at in range(65_536))
    with pytest.raises(InvalidInput) as caught, mesh_errors():
        await asked.DetectDataDrift(pb.DetectDataDriftRequest(subject="ids", observations=message), timeout=BOUND_S)
    assert fields_of(caught.value) == {"observations.categorical[0].categories"}


async def test_a_message_over_the_limit_is_refused_with_the_limit(asked: Asked) -> None:
    large = table(1_200_000)
    with pytest.raises(Overloaded) as caught:
        await detect(asked, subject="a", observations=large)
    assert caught.value.reason == ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE


# --- time ---


async def test_clocks_that_jump_are_taken_or_refused(asked: Asked) -> None:
    def at(us: int, rows: int = 50) -> Observations:
        one = table(rows)
        return Observations(rows, one.numeric, one.categorical, np.full(rows, us, dtype=np.int64))

    answers = await observe(
        asked, at(NOW_US), at(NOW_US - 400 * 24 * HOUR_US), at(NOW_US + HOUR_US), at(-1), at(4 * NOW_US), at(2**62)
    )
    assert [answer.status.code == 0 for answer in answers] == [True, True, True, True, False, False]
    assert fields_of(from_item(answers[4].status)) == {"observations.unix_us"}
    assert fields_of(from_item(answers[5].status)) == {"observations.unix_us[0]"}
    report = await detect(asked, subject="a", all=pb.AllObserved())
    assert report.window.rows == 200


async def test_a_reference_is_replaced_again_and_again_while_a_stream_runs(asked: Asked) -> None:
    is_over, room = asyncio.Event(), asyncio.Semaphore(8)

    async def requests() -> AsyncIterator[pb.ObserveStreamRequest]:
        sequence = 0
        while not is_over.is_set():
            sequence += 1
            yield pb.ObserveStreamRequest(
                sequence=sequence, subject="a", observations=pack_observations(table(70, sequence)), stream_id="s"
            )
            await room.acquire()

    async def replace() -> None:
        try:
            for seed in range(5):
                await set_reference(asked, table(300, seed))
        finally:
            is_over.set()

    call = asked.ObserveStream(requests(), timeout=BOUND_S)
    replacing = asyncio.create_task(replace())
    versions = []
    with mesh_errors(call):
        async for answer in call:
            room.release()
            # A chunk that was being counted against the reference that went is told so, and may be sent again.
            assert answer.status.code in (0, 10), answer.status
            if answer.status.code == 0:
                versions.append(answer.reference_version)
    await replacing
    assert versions == sorted(versions)
