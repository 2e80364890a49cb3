"""Feed of the drift service: rows that a tap keeps are observed there, in the background and at most once."""

import asyncio
import random
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Self

import grpc.aio
import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.drift.v1 import drift_pb2_grpc as pb_grpc
from meshcast.rpc import DeadlineExceeded, MeshError, NotFound, NotReady, TlsSettings, channel, from_item, mesh_errors
from meshcast.rpc import send as send_on
from meshcast.runtime.settings import TapSettings
from meshcast.runtime.tap import Tap, TapColumns

__all__ = ["DriftFeed", "drift_feed"]

log = structlog.get_logger()

CHUNK_ROWS_MAX = 16_384
CHUNK_BYTES_MAX = 8 * 1024 * 1024  # half of the largest message
ANSWER_S = 30.0
"""Longest wait for the answer to a chunk."""
_LOOKS = 8  # how often it is looked, while rows gather, whether they are enough
REFERENCE_S = 120.0
"""Longest wait for a reference to be set; it is proportional to its rows."""


class DriftFeed:
    """Sends what a tap keeps to the drift service. Use as `async with`.

    It never holds an answer up: what the service does not take in time is dropped by the tap and counted. A chunk whose
    answer is lost is not sent again; these are samples. While the service cannot be reached, or has no reference of the
    subject, nothing is kept at all, and it is asked again from time to time.

    Args:
        target: of the drift service, as `host:port`.
        subject: under which the rows are observed.
        tap: that keeps them.
        reference_rows: where the subject has no reference, the first so many rows become it; 0: nothing is proposed.
        tls: certificates of the client side.
        gather_s: how long rows gather before they are sent, unless half a chunk is there before: a chunk costs some
            milliseconds over there, whatever it holds.
        pause_s: pause after a lost connection, doubling from time to time.
        pause_s_max: longest pause, and the one after a refusal.
    """

    def __init__(
        self,
        target: str,
        *,
        subject: str,
        tap: Tap,
        reference_rows: int = 0,
        tls: TlsSettings | None = None,
        gather_s: float = 2.0,
        pause_s: float = 0.5,
        pause_s_max: float = 30.0,
    ) -> None:
        self.observed = 0
        """Rows that the service has counted."""
        self.lost = 0
        """Rows that were sent, and refused or not answered."""
        self.under_way = 0
        """Rows that were sent, and may be answered yet."""
        self.is_connected = False
        self.tap = tap
        self.subject = subject
        self._target = target
        self._reference_rows = reference_rows
        self._tls = tls
        self._gather_s, self._pause_s, self._pause_s_max = gather_s, pause_s, pause_s_max
        self._sequence = 0
        self._collected: int | None = None  # rows of the proposed reference; None while rows are watched
        self._why = ""
        self._rows_max = chunk_rows(len(tap.columns.names))
        self._channel: grpc.aio.Channel | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._channel = channel(self._target, tls=self._tls)
        self._task = asyncio.create_task(self._follow(pb_grpc.DriftServiceStub(self._channel)), name="drift-feed")
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._task is not None and self._channel is not None
        self.tap.is_open = False
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _follow(self, stub: pb_grpc.DriftServiceStub) -> None:
        pause_s = self._pause_s
        while True:
            self.tap.is_open = True
            await self.tap.arrived.wait()
            observed, is_passing = self.observed, False
            try:
                await self._stream(stub)
            except MeshError as error:
                if isinstance(error, NotFound) and self._collected is None and self._reference_rows:
                    self._collected = 0  # the subject has no reference: it gets one
                    continue
                self._tell(error)
                is_passing = isinstance(error, NotReady | DeadlineExceeded)
            except Exception:  # a bug of the feed must not end the service
                log.exception("bug in the feed of the drift service", subject=self.subject)
            self.is_connected = False
            self._collected = None
            self.tap.is_open = False
            self.tap.drop()
            pause_s = self._pause_s if self.observed > observed else min(2 * pause_s, self._pause_s_max)
            await asyncio.sleep(pause_s if is_passing else self._pause_s_max)

    async def _stream(self, stub: pb_grpc.DriftServiceStub) -> None:
        """Sends chunks, one at a time, until something is wrong.

        Raises:
            MeshError: what it is.
        """
        call = stub.ObserveStream()
        try:
            with mesh_errors(call):
                while True:
                    await self.tap.arrived.wait()
                    await self._gather()
                    parts = self.tap.take(self._rows_max)
                    rows = self.under_way = sum(map(len, parts))
                    try:
                        await self._send(call, parts)
                    except BaseException:
                        self.lost += rows
                        raise
                    finally:
                        self.under_way = 0
                    if self._collected is None:
                        self.observed += rows
                        continue
                    self._collected += rows
                    if self._collected >= self._reference_rows:
                        await self._set_reference(stub)
        finally:
            call.cancel()

    async def _gather(self) -> None:
        for _ in range(_LOOKS):
            if 2 * self.tap.rows >= self._rows_max:
                return
            await asyncio.sleep(self._gather_s / _LOOKS)

    async def _send(self, call: Any, parts: Sequence[NDArray[np.float32]]) -> None:
        self._sequence += 1
        is_draft = self._collected is not None
        chunk = await asyncio.to_thread(
            _chunk,
            parts,
            self.tap.columns.names,
            sequence=self._sequence,
            subject=self._draft if is_draft else self.subject,
            purpose=pb.PURPOSE_REFERENCE if is_draft else pb.PURPOSE_WINDOW,
        )
        answer: Any = grpc.aio.EOF
        try:
            async with asyncio.timeout(ANSWER_S):
                await send_on(call, chunk, chunk.SerializeToString())  # that it failed is said by the read
                answer = await call.read()
        except TimeoutError as error:
            raise DeadlineExceeded(f"the drift service has not answered within {ANSWER_S:g} s") from error
        if answer is grpc.aio.EOF:
            raise NotReady("the drift service has ended the stream")
        if answer.status.code:
            raise from_item(answer.status)
        self.is_connected = True
        self._why = ""

    async def _set_reference(self, stub: pb_grpc.DriftServiceStub) -> None:
        """Makes the collected rows the reference, where there is none by now; the rows that follow are watched."""
        self._collected, collected = None, self._collected
        try:
            with mesh_errors():
                await stub.DescribeModel(pb.DescribeModelRequest(subject=self.subject), timeout=ANSWER_S)
            return  # of another replica, or of somebody: what was counted against it is not thrown away
        except NotFound:
            pass
        outputs = [pb.FeatureOptions(name=name, role=pb.FEATURE_ROLE_OUTPUT) for name in self.tap.columns.output_names]
        request = pb.SetReferenceRequest(
            request_id=self._draft,  # of all replicas: the first of those that ask at once sets it for all
            subject=self.subject,
            draft=self._draft,
            features=outputs,
        )
        with mesh_errors():
            await stub.SetReference(request, timeout=REFERENCE_S)
        log.info("the first rows are the reference", subject=self.subject, rows=collected)

    @property
    def _draft(self) -> str:
        # Of the subject and its columns: rows of a model with other columns, collected before, would refuse these.
        return f"{self.subject[:50]}.tap-{zlib.crc32(repr(self.tap.columns.names).encode()):08x}"

    def _tell(self, error: MeshError) -> None:
        """Logs why rows are not observed, once for each reason in a row."""
        if error.message != self._why:
            self._why = error.message
            log.warning("rows are not observed for drift", subject=self.subject, target=self._target, why=error.message)


class FeedMetrics(Collector):
    """The `meshcast_tap_*` families of a feed."""

    def __init__(self, feed: DriftFeed) -> None:
        self._feed = feed

    def collect(self) -> Iterable[Metric]:
        """The families as they stand; called by the registry."""
        feed = self._feed
        rows = CounterMetricFamily(
            "meshcast_tap_rows", "Rows drawn for the drift service, by their fate.", labels=["model", "outcome"]
        )
        for outcome, count in (("observed", feed.observed), ("dropped", feed.tap.dropped), ("lost", feed.lost)):
            rows.add_metric([feed.subject, outcome], count)
        connected = GaugeMetricFamily("meshcast_tap_connected", "1 while rows are being observed.", labels=["model"])
        connected.add_metric([feed.subject], float(feed.is_connected))
        return [rows, connected]


def drift_feed(
    settings: TapSettings,
    *,
    subject: str,
    columns: TapColumns,
    tls: TlsSettings | None,
    registry: CollectorRegistry,
) -> DriftFeed | None:
    """The feed of a model, not entered yet; None where nothing is to be observed.

    Args:
        settings: of the table `[tap]`.
        subject: the model's name.
        columns: of a row; without any there is nothing to observe.
        tls: certificates of the client side.
        registry: gets the feed's metrics.
    """
    if not settings.drift or not settings.share or not columns.names:
        return None
    rows_max = 2 * chunk_rows(len(columns.names))  # one chunk is under way, one gathers
    tap = Tap(columns=columns, share=settings.share, rows_max=rows_max, rng=random.Random())
    feed = DriftFeed(settings.drift, subject=subject, tap=tap, reference_rows=settings.reference_rows, tls=tls)
    registry.register(FeedMetrics(feed))
    return feed


def chunk_rows(columns: int) -> int:
    """Rows of a chunk of so many columns at most."""
    return max(1, min(CHUNK_ROWS_MAX, CHUNK_BYTES_MAX // (4 * max(1, columns))))


def _chunk(
    parts: Sequence[NDArray[np.float32]], names: Sequence[str], *, sequence: int, subject: str, purpose: Any
) -> pb.ObserveStreamRequest:
    table = np.concatenate(parts)
    columns = np.ascontiguousarray(table.T, dtype="<f4")
    return pb.ObserveStreamRequest(
        sequence=sequence,
        subject=subject,
        purpose=purpose,
        observations=pb.Observations(
            rows=len(table),
            numeric=[
                pb.NumericColumn(name=name, f32=values.tobytes()) for name, values in zip(names, columns, strict=True)
            ],
        ),
    )
