"""Finding what a request compares: rows of its own, or what a subject observed, and the autoencoder's view of them."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.api.type.v1 import error_reason_pb2
from meshcast.observations import Observations
from meshcast.rpc import Deadline, Precondition
from meshcast.runtime import priority_class
from meshcast.services.drift.comparing import given_comparison, given_reference, require_columns
from meshcast.services.drift.comparison import Comparison, Reference
from meshcast.services.drift.derived import sampled
from meshcast.services.drift.encoder import Encoder, Ran
from meshcast.services.drift.joint import ROWS_MAX
from meshcast.services.drift.questions import DetectQuestion
from meshcast.services.drift.reporting import AutoencoderView
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.subjects import Subjects

__all__ = ["Finder", "Found"]


class Found(NamedTuple):
    """What is compared.

    Attributes:
        ran: the rows' errors; None where nobody asked.
        view: what the autoencoder makes of a window that stands alone; None where there is none.
        compare: makes the comparison; long work, for the worker thread.
    """

    ran: Ran | None
    view: AutoencoderView | None
    compare: Callable[[], Comparison]


class Finder:
    """Finds what requests compare.

    Args:
        subjects: that are watched.
        encoder: asks the autoencoder.
        table: of the table `[drift]`.
        reference: gives a subject's reference, the shipped one included.
    """

    def __init__(
        self,
        subjects: Subjects,
        encoder: Encoder,
        table: DriftSettings,
        reference: Callable[[str], Awaitable[Reference]],
    ) -> None:
        self._subjects, self._encoder, self._table, self._reference = subjects, encoder, table, reference

    async def find(self, question: DetectQuestion, request: pb.DetectDataDriftRequest, deadline: Deadline) -> Found:
        """What a request compares.

        Raises:
            InvalidInput: rows have other columns than the subject's reference.
            NotFound: SUBJECT_UNKNOWN.
            Precondition: nothing was observed of what was asked for.
            MeshError: as `Encoder.ask`, where row errors are wanted.
        """
        rows, given = question.observations, question.reference
        if given is not None and rows is not None:
            return Found(
                None, None, lambda: given_comparison(given_reference(given, question.features, self._table), rows)
            )
        if rows is None:
            found = await self._observed(question)
            return Found(None, None, lambda: found)
        reference = await self._reference(question.subject)
        require_columns(reference, rows)
        ran, priority = None, priority_class(request.priority)
        if request.wants_row_errors:
            version = request.model_version
            ran = await self._encoder.ask(rows, reference, version=version, deadline=deadline, priority=priority)
        self._encoder.of_call(deadline, priority, rows, ran)
        view = await self._view(reference, rows, ran)
        return Found(ran, view, lambda: given_comparison(reference, rows))

    async def _view(self, reference: Reference, rows: Observations, ran: Ran | None) -> AutoencoderView | None:
        """What the reference's autoencoder makes of a window's rows, or of as many as the joint test looks at."""
        if reference.autoencoder.state != "ready":
            return None
        some = rows if ran is not None else sampled(rows, ROWS_MAX)
        encoded = await self._encoder.encode(some, reference)
        if encoded is None:
            return None
        derived = (await self._subjects.view(reference.subject)).derived
        made = next((one for one in derived if "autoencoder.error" in one.layout.names), None)
        return None if made is None else AutoencoderView(made, encoded)

    async def _observed(self, question: DetectQuestion) -> Comparison:
        """What the subject observed of what was asked for, one row at least."""
        subject = question.subject
        if question.window == "last":
            found = await self._subjects.last_window(subject)
            view = await self._subjects.view(subject)
            why = (
                f"no window has closed since the reference was set: {view.observed_rows:,} rows were observed, "
                f"{view.reference.options.window_rows:,} make a window; ask for `all` that was observed so far "
                "(Python: `everything=True`, of the part drift `drift_everything=True`)"
            )
        elif question.window == "range":
            found = await self._subjects.in_range(subject, question.start_us, question.end_us)
            why = "nothing that was observed in that span of time is held"
        else:
            found = await self._subjects.all_observed(subject)
            why = "nothing was observed since the reference was set"
        if found is None or not found.window.rows:
            raise Precondition(
                f"Subject {subject}: {why}.", reason=error_reason_pb2.ERROR_REASON_REPORT_UNKNOWN, subject=subject
            )
        return found
