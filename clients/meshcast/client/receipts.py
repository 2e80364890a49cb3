"""Receipts: how answers came about, one by one and together."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from meshcast.api.type.v1 import receipt_pb2

_CLOSES: Mapping[int, str] = {
    number: name.removeprefix("BATCH_CLOSE_").lower() for name, number in receipt_pb2.BatchClose.items() if number
}
_FALLBACKS: Mapping[int, str] = {
    number: name.removeprefix("FALLBACK_").lower() for name, number in receipt_pb2.Fallback.items() if number
}


class Receipt:
    """How an answer came about: a view of the contract's message, with the id of this very prediction.

    Rows that travelled together share the message.
    """

    __slots__ = ("message", "prediction_id")

    def __init__(self, message: receipt_pb2.Receipt, prediction_id: str | None = None) -> None:
        self.message = message
        """The contract's message, gateway's part included."""
        self.prediction_id = message.prediction_id if prediction_id is None else prediction_id
        """Id under which the prediction can be read back; of a chunk, the common part of its rows' ids."""

    @property
    def model(self) -> str:
        """Model that computed the answer."""
        return self.message.model

    @property
    def model_version(self) -> int:
        """Version that computed the answer."""
        return self.message.model_version

    @property
    def backend(self) -> str:
        """Runtime, device and precision, as in `onnxruntime/cpu/f32`."""
        return self.message.backend

    @property
    def queue_us(self) -> int:
        """Microseconds in the queue."""
        return self.message.queue_us

    @property
    def compute_us(self) -> int:
        """Microseconds of the model runs that computed the answer; runs are shared with other callers' rows."""
        return self.message.compute_us

    @property
    def batch_rows(self) -> int:
        """Rows of the largest batch that held rows of this answer."""
        return self.message.batch_rows

    @property
    def batch_close(self) -> str:
        """Why that batch was closed: full, idle, wait, deadline or drain; empty when there was none."""
        return _CLOSES.get(self.message.batch_close, "")

    @property
    def fallback(self) -> str:
        """What the gateway answered with in place of what was asked for: version, cache or baseline; the notes say why.
        Empty for the answer itself."""
        return _FALLBACKS.get(self.message.gateway.fallback, "")

    @property
    def attempts(self) -> int:
        """Calls that the gateway made to replicas for this answer; 0 without a gateway, or where none was needed."""
        return self.message.gateway.attempts

    @property
    def hedged(self) -> bool:
        """True when the gateway asked a second replica before the first had answered."""
        return self.message.gateway.hedged

    @property
    def from_cache(self) -> bool:
        """True when the answer was given before, or to an equal question at the same time; it keeps its first id."""
        return self.message.gateway.from_cache

    @property
    def endpoint(self) -> str:
        """Replica that answered the gateway, as `host:port`; empty without a gateway, or where none was asked."""
        return self.message.gateway.endpoint

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks of the server, as in `views missing`."""
        return tuple(self.message.notes)

    def __repr__(self) -> str:
        return (
            f"Receipt(prediction_id={self.prediction_id!r}, model={self.model!r}, model_version={self.model_version}, "
            f"backend={self.backend!r}, queue_us={self.queue_us}, compute_us={self.compute_us}, "
            f"batch_rows={self.batch_rows}, batch_close={self.batch_close!r}"
            + (f", endpoint={self.endpoint!r}" if self.endpoint else "")
            + (f", attempts={self.attempts}" if self.attempts > 1 else "")
            + (", hedged=True" if self.hedged else "")
            + (", from_cache=True" if self.from_cache else "")
            + (f", fallback={self.fallback!r})" if self.fallback else ")")
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Receipt):
            return NotImplemented
        return self.prediction_id == other.prediction_id and self.message == other.message

    def __hash__(self) -> int:
        return hash(self.prediction_id)


@dataclass(slots=True)
class ReceiptSummary:
    """What many receipts say together.

    >>> summary = ReceiptSummary()
    >>> summary.add(Receipt(receipt_pb2.Receipt(model_version=3, queue_us=40)), rows=256)
    >>> summary.rows, dict(summary.versions), summary.queue_us
    (256, {3: 256}, 40)
    """

    answers: int = 0
    """Receipts that were added."""
    rows: int = 0
    """Rows that they stand for."""
    versions: Counter[int] = field(default_factory=Counter)
    """Rows by the version that computed them."""
    backends: Counter[str] = field(default_factory=Counter)
    """Rows by back-end."""
    batch_closes: Counter[str] = field(default_factory=Counter)
    """Answers by why their batch was closed."""
    queue_us: int = 0
    """Sum of the queue times, in microseconds."""
    compute_us: int = 0
    """Sum of the runs' times, in microseconds; a run that several answers shared counts for each."""
    batch_rows_max: int = 0
    """Rows of the largest batch."""
    shared_doors: int = 0
    """Answers whose batch held rows of both doors."""
    notes: Counter[str] = field(default_factory=Counter)
    """Answers by remark."""
    attempts: int = 0
    """Calls that the gateway made to replicas."""
    hedged: int = 0
    """Answers for which a second replica was asked."""
    degraded: int = 0
    """Answers that are not what was asked for."""
    from_cache: int = 0
    """Answers out of the gateway's cache."""

    def add(self, receipt: Receipt, *, rows: int = 1) -> None:
        """Takes a receipt in that stands for so many rows."""
        message = receipt.message
        self.answers += 1
        self.rows += rows
        self.versions[message.model_version] += rows
        self.backends[message.backend] += rows
        self.batch_closes[receipt.batch_close] += 1
        self.queue_us += message.queue_us
        self.compute_us += message.compute_us
        self.batch_rows_max = max(self.batch_rows_max, message.batch_rows)
        self.shared_doors += message.batch_doors > 1
        self.notes.update(message.notes)
        if message.HasField("gateway"):
            self.attempts += message.gateway.attempts
            self.hedged += message.gateway.hedged
            self.degraded += message.gateway.degraded
            self.from_cache += message.gateway.from_cache

    def lines(self) -> list[str]:
        """The summary for a person, one fact a line."""
        lines = [
            f"{self.rows} rows in {self.answers} answers",
            f"versions: {_counted(self.versions)}",
            f"back-ends: {_counted(self.backends)}",
            f"batches closed: {_counted(self.batch_closes)}; largest of {self.batch_rows_max} rows",
            f"queue {self.queue_us / 1e3:.1f} ms, compute {self.compute_us / 1e3:.1f} ms in all",
        ]
        if self.shared_doors:
            lines.append(f"{self.shared_doors} answers shared a batch with the other door")
        if self.attempts:
            lines.append(
                f"gateway: {self.attempts} attempts, {self.hedged} hedged, {self.degraded} degraded, "
                f"{self.from_cache} from cache"
            )
        if self.notes:
            lines.append(f"notes: {_counted(self.notes)}")
        return lines


def _counted(counter: Counter[int] | Counter[str]) -> str:
    return ", ".join(f"{key or 'none'} ({count})" for key, count in counter.most_common())
