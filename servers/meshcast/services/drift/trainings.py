"""Trainings: autoencoders of references are trained in child processes, one after the other, behind the answers."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, Self

import structlog

from meshcast.observations import Observations
from meshcast.rpc.errors import MeshError
from meshcast.services.drift.comparison import Autoencoder
from meshcast.services.drift.features import Encoding, learn_and_held_out, matrix
from meshcast.services.drift.trainer_job import TrainerJob, save_rows, why_not
from meshcast.services.drift.watched import Trained

__all__ = ["NOT_WANTED", "ROWS_MIN", "Trainings"]

log = structlog.get_logger()

NOT_WANTED = "it was not wanted (trains_autoencoder is false)"

ROWS_MIN = 100
"""Rows of a reference below which no autoencoder is trained."""

SEED = 0
"""Of what is held out, too: the child and this process must agree on it."""


class _Wanted(NamedTuple):
    subject: str
    version: int


class Trainings:
    """Trains one autoencoder at a time; use as `async with`. Leaving ends the child under way.

    Args:
        folder: where rows lie while the child reads them.
        rows: gives a reference's training rows; None where it was replaced meanwhile.
        done: is told what became of a reference's autoencoder: an error's text, or what was trained on which rows.
        repository: root of the models' repository; None: nothing can be trained.
    """

    def __init__(
        self,
        folder: Path,
        rows: Callable[[str, int], Awaitable[Observations | None]],
        done: Callable[[str, int, str | tuple[Trained, Observations]], Awaitable[None]],
        *,
        repository: Path | None,
    ) -> None:
        self._folder, self._rows, self._done, self._repository = folder, rows, done, repository
        self._wanted: dict[str, _Wanted] = {}  # by subject: only its newest reference counts
        self._some = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="drift:trainings")
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def prospect(self, rows: int) -> Autoencoder:
        """What may become of the autoencoder of a reference of so many rows: trained, or absent and why."""
        if rows < ROWS_MIN:
            return Autoencoder(why=f"the reference has {rows} rows, and an autoencoder takes {ROWS_MIN} at least")
        if self._repository is None:
            return Autoencoder(why="this service has no repository to install one in")
        why = why_not()
        return Autoencoder(why=why) if why else Autoencoder(state="training")

    def begin(self, subject: str, version: int) -> None:
        """Has the autoencoder of a reference trained, when its turn comes."""
        self._wanted[subject] = _Wanted(subject, version)
        self._some.set()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            if not self._wanted:
                self._some.clear()
                continue
            wanted = self._wanted.pop(next(iter(self._wanted)))
            try:
                await self._train(wanted)
            except Exception:  # a bug must not end all trainings, unseen
                log.exception("a training failed", subject=wanted.subject)

    async def _train(self, wanted: _Wanted) -> None:
        found: str | tuple[Trained, Observations] | None
        try:
            found = await self._trained(wanted)
        except MeshError as error:
            log.warning("an autoencoder was not trained", subject=wanted.subject, why=error.message)
            found = f"its training failed: {error.message}"
        except OSError as error:
            found = f"its rows could not be written: {error.strerror or error}"
        if found is not None:
            await self._done(wanted.subject, wanted.version, found)

    async def _trained(self, wanted: _Wanted) -> tuple[Trained, Observations] | None:
        rows = await self._rows(wanted.subject, wanted.version)
        if rows is None:
            return None
        assert self._repository is not None, "prospect said no"
        file = self._folder / f"training-{wanted.subject}-{wanted.version}.npz"

        def prepare(rows: Observations) -> Encoding:
            encoding = Encoding.of(rows)
            save_rows(file, matrix(rows, encoding), encoding.columns)
            return encoding

        try:
            encoding = await asyncio.to_thread(prepare, rows)
            job = TrainerJob(reference=file, repository=self._repository, options={"seed": str(SEED)})
            await job.start()
            made = await job.wait()
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        _, held_out = learn_and_held_out(rows.rows, SEED)
        return Trained(model_version=made.version, encoding=encoding.to_json(), held_out=held_out), rows
