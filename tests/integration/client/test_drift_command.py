"""`meshcast drift` against a service whose subject somebody else uses at the same time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.drift.v1 import drift_pb2_grpc as pb_grpc
from meshcast.cli.drift import drift
from meshcast.cli.drift_input import Columns
from meshcast.cli.problem import ExitCode, Problem
from meshcast.rpc import InvalidInput, RpcSettings, Server, to_item

ROWS = 40


class Drift(pb_grpc.DriftServiceServicer):
    """Counts rows in windows of 10; `others` came from somebody else, who may also have `replaced` the reference."""

    def __init__(self, *, others: int = 0, replaced: str = "") -> None:
        self.observed = others
        self.replaced = replaced

    @property
    def version(self) -> int:
        return 2 if self.replaced else 1

    async def SetReference(self, request: pb.SetReferenceRequest, context: Any) -> pb.SetReferenceResponse:
        options = pb.DriftOptions(window_rows=request.options.window_rows)
        return pb.SetReferenceResponse(
            reference=pb.ReferenceDescription(subject=request.subject, version=1, options=options)
        )

    async def ObserveStream(
        self, requests: AsyncIterator[pb.ObserveStreamRequest], context: Any
    ) -> AsyncIterator[pb.ObserveStreamResponse]:
        async for request in requests:
            answer = pb.ObserveStreamResponse(sequence=request.sequence, reference_version=self.version)
            if self.replaced == "with other columns":
                answer.status.CopyFrom(to_item(InvalidInput("other columns than the reference", field="observations")))
            else:
                before, self.observed = self.observed, self.observed + request.observations.rows
                answer.rows, answer.windows_closed = request.observations.rows, self.observed // 10 - before // 10
            yield answer

    async def DetectDataDrift(self, request: pb.DetectDataDriftRequest, context: Any) -> pb.DetectDataDriftResponse:
        return pb.DetectDataDriftResponse(report=pb.DriftReport(reference_version=self.version))

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Any) -> pb.DescribeModelResponse:
        reference = pb.ReferenceDescription(version=self.version, observed_rows=self.observed)
        return pb.DescribeModelResponse(references=[reference])


async def compared(serve: Callable[..., Awaitable[Server]], folder: Path, **of_others: Any) -> int:
    servicer = Drift(**of_others)  # type: ignore[abstract]  # what is not asked is not here
    settings = RpcSettings(metrics=False, drain_delay_s=0.0, drain_s=0.2)
    server = await serve(lambda one: pb_grpc.add_DriftServiceServicer_to_server(servicer, one), settings=settings)
    for name in ("reference.csv", "window.csv"):
        (folder / name).write_text("x\n" + "".join(f"{row % 7}.5\n" for row in range(ROWS)), "utf-8")
    given: dict[str, Any] = dict.fromkeys(("false_alarms", "chance", "subject", "html", "config"))
    return await asyncio.to_thread(
        drift,
        folder / "reference.csv",
        folder / "window.csv",
        columns=Columns(),
        size="10",
        fail_on="any",
        target=server.address,
        state_dir=folder,
        timeout_s=30.0,
        as_json=False,
        **given,
    )


async def test_windows_of_one_file_alone_are_told(serve: Any, tmp_path: Path) -> None:
    assert await compared(serve, tmp_path) == 0


@pytest.mark.parametrize(
    "of_others", [{"others": 5}, {"replaced": "with the same columns"}, {"replaced": "with other columns"}]
)
async def test_a_subject_that_another_comparison_uses_tells_nothing(
    serve: Any, tmp_path: Path, of_others: dict[str, Any]
) -> None:
    with pytest.raises(Problem, match="another comparison uses 'meshcast-drift'") as caught:
        await compared(serve, tmp_path, **of_others)
    assert caught.value.exit_code is ExitCode.REFUSED and "--subject NAME" in caught.value.way_out
