"""Setting of references: rows become the reference of a subject, and later its autoencoder is put beside them."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import structlog

from meshcast.observations import Observations
from meshcast.rpc.errors import AlreadyExists, CorruptData, InvalidInput, MeshError, NotFound, Precondition
from meshcast.runtime.loader import give_back_memory
from meshcast.runtime.turns import Turns
from meshcast.services.drift import drafts
from meshcast.services.drift.changes import Changes
from meshcast.services.drift.comparison import Autoencoder, Reference, WatchOptions
from meshcast.services.drift.derived import DerivedReference, derived_reference, encoded_columns
from meshcast.services.drift.held import Entry, HeldSubjects, to_its_end
from meshcast.services.drift.layout import Feature
from meshcast.services.drift.packed_rows import rows_from_bytes, rows_to_bytes
from meshcast.services.drift.references import (
    REFERENCE_ROWS_MIN,
    digest_of,
    numbered,
    subject_of,
    training_rows,
)
from meshcast.services.drift.store import Store
from meshcast.services.drift.subject import Subject
from meshcast.services.drift.subject_state import TRAINING, save_autoencoder, save_reference
from meshcast.services.drift.trainings import NOT_WANTED, Trainings
from meshcast.services.drift.watched import FeatureOption, Hooks, Trained

__all__ = ["References"]

log = structlog.get_logger()

WAITING_MAX, RETRY_AFTER_S = 4, 5.0  # references that may wait for the one that is built: a large one takes seconds
LOAD_S = 60.0  # that a new version of the model may take until it answers
LOOK_S = 0.25

Wanted = Observations | str | int


class References:
    """Sets references for concurrent calls; use as `async with`.

    Args:
        folder: of the store.
        held: the subjects.
        store: that is open.
        hooks: the service around.
        model: name of the service's model, for errors.
        subjects_max: subjects with a reference at most.
        features_max: columns of a reference at most.
        repository: root of the models' repository; None: no autoencoder can be trained.
        now_us: the clock, microseconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        held: HeldSubjects,
        store: Store,
        hooks: Hooks,
        *,
        model: str,
        subjects_max: int,
        features_max: int,
        repository: Path | None,
        now_us: Callable[[], int],
    ) -> None:
        self._held, self._store, self._hooks, self._now_us = held, store, hooks, now_us
        self._subjects_max, self._features_max = subjects_max, features_max
        self._trainings = Trainings(folder, self._training_rows, self._training_done, repository=repository)
        self._turns = Turns(model, "reference", waiting_max=WAITING_MAX, retry_after_s=RETRY_AFTER_S)

    async def __aenter__(self) -> Self:
        for name in self._held.names:
            reference = await self._reference(name)
            if reference is not None and reference.autoencoder.state == "training":
                self._trainings.begin(name, reference.version)  # the process before this one ended meanwhile
        await self._trainings.__aenter__()
        try:
            await self._serve()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        self._turns.close()
        await self._trainings.__aexit__(*error)

    async def set(
        self,
        name: str,
        source: Wanted,
        *,
        features: Mapping[str, FeatureOption],
        options: WatchOptions,
        request_id: str,
        trained: Trained | None,
    ) -> None:
        """Makes rows the reference of a subject, as `Subjects.set_reference`."""
        request = None
        if request_id:
            digest = await asyncio.to_thread(digest_of, name, source, features, options)
            request = f"reference {request_id}", digest
            if await self._was_set(*request):
                return
        if isinstance(source, int):
            self._held.entry(name)  # a subject that has observed nothing yet is told apart from one too many
        self._require_room(name)
        async with self._turns.turn() as turn:
            rows, before = await self._rows(name, source)
            if len(rows.names) > self._features_max:
                raise InvalidInput(
                    f"a reference has at most {self._features_max} columns (the setting features_max of the table "
                    f"[drift]), not {len(rows.names)}",
                    field="observations",
                )
            wished = {one.name: FeatureOption(one.importance, _role(one)) for one in before} | dict(features)

            def build(_: Callable[[], bool]) -> tuple[Subject, bytes]:
                autoencoder = self._prospect(rows.rows, options, trained)
                try:
                    made = subject_of(
                        name, rows, set_us=self._now_us(), features=wished, options=options, autoencoder=autoencoder
                    )
                    is_to_train = autoencoder.state == "training"
                    return made, rows_to_bytes(training_rows(rows)) if is_to_train else b""
                finally:
                    give_back_memory()

            made, training = await turn.run(build)
        if trained is not None:
            made.add_autoencoder(*await self._ready(made.reference, rows, trained))
        entry = self._held.entry_to_be(name)
        async with entry.lock:
            if request is not None and await self._was_set(*request):  # by another try, meanwhile
                return
            self._require_room(name)
            version = await to_its_end(self._replace(entry, made, training, request, source))
        if training:
            self._trainings.begin(name, version)
        await self._serve()

    def _prospect(self, rows: int, options: WatchOptions, trained: Trained | None) -> Autoencoder:
        if trained is not None:
            return Autoencoder()
        return self._trainings.prospect(rows) if options.trains_autoencoder else Autoencoder(why=NOT_WANTED)

    async def _was_set(self, key: str, digest: str) -> bool:
        answered = await self._store.answered(key)
        if answered is not None and answered[0] != digest:
            raise AlreadyExists(
                f"The request {key.split(' ', 1)[1]!r} has set another reference; choose another request id.",
                name=key.split(" ", 1)[1],
            )
        return answered is not None

    def _require_room(self, name: str) -> None:
        names = self._held.names
        if name not in names and len(names) >= self._subjects_max:
            raise Precondition(
                f"{len(names)} subjects are watched, which is the most (the setting subjects_max of the table "
                "[drift]). Set the reference of one of them, or raise the setting."
            )

    async def _rows(self, name: str, source: Wanted) -> tuple[Observations, tuple[Feature, ...]]:
        """The rows of a new reference, and the features that they were observed as, where they were."""
        if isinstance(source, Observations):
            return source, ()
        if isinstance(source, str):
            collected = await self._store.read(lambda connection: drafts.rows_of_draft(connection, source))
            if collected.rows < REFERENCE_ROWS_MIN:
                raise InvalidInput(
                    f"the draft has {collected.rows} rows, a reference {REFERENCE_ROWS_MIN} or more", field="draft"
                )
            return collected, ()
        entry = self._held.entry(name)
        async with entry.lock:
            held = await self._held.loaded(entry)
            rows = await self._held.work(lambda: held.recent.newest(source))
        if rows is None or rows.rows < REFERENCE_ROWS_MIN:
            count = "no" if rows is None else rows.rows
            raise InvalidInput(
                f"{name} has observed {count} rows since its reference was set, a reference has {REFERENCE_ROWS_MIN} "
                "or more",
                field="recent_rows",
            )
        return rows, held.reference.layout.features

    async def _replace(
        self, entry: Entry, made: Subject, training: bytes, request: tuple[str, str] | None, source: Wanted
    ) -> int:
        """Makes a subject the one that is watched under its name; returns its version. The caller holds the lock."""
        before: Subject | None = None
        if entry.name in self._held.names:
            with contextlib.suppress(CorruptData):  # a new reference is the way out
                before = await self._held.loaded(entry)
        version = await self._store.version(entry.name) + 1
        numbered(made, version)

        def put(changes: Changes) -> None:
            entry.is_dirty = entry.has_closed = False  # what it has not written yet is forgotten
            if before is not None:
                before.resolve(self._now_us(), "the reference was replaced")
                self._held.number(before)
                changes.alarms += before.fresh_alarms
                changes.reports += before.fresh_reports
                made.streams = before.streams
            save_reference(made, changes)
            changes.versions[entry.name] = version
            if training:
                changes.parts[entry.name, TRAINING] = training
            if request is not None:
                changes.requests[request[0]] = request[1], b""
            if isinstance(source, str):
                changes.drafts_used.add(source)

        await self._held.change(put)
        self._held.install(entry, made)
        await self._held.saved()
        return version

    async def _training_rows(self, name: str, version: int) -> Observations | None:
        """What an autoencoder is trained on; None where the reference is another by now, or the rows are lost."""
        reference = await self._reference(name)
        if reference is None or reference.version != version or reference.autoencoder.state != "training":
            return None
        data = await self._store.part(name, TRAINING)
        if data is None:
            raise CorruptData("the rows that it was to be trained on are lost")
        return await asyncio.to_thread(rows_from_bytes, data)

    async def _training_done(self, name: str, version: int, found: str | tuple[Trained, Observations]) -> None:
        """Puts beside a reference what became of its autoencoder."""
        reference = await self._reference(name)
        if reference is None or reference.version != version:
            return
        autoencoder, made = Autoencoder(why=found) if isinstance(found, str) else Autoencoder(), None
        if not isinstance(found, str):
            trained, rows = found
            autoencoder, made = await self._ready(reference, rows, trained)
        entry = self._held.entry(name)
        async with entry.lock:
            held = await self._held.loaded(entry)
            if held.reference.version != version:
                return

            def put(changes: Changes) -> None:
                held.add_autoencoder(autoencoder, made)
                save_autoencoder(held, changes)
                changes.parts[name, TRAINING] = None
                entry.is_dirty = True

            await self._held.change(put)
            await self._held.saved()
        await self._serve()

    async def _ready(
        self, reference: Reference, rows: Observations, trained: Trained
    ) -> tuple[Autoencoder, DerivedReference | None]:
        """An autoencoder that was trained, and its columns of the rows that were held out."""
        autoencoder = Autoencoder(state="ready", model_version=trained.model_version, encoding=trained.encoding)
        made = await self._derived(replace(reference, autoencoder=autoencoder), rows, trained)
        if made is None:
            autoencoder = Autoencoder(why=f"version {trained.model_version} of the model could not be loaded")
        return autoencoder, made

    async def _derived(self, reference: Reference, rows: Observations, trained: Trained) -> DerivedReference | None:
        """Errors and codes of the rows that were held out; None where the version does not answer."""
        await self._serve(trained.model_version)
        held_out, until_s = rows.take(trained.held_out), time.monotonic() + LOAD_S
        while True:
            encoded = None
            try:
                encoded = await self._hooks.encode(held_out, reference)
            except MeshError as error:
                if not error.is_retryable:
                    log.error("held-out rows were not encoded", subject=reference.subject, why=error.message)
                    return None
            if encoded is not None:
                columns = encoded_columns(encoded)
                return await asyncio.to_thread(derived_reference, columns)
            if time.monotonic() > until_s:
                return None
            await asyncio.sleep(LOOK_S)

    async def _reference(self, name: str) -> Reference | None:
        """The reference of a subject; None where there is none that can be read."""
        try:
            entry = self._held.entry(name)
            async with entry.lock:
                return (await self._held.loaded(entry)).reference
        except (NotFound, CorruptData) as error:
            log.error("a subject cannot be read", subject=name, why=error.message)
            return None

    async def _serve(self, also: int = 0) -> None:
        """Tells the service which versions of the model references are bound to."""
        versions = {also} - {0}
        for name in self._held.names:
            reference = await self._reference(name)
            if reference is not None and reference.autoencoder.model_version:
                versions.add(reference.autoencoder.model_version)
        await self._hooks.serve(sorted(versions))


def _role(feature: Feature) -> Literal["input", "output"]:
    return "output" if feature.role == "output" else "input"
