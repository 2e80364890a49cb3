"""The encoder: asks the autoencoder about rows, for row errors that callers want and for the evidence of a subject."""

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.columns import written_whole
from meshcast.observations import Observations
from meshcast.rpc import CorruptData, Deadline, MeshError, NotFound, NotReady, Precondition
from meshcast.runtime import LOW, Model, RunFacts, VersionPolicy
from meshcast.services.drift.comparing import conformed
from meshcast.services.drift.comparison import Reference
from meshcast.services.drift.derived import Encoded
from meshcast.services.drift.features import Encoding, matrix
from meshcast.services.drift.shipped_subject import SHIPPED_VERSION, is_shipped

__all__ = ["Encoder", "Ran", "VALUES_INLINE"]

log = structlog.get_logger()

VALUES_INLINE = 4_096
"""Values of rows that may be made ready on the loop, in well under a millisecond."""

PIECE_ROWS_MAX = 4_096
"""Rows that one stream has in the queue at most: half of what the queue takes by default."""

TRAINING_S = 5.0
"""What callers are told to wait who want row errors while the autoencoder is trained: one takes 5 to 30 seconds."""

Result = TypeVar("Result")


class Ran(NamedTuple):
    """Rows through a version of the autoencoder, and how that came about."""

    encoded: Encoded
    facts: RunFacts


class _Call(NamedTuple):
    """The call that rows came with: what it allows, and what it has asked already about which rows."""

    deadline: Deadline
    priority: int
    observations: Observations | None
    ran: Ran | None


_CALL: ContextVar[_Call | None] = ContextVar("call of the rows", default=None)


class Encoder:
    """Rows through the autoencoder.

    Args:
        model: the model `drift`.
        pool: where rows become matrices.
        record: file that remembers which versions were trained for subjects of this process.
        default_deadline_s: for rows that came with no call.
    """

    def __init__(self, model: Model, pool: Executor, record: Path, *, default_deadline_s: float) -> None:
        self._model, self._pool, self._record = model, pool, record
        self._default_deadline_s = default_deadline_s
        self._bound: frozenset[int] = frozenset()
        self._trained: set[int] = set()  # versions that were trained here, as far as is known

    async def ask(
        self, observations: Observations, reference: Reference, *, version: int, deadline: Deadline, priority: int
    ) -> Ran:
        """The rows' errors and codes.

        Args:
            observations: one row or more, of the reference's columns.
            reference: whose encoding holds.
            version: that must answer; 0 for the reference's own.
            deadline: of the call.
            priority: of the batcher.

        Raises:
            Precondition: MODEL_STATE, the reference has no autoencoder.
            NotReady: it is being trained, or the process drains.
            NotFound: VERSION_UNKNOWN, the version is not loaded.
            CorruptData: the model gave something that is no number.
            MeshError: as `Batcher.submit`.
        """
        wanted = version or self._own(reference)
        encoding = _encoding(reference)

        def rows() -> NDArray[np.float32]:
            kinds = {name: "categorical" if name in encoding.shares else "numeric" for name in encoding.columns}
            return matrix(conformed(observations, kinds), encoding)

        made = await self._aside(rows, observations.rows * len(encoding.columns))
        try:
            return await self._run(made, wanted, deadline, priority)
        except NotFound:  # swapped since it was looked up
            if version or (wanted := self._own(reference)) in self._bound:
                raise
            return await self._run(made, wanted, deadline, priority)

    async def serve(self, versions: Sequence[int]) -> None:
        """Has versions loaded, as `Hooks.serve` says.

        Versions of the repository that were never trained here are the user's own: the newest of them goes on serving,
        and stands in for the one that ships.
        """
        self._bound = frozenset(versions)
        trained = await self._aside(lambda: self._remembered(versions), VALUES_INLINE + 1)
        if not self._model.is_ready:  # unloaded on request, or damaged: that stays as it is
            return
        held = self._model.repository.versions(self._model.name)
        users = [version for version in held if version not in trained and version != SHIPPED_VERSION]
        wanted = {*self._bound.intersection(held), *users[-1:]}
        if not users:
            wanted |= self._bound & {SHIPPED_VERSION}
        if wanted <= set(self._model.versions):
            return
        try:
            policy = VersionPolicy(latest=0, specific=tuple(sorted(wanted)))
            await self._model.load(policy, falls_back=True, with_shipped=not users)
        except MeshError as error:
            log.error("autoencoders were not loaded", versions=sorted(wanted), why=error.message)

    async def _run(self, rows: NDArray[np.float32], version: int, deadline: Deadline, priority: int) -> Ran:
        errors, codes, facts = [], [], None
        for start in range(0, len(rows), PIECE_ROWS_MAX):
            arrays = self._model.signature.padded({"row": rows[start : start + PIECE_ROWS_MAX]})
            answer = await self._model.batcher.submit(
                arrays, rows=len(arrays["row"]), deadline=deadline, priority=priority, version=version
            )
            errors.append(answer.outputs["error"])
            codes.append(answer.outputs["code"])
            facts = answer.facts if facts is None else facts.and_of(answer.facts)
            version = answer.facts.version  # a swap in between must not mix two versions
        assert facts is not None
        encoded = Encoded(np.concatenate(errors), np.concatenate(codes))
        if not (np.isfinite(encoded.error).all() and np.isfinite(encoded.code).all()):
            raise CorruptData(
                f"Version {facts.version} of {self._model.name} gave an error that is no number.",
                model=self._model.name,
                version=facts.version,
                why="not finite",
            )
        return Ran(encoded, facts)

    def _remembered(self, versions: Sequence[int]) -> set[int]:
        """All versions that were ever trained for a subject here, those of `versions` from now on."""
        try:
            known = set(map(int, json.loads(self._record.read_text("utf-8"))))
        except (OSError, ValueError, TypeError):
            known = set()
        known |= self._trained
        if missing := set(versions) - known - {SHIPPED_VERSION}:
            known |= missing
            try:
                with written_whole(self._record) as part:  # half of it would make them the user's own
                    part.write_text(json.dumps(sorted(known)), "utf-8")
            except OSError as error:
                log.error("trained versions are remembered by this process alone", why=error.strerror)
        self._trained = known
        return known

    def of_call(
        self, deadline: Deadline, priority: int, observations: Observations | None = None, ran: Ran | None = None
    ) -> None:
        """Says of the present task which call its rows come with, and what that call has asked already about them."""
        _CALL.set(_Call(deadline, priority, observations, ran))

    async def encode(self, observations: Observations, reference: Reference) -> Encoded | None:
        """What the reference's own autoencoder makes of rows; None where it cannot be asked now.

        Raises:
            Overloaded: too many rows wait for the autoencoder.
            DeadlineExceeded: that of the call passed.
            CorruptData: the model gave something that is no number.
        """
        own = reference.autoencoder
        if own.state != "ready" or own.model_version not in self._model.versions:
            return None
        call = _CALL.get() or _Call(Deadline.after(self._default_deadline_s), LOW, None, None)
        if call.ran is not None and call.observations is observations and call.ran.facts.version == own.model_version:
            return call.ran.encoded
        try:
            ran = await self.ask(
                observations, reference, version=own.model_version, deadline=call.deadline, priority=call.priority
            )
        except (NotFound, NotReady, Precondition):  # swapped, unloaded or draining: the other columns go on
            return None
        return ran.encoded

    def _own(self, reference: Reference) -> int:
        """The version that answers for a reference; 0 for the one that serves.

        That one stands in for the version that shipped where a repository has another one in its place.
        """
        own = reference.autoencoder
        if own.state == "training":
            raise NotReady(
                f"The autoencoder of {reference.subject} is being trained.",
                reason=error_reason_pb2.ERROR_REASON_MODEL_LOADING,
                retry_after_s=TRAINING_S,
                model=self._model.name,
            )
        if own.state != "ready":
            why = f": {own.why}" if own.why else ""
            raise Precondition(
                f"{reference.subject} has no autoencoder, so its rows have no errors{why}", model=self._model.name
            )
        loaded = self._model.versions
        if not is_shipped(reference) or own.model_version in loaded:
            return own.model_version
        free = [version for version in loaded if version not in self._bound - {own.model_version}]
        return 0 if self._model.live in (0, *free) else free[-1] if free else own.model_version

    async def _aside(self, work: Callable[[], Result], values: int) -> Result:
        """What `work` gives, done in the pool where it is of many values."""
        if values <= VALUES_INLINE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _encoding(reference: Reference) -> Encoding:
    if reference.autoencoder.encoding:
        return Encoding.from_json(reference.autoencoder.encoding)
    raise Precondition(f"{reference.subject} has no autoencoder, so its rows have no errors.")
