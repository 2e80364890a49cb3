"""The forecaster as a mesh runs it: forecasts through the gateway, actual values that outlive a kill, doors, drain."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.api.gateway.v1 import gateway_pb2
from meshcast.api.oip.v2 import grpc_service_pb2 as oip
from meshcast.api.type.v1.error_reason_pb2 import ErrorReason
from meshcast.rpc import InvalidInput, NotFound, ServingStatus, mesh_errors, prediction_id, probe, row_id
from meshcast.runtime import find_example
from meshcast.services.forecaster import SERVICE

FORECASTER = "meshcast.api.forecaster.v1.ForecasterService"
HORIZON = 14


@dataclass(frozen=True)
class Mesh:
    """A predictor, a forecaster and a gateway before both."""

    predictor: Any
    forecaster: Any
    gateway: Any

    @property
    def doors(self) -> list[str]:
        """Addresses that answer questions about growth."""
        return [self.forecaster.address, self.gateway.address]


@pytest.fixture(scope="module")
def mesh(mesh_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    with (
        mesh_of.predictor(folder) as predictor,
        mesh_of.forecaster(folder) as forecaster,
        mesh_of.gateway(folder, predictor.address, forecasters=[forecaster.address]) as gateway,
    ):
        yield Mesh(predictor, forecaster, gateway)


async def within_a_second(read: Callable[[], Awaitable[Any]]) -> Any:
    """What a read gives that may be early: forecasts are written behind their answers."""
    async with asyncio.timeout(10):  # the promise is a second; a busy host is no failure of it
        while True:
            try:
                with mesh_errors():
                    return await read()
            except NotFound:
                await asyncio.sleep(0.02)


async def read_back(asked: Any, forecast_id: str, **fields: Any) -> pb.ReadForecastResponse:
    """A stored forecast."""
    request = pb.ReadForecastRequest(forecast_id=forecast_id, **fields)
    stored: pb.ReadForecastResponse = await within_a_second(lambda: asked.growth.ReadForecast(request, timeout=10))
    return stored


async def forecast(asked: Any, request: pb.ForecastGrowthRequest) -> pb.ForecastGrowthResponse:
    """The answer to a question."""
    with mesh_errors():
        answer: pb.ForecastGrowthResponse = await asked.growth.ForecastGrowth(request, timeout=10)
    return answer


async def record(
    asked: Any, mesh_of: Any, series: str, values: Any, first_day: int | None = None
) -> pb.RecordActualsResponse:
    """Records values from the day after the made-up series on."""
    day = np.arange(len(values)) + (mesh_of.LAST_DAY + 1 if first_day is None else first_day)
    columns = pb.DayColumns(
        days=len(day), day=day.astype("<i4").tobytes(), value=np.asarray(values, dtype="<f8").tobytes()
    )
    with mesh_errors():
        answer: pb.RecordActualsResponse = await asked.growth.RecordActuals(
            pb.RecordActualsRequest(series=series, actual_columns=columns), timeout=10
        )
    return answer


def widths(answer: pb.ForecastGrowthResponse) -> list[float]:
    """Mean width of each interval."""
    return [float(np.mean(np.subtract(one.upper, one.lower))) for one in answer.forecast.intervals]


async def test_a_forecast_through_the_gateway_is_read_back_by_the_id_of_its_request(mesh: Mesh, mesh_of: Any) -> None:
    request = mesh_of.growth_question(request_id="growth-17", series="read-back", horizon_days=HORIZON)
    async with mesh_of.peer(mesh.gateway.address) as asked:
        answer = await forecast(asked, request)
    assert answer.forecast.first_date == "2020-01-01"
    assert len(answer.forecast.median) == HORIZON
    assert [one.level for one in answer.forecast.intervals] == [0.8, 0.95]
    assert answer.receipt.gateway.endpoint == mesh.forecaster.address
    assert answer.receipt.prediction_id == prediction_id("growth-17")
    for address in mesh.doors:
        async with mesh_of.peer(address) as asked:
            stored = await read_back(asked, answer.receipt.prediction_id)
            other = await read_back(asked, answer.receipt.prediction_id, levels=[0.5], quantiles=[0.1, 0.9])
        assert stored.forecast == answer.forecast  # to the last bit
        assert (stored.forecast_id, stored.series) == (answer.receipt.prediction_id, "read-back")
        assert (stored.model_version, stored.backend) == (answer.receipt.model_version, answer.receipt.backend)
        assert not stored.actuals
        (half,) = other.forecast.intervals
        inner = answer.forecast.intervals[0]
        tenth, ninetieth = other.forecast.quantiles
        assert (half.level, tenth.level, ninetieth.level) == (0.5, 0.1, 0.9)
        assert np.all(np.asarray(inner.lower) <= half.lower) and np.all(np.asarray(half.upper) <= inner.upper)
        assert list(tenth.values) == pytest.approx(list(inner.lower))
        assert list(ninetieth.values) == pytest.approx(list(inner.upper))


async def test_rows_of_a_chunk_are_read_back_by_their_numbers_and_are_what_single_calls_give(
    mesh: Mesh, mesh_of: Any
) -> None:
    columns = mesh_of.growth_question().history_columns
    starts, stops = np.array([0, 0, 20], dtype="<i4"), np.array([60, 90, 120], dtype="<i4")
    request = pb.ForecastGrowthStreamRequest(
        sequence=5,
        request_id="rolling-1",
        history=columns,
        history_start=starts.tobytes(),
        history_stop=stops.tobytes(),
        nonnegative=[True],
        horizon_days=HORIZON,
    )
    for address in mesh.doors:
        async with mesh_of.peer(address) as asked:
            call = asked.growth.ForecastGrowthStream(iter([request]), timeout=10)
            with mesh_errors(call):
                (chunk,) = [answer async for answer in call]
            assert (chunk.sequence, chunk.rows, chunk.horizon_days) == (5, 3, HORIZON)
            assert not chunk.failed and list(chunk.levels) == [0.8, 0.95]
            median = np.frombuffer(chunk.median, dtype="<f4").reshape(3, HORIZON)
            lower = np.frombuffer(chunk.lower, dtype="<f4").reshape(2, 3, HORIZON)
            for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
                part = pb.DayColumns(
                    days=stop - start, day=columns.day[4 * start : 4 * stop], value=columns.value[8 * start : 8 * stop]
                )
                single = await forecast(
                    asked, pb.ForecastGrowthRequest(history_columns=part, nonnegative=True, horizon_days=HORIZON)
                )
                assert single.forecast.median == pytest.approx(median[row].tolist(), rel=1e-4)
                stored = await read_back(asked, row_id(chunk.receipt.prediction_id, row))
                assert stored.forecast.median == pytest.approx(median[row].tolist(), rel=1e-6)
                assert stored.forecast.intervals[1].lower == pytest.approx(lower[1, row].tolist(), rel=1e-6)


async def test_both_doors_say_the_same_through_the_gateway_and_directly(mesh: Mesh, mesh_of: Any) -> None:
    example = find_example(SERVICE).single
    request: Any = example.request(1, 3)
    arrays = example.tensors(request)
    infer = oip.ModelInferRequest(model_name="forecaster")
    for name, array in arrays.items():
        infer.inputs.add(name=name, datatype="FP32", shape=array.shape)
        infer.raw_input_contents.append(np.ascontiguousarray(array, dtype="<f4").tobytes())
    for address in mesh.doors:
        async with mesh_of.peer(address) as asked:
            typed = example.outputs(await forecast(asked, request))
            with mesh_errors():
                answer = await asked.oip.ModelInfer(infer, timeout=10)
        told = {
            output.name: np.frombuffer(raw, dtype="<f4").reshape(list(output.shape))
            for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }
        assert typed
        for name, values in typed.items():
            assert values.shape == told[name].shape
            assert np.allclose(values, told[name], rtol=1e-5, atol=1e-5), (address, name)


async def test_actual_values_move_the_intervals_and_outlive_a_kill(mesh_of: Any, tmp_path: Path) -> None:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    question = mesh_of.growth_question(series="moving", horizon_days=HORIZON, levels=[0.8])
    still = mesh_of.growth_question(series="another", horizon_days=HORIZON, levels=[0.8])
    with mesh_of.gateway(tmp_path, forecasters=[f"127.0.0.1:{port}"]) as gateway:
        with mesh_of.forecaster(tmp_path, port) as server:
            await until_it_serves(gateway.address)
            async with mesh_of.peer(gateway.address) as asked:
                before = await forecast(asked, question)
                assert not before.evidence
                await read_back(asked, before.receipt.prediction_id)
                far_off = 3 * np.asarray(before.forecast.intervals[0].upper)
                recorded = await record(asked, mesh_of, "moving", far_off)
                assert (recorded.recorded, recorded.unchanged, recorded.corrected) == (HORIZON, 0, 0)
                assert recorded.compared >= HORIZON
            server.popen.send_signal(signal.SIGKILL)  # at once: what was acknowledged is on disk
            server.popen.wait(10)
        with mesh_of.forecaster(tmp_path, port):
            await until_it_serves(gateway.address)
            async with mesh_of.peer(gateway.address) as asked:
                after = await forecast(asked, question)
                unmoved = await forecast(asked, still)
                stored = await read_back(asked, before.receipt.prediction_id)
                again = await record(asked, mesh_of, "moving", far_off)
                corrected = await record(asked, mesh_of, "moving", far_off[:2] + 1)
    assert [value.value for value in stored.actuals] == pytest.approx(far_off.tolist())
    assert [value.date for value in stored.actuals][:2] == ["2020-01-01", "2020-01-02"]
    assert (again.recorded, again.unchanged, again.corrected) == (0, HORIZON, 0)
    assert (corrected.recorded, corrected.unchanged, corrected.corrected) == (0, 0, 2)
    (evidence,) = (one for one in after.evidence if one.level == pytest.approx(0.8))
    assert evidence.compared >= HORIZON and evidence.coverage == 0
    assert evidence.width_factor > 1
    assert widths(after)[0] > widths(before)[0]
    assert unmoved.forecast == before.forecast  # another series learns nothing from it
    assert not unmoved.evidence
    assert again.evidence[0].compared == recorded.evidence[0].compared


async def until_it_serves(address: str) -> None:
    """Waits until the gateway at `address` says that the forecaster serves."""
    async with asyncio.timeout(20):
        while await probe(address, FORECASTER) is not ServingStatus.SERVING:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.02)


async def test_a_comprehensive_answer_has_both_parts_and_their_ids_follow_from_its_own(
    mesh: Mesh, mesh_of: Any
) -> None:
    request = gateway_pb2.PredictComprehensiveRequest(
        request_id="whole-1",
        parts=[gateway_pb2.PART_ENGAGEMENT, gateway_pb2.PART_GROWTH],
        engagement=mesh_of.question(),
        growth=mesh_of.growth_question(horizon_days=HORIZON),
    )
    async with mesh_of.peer(mesh.gateway.address) as asked:
        call = asked.mesh.PredictComprehensive(request, timeout=10)
        with mesh_errors(call):
            *parts, last = [part async for part in call]
        by_part = {part.part: part for part in parts}
        assert sorted(last.summary.answered) == [gateway_pb2.PART_ENGAGEMENT, gateway_pb2.PART_GROWTH]
        growth = by_part[gateway_pb2.PART_GROWTH].growth
        engagement = by_part[gateway_pb2.PART_ENGAGEMENT].engagement
        assert len(growth.forecast.median) == HORIZON and engagement.prediction.engagement > 0
        assert growth.receipt.prediction_id == engagement.receipt.prediction_id == prediction_id("whole-1")
        stored = await read_back(asked, growth.receipt.prediction_id)
        assert stored.forecast == growth.forecast
        routed = await asked.mesh.RoutePrediction(
            gateway_pb2.RoutePredictionRequest(growth=mesh_of.growth_question(horizon_days=HORIZON)), timeout=10
        )
        assert routed.growth.forecast == growth.forecast


async def test_patterns_and_checks_are_answered_through_the_gateway(mesh: Mesh, mesh_of: Any) -> None:
    question = mesh_of.growth_question()
    async with mesh_of.peer(mesh.gateway.address) as asked:
        with mesh_errors():
            patterns = await asked.growth.AnalyzeGrowthPatterns(
                pb.AnalyzeGrowthPatternsRequest(history_columns=question.history_columns), timeout=10
            )
            valid = await asked.growth.ValidateSeries(pb.ValidateSeriesRequest(request=question), timeout=10)
            described = await asked.growth.DescribeModel(pb.DescribeModelRequest(), timeout=10)
    assert patterns.weekly.present and len(patterns.weekly.effects) == 7
    assert (patterns.trend.last_date, patterns.receipt.gateway.attempts) == ("2019-12-31", 1)
    assert valid.valid and not valid.violations
    assert described.model.name == "forecaster" and described.horizon_days_max == 90


async def test_ids_that_nobody_stored_are_not_found_and_an_empty_one_is_refused(mesh: Mesh, mesh_of: Any) -> None:
    for address in mesh.doors:
        async with mesh_of.peer(address) as asked:
            for unknown in ("nobody", f"{prediction_id('growth-17')}.999", "x" * 3_000, "a.-1", "a.b.c"):
                with pytest.raises(NotFound) as caught, mesh_errors():
                    await asked.growth.ReadForecast(pb.ReadForecastRequest(forecast_id=unknown), timeout=10)
                assert caught.value.reason == ErrorReason.ERROR_REASON_PREDICTION_UNKNOWN
            with pytest.raises(InvalidInput) as refusal, mesh_errors():
                await asked.growth.ReadForecast(pb.ReadForecastRequest(), timeout=10)
            assert [violation.field for violation in refusal.value.violations] == ["forecast_id"]


async def test_what_was_answered_and_recorded_before_a_drain_is_there_after_the_restart(
    mesh_of: Any, tmp_path: Path
) -> None:
    answers: dict[str, list[float]] = {}
    with mesh_of.forecaster(tmp_path) as server:
        async with mesh_of.peer(server.address) as asked:

            async def ask(number: int) -> None:
                request = mesh_of.growth_question(
                    seed=number % 5, request_id=f"last-{number}", series=f"drained-{number % 5}", horizon_days=HORIZON
                )
                answer = await asked.growth.ForecastGrowth(request, timeout=10)
                answers[answer.receipt.prediction_id] = list(answer.forecast.median)

            await asyncio.gather(*(ask(number) for number in range(100)))
            for number in range(5):
                await record(asked, mesh_of, f"drained-{number}", np.full(HORIZON, 900.0))
            server.popen.send_signal(signal.SIGTERM)  # at once: what is still to be written goes with the drain
        assert await asyncio.to_thread(server.popen.wait, 20) == 0
    assert len(answers) == 100
    with mesh_of.forecaster(tmp_path) as server:
        async with mesh_of.peer(server.address) as asked:
            for forecast_id, median in answers.items():
                with mesh_errors():
                    stored = await asked.growth.ReadForecast(
                        pb.ReadForecastRequest(forecast_id=forecast_id), timeout=10
                    )
                assert list(stored.forecast.median) == median
                assert [value.value for value in stored.actuals] == [900.0] * HORIZON
