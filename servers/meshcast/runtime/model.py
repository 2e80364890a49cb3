"""Model: one name that serves; its versions come and go while it answers."""

import asyncio
import contextlib
import enum
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Self

import structlog

from meshcast.api.type.v1 import error_reason_pb2, model_pb2
from meshcast.rpc.errors import CorruptData, MeshError, NotFound, NotReady, Precondition
from meshcast.runtime.batcher import Batcher, Batching
from meshcast.runtime.candidates import Candidate, tolerance
from meshcast.runtime.choosing import Choice, Chooser, Pace
from meshcast.runtime.evidence import Evidence
from meshcast.runtime.loader import Loader
from meshcast.runtime.repository import Repository, VersionPolicy, model_unknown
from meshcast.runtime.session import Backend, SessionOptions
from meshcast.runtime.settings import RuntimeSettings
from meshcast.runtime.signature import Signature
from meshcast.runtime.tap import TapRecord
from meshcast.runtime.versions import LoadedVersion, Versions

__all__ = ["Model", "ModelState", "Models"]

log = structlog.get_logger()


class ModelState(enum.Enum):
    """Where a model stands; the words of the Open Inference Protocol's repository index."""

    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"


class Model:
    """One model of a process: loads versions, swaps them under load, answers through its batcher. Use as `async with`.

    A swap loads, proves and warms the new version off the serving threads, in the back-end that serves already; then
    new batches run on it, and the old session closes when its last run has ended. A version that cannot be loaded
    leaves the present one serving.

    Args:
        name: in the repository.
        signature: of the model.
        repository: where its versions lie.
        settings: of the table `[runtime]`.
        taps: see `Batcher`.
        build_command: what builds the model where the repository lacks it, for an optional one; empty for others.
        on_health: told a health name, `model/<name>` or `model/<name>/<version>`, and whether it serves; None: the
            name is gone. Called on the event loop.
    """

    def __init__(
        self,
        *,
        name: str,
        signature: Signature,
        repository: Repository,
        settings: RuntimeSettings,
        taps: Sequence[Callable[[TapRecord], None]] = (),
        build_command: str = "",
        on_health: Callable[[str, bool | None], None] = lambda name, serves: None,
    ) -> None:
        self.name = name
        self.signature = signature
        self.repository = repository
        self.state = ModelState.UNAVAILABLE
        self.reason = "not loaded"
        self.is_missing = False
        """True while an optional model is in no repository."""
        self._build_command = build_command
        self._settings = settings
        self._on_health = on_health
        self._versions = Versions(name, self._close)
        self._loader = Loader(name, nice=settings.load_nice)
        self._chooser = Chooser(
            asked=settings.backend,
            options=SessionOptions(
                threads_per_run=settings.threads_per_run,
                runs_max=settings.runs,
                gpu_memory_bytes_max=settings.gpu_memory_bytes_max,
                device_id=settings.device_id,
            ),
            device=settings.device,
            allow_bf16=settings.allow_bf16,
            allow_int8=settings.allow_int8,
            gpu_rows_max=settings.gpu_rows_max,
            budget_s=settings.choose_s,
            cache_dir=settings.state / "cache" / name,
        )
        self.batcher = Batcher(
            model=name,
            signature=signature,
            versions=self._versions,
            batching=Batching(
                rows_max=settings.rows_max,
                runs_max=settings.runs,
                queue_rows_max=settings.queue_rows_max,
                wait_ms_max=settings.wait_ms_max,
            ),
            taps=taps,
        )
        self._rows_max = self.batcher.rows_max
        self.batcher.refusing = self._not_ready()
        self._changing = asyncio.Lock()
        self._choices: dict[int, Choice] = {}
        self._evidence: dict[int, Evidence] = {}
        self._serving: Backend | None = None  # what the live version was asked for
        self._closing = 0
        self._closed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._loader.__aenter__()
        await self.batcher.__aenter__()
        self._on_health(f"model/{self.name}", False)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.batcher.__aexit__(*exception)
        async with self._changing:
            self._let_go(self._versions.loaded)
        await self._loader.__aexit__(*exception)

    @property
    def live(self) -> int:
        """Version that answers calls which name none; 0 when there is none."""
        return self._versions.live

    @property
    def versions(self) -> tuple[int, ...]:
        """Versions that can be asked for, ascending."""
        return tuple(loaded.version for loaded in self._versions.loaded)

    @property
    def is_ready(self) -> bool:
        """True when a call would be answered."""
        return self.live > 0 and self.state in (ModelState.READY, ModelState.LOADING)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Back-ends of the live version, the one that serves first."""
        choice = self._choices.get(self.live)
        return () if choice is None else choice.candidates

    def require(self, version: int = 0) -> None:
        """Checks that a call for a version (0: any) would be answered.

        Raises:
            NotReady: it loads, or has never been loaded.
            Precondition: it was unloaded, or nobody has built it (MODEL_MISSING).
            NotFound: VERSION_UNKNOWN.
        """
        if not self.is_ready:
            raise self._not_ready()
        if version and version not in self._choices:
            raise self._version_unknown(version)

    async def load(
        self, policy: VersionPolicy | None = None, *, falls_back: bool = False, with_shipped: bool = False
    ) -> None:
        """Brings the loaded versions in line with the repository; the highest of them becomes live.

        Args:
            policy: which versions; None: what the model's configuration says.
            falls_back: True to serve what can be served: versions of the policy that are refused are left out, and
                where all are, the highest older one that proves itself stands in. For a start, where the alternative
                is to serve nothing.
            with_shipped: True to take versions that ship beside those of the repository.

        Raises:
            NotFound: the repository has no version that the policy asks for.
            Precondition: MODEL_MISSING, an optional model is in no repository.
            CorruptData: a version cannot be loaded; those that served go on, and nothing of this load stays.
        """
        async with self._changing:
            self._enter(ModelState.LOADING)
            try:
                await self._load(policy, falls_back, with_shipped)
            except BaseException as error:
                why = error.message if isinstance(error, MeshError) else "the load was interrupted"
                reason = error.reason if isinstance(error, MeshError) else None
                self.is_missing = not self.live and reason == error_reason_pb2.ERROR_REASON_MODEL_MISSING
                self._enter(ModelState.READY if self.live else ModelState.UNAVAILABLE, why)
                raise
            self.is_missing = False
            self._enter(ModelState.READY)

    async def unload(self) -> None:
        """Stops answering: questions that wait are answered still, then every session is closed.

        Returns when the memory has been given back.
        """
        async with self._changing:
            self.is_missing = False
            self._enter(ModelState.UNLOADING, "it was unloaded")
            await self.batcher.settle()
            self._let_go(self._versions.loaded)
            self._serving = None
            await self.closed()
            self._enter(ModelState.UNAVAILABLE, "it was unloaded")

    async def closed(self) -> None:
        """Waits until every retired session has been closed."""
        while self._closing:
            self._closed.clear()
            await self._closed.wait()

    def evidence(self, version: int = 0) -> Evidence:
        """The export's evidence of a loaded version; 0 is the live one.

        Raises:
            NotFound: the version is not loaded.
            NotReady: none is.
        """
        self.require(version)
        return self._evidence[version or self.live]

    def describe(self, version: int = 0) -> model_pb2.ModelDescription:
        """A loaded version in the words of the contract; 0 is the live one.

        Raises:
            NotFound: the version is not loaded.
            NotReady: none is.
        """
        self.require(version)
        version = version or self.live
        choice, evidence = self._choices[version], self._evidence[version]
        bound = tolerance(self.signature, choice.session.backend, evidence)
        assert bound is not None  # or it would not serve
        description = model_pb2.ModelDescription(
            name=self.name,
            version=version,
            loaded_versions=self.versions,
            backend=choice.session.backend,
            batch_rows_max=self.batcher.rows_max,
            tolerance=bound,
            card=self.repository.card(self.name, version),
            metrics=self.repository.metrics(self.name, version),
        )
        for specs, target in (
            (self.signature.inputs, description.inputs),
            (self.signature.outputs, description.outputs),
        ):
            for spec in specs:
                target.add(name=spec.name, datatype=spec.dtype, shape=(-1, *spec.shape), description=spec.description)
        for candidate in choice.candidates:
            description.candidates.add(
                backend=candidate.backend,
                accepted=candidate.accepted,
                refusal=candidate.refusal,
                parity_error=candidate.parity_error,
                rows_per_second=candidate.rows_per_s,
            )
        description.exported_time.FromDatetime(datetime.fromisoformat(evidence.exported_at))
        return description

    async def _load(self, policy: VersionPolicy | None, falls_back: bool, with_shipped: bool) -> None:
        def look() -> tuple[tuple[int, ...], tuple[int, ...]]:
            versions = self.repository.versions(self.name, with_shipped=with_shipped)
            if not versions:
                raise self._missing() if self._build_command else model_unknown(self.name)
            return versions, (policy or self.repository.policy(self.name)).pick(versions)

        versions, wanted = await self._loader.run(look)
        if not wanted:
            raise NotFound(
                f"Model {self.name} has no version in the repository that its policy asks for.",
                reason=error_reason_pb2.ERROR_REASON_VERSION_UNKNOWN,
                model=self.name,
                version=0,
            )
        older = [version for version in reversed(versions) if version < wanted[0]] if falls_back else []
        opened = await self._open_all(wanted, older, falls_back)
        wanted = tuple(
            version for version in sorted({*wanted, *opened}) if version in opened or version in self._choices
        )
        for version, (choice, evidence) in opened.items():
            self._choices[version], self._evidence[version] = choice, evidence
            self._versions.publish(version, choice.session)
            self._on_health(f"model/{self.name}/{version}", True)
            log.info("version loaded", model=self.name, version=version, backend=choice.session.backend)
        was, now = self.live, wanted[-1]
        self._versions.make_live(now)
        self._serving = self._choices[now].asked
        self.batcher.resize(self._chooser.rows_of(self._serving, self._rows_max))
        if was != now:
            log.info("version live", model=self.name, version=now, before=was)
        self._let_go([loaded for loaded in self._versions.loaded if loaded.version not in wanted], keep_live=True)

    async def _open_all(
        self, wanted: Sequence[int], older: Sequence[int], falls_back: bool
    ) -> dict[int, tuple[Choice, Evidence]]:
        """Opens what is not loaded yet; all of it or nothing, unless the load falls back."""
        opened: dict[int, tuple[Choice, Evidence]] = {}
        refused: CorruptData | None = None
        try:
            for version in wanted:
                if version not in self._choices:
                    try:
                        opened[version] = await self._open(version)
                    except CorruptData as error:
                        refused = error
                        if not falls_back:
                            raise
            for version in older:
                if refused is None or opened or self._choices:
                    break
                with contextlib.suppress(CorruptData):  # logged where it was refused; the first one is what is told
                    opened[version] = await self._open(version)
                    log.warning("an older version stands in", model=self.name, version=version, why=refused.message)
            if refused is not None and not opened and not self._choices:
                raise refused
        except BaseException:
            for choice, _ in opened.values():
                self._closing += 1
                self._loader.close(choice.session, self._count_closed)
            raise
        return opened

    async def _open(self, version: int) -> tuple[Choice, Evidence]:
        keep = self._serving if self.live else None
        pace = Pace(self._settings.load_rest if self.live else 0.0)

        def choose() -> tuple[Choice, Evidence]:
            paths = self.repository.paths(self.name, version)
            choice = self._chooser.choose(paths, self.signature, keep=keep, rows_max=self._rows_max, pace=pace)
            return choice, self.repository.evidence(self.name, version)

        try:
            return await self._loader.run(choose, low=keep is not None and self._is_threadless(keep))
        except CorruptData as error:
            error.facts |= {"model": self.name, "version": str(version)}
            log.error("a version was refused", model=self.name, version=version, why=error.message)
            raise

    def _is_threadless(self, backend: Backend) -> bool:
        """True when a session of this back-end runs on its caller's thread alone."""
        return backend.runtime == "onnxruntime" and backend.device == "cpu" and self._settings.threads_per_run == 1

    def _enter(self, state: ModelState, reason: str = "") -> None:
        """Changes the state, and what follows from it: what new questions are told, and the health name."""
        self.state, self.reason = state, reason
        self.batcher.refusing = None if self.is_ready else self._not_ready()
        self._on_health(f"model/{self.name}", self.is_ready)

    async def follow(self) -> None:
        """Loads whenever the versions in the repository change, looking every `poll_s` seconds, until cancelled."""
        seen = await asyncio.to_thread(self.repository.versions, self.name)
        while True:
            await asyncio.sleep(self._settings.poll_s)
            versions = await asyncio.to_thread(self.repository.versions, self.name)
            if versions != seen:
                seen = versions
                try:
                    await self.load()
                except MeshError as error:
                    log.error("new versions were not loaded", model=self.name, why=error.message)
                except Exception:  # a bug must not end the looking, unseen
                    log.exception("new versions were not loaded", model=self.name)

    def _let_go(self, loaded: Sequence[LoadedVersion], *, keep_live: bool = False) -> None:
        if not keep_live:
            self._versions.make_live(0)
        for version in loaded:
            self._closing += 1
            self._choices.pop(version.version)
            self._evidence.pop(version.version)
            self._versions.retire(version.version)
            self._on_health(f"model/{self.name}/{version.version}", None)

    def _close(self, loaded: LoadedVersion) -> None:
        """Closes a retired session; called on whichever thread gave the last lease back."""
        log.debug("version closed", model=self.name, version=loaded.version)
        self._loader.close(loaded.session, self._count_closed)

    def _count_closed(self) -> None:
        def count() -> None:
            self._closing -= 1
            self._closed.set()

        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(count)
        except RuntimeError:  # the loop has ended before the session: nobody waits
            return

    def _not_ready(self) -> MeshError:
        if self.state is ModelState.LOADING or self.reason == "not loaded":
            return NotReady(
                f"Model {self.name} is loading.",
                retry_after_s=1.0,
                reason=error_reason_pb2.ERROR_REASON_MODEL_LOADING,
                model=self.name,
            )
        if self.is_missing:
            return self._missing()
        return Precondition(
            f"Model {self.name} does not serve: {self.reason.rstrip('.')}.",
            reason=error_reason_pb2.ERROR_REASON_MODEL_STATE,
            model=self.name,
        )

    def _missing(self) -> Precondition:
        return Precondition(
            f"Model {self.name} is not on this host; build it with: {self._build_command}",
            reason=error_reason_pb2.ERROR_REASON_MODEL_MISSING,
            model=self.name,
            command=self._build_command,
        )

    def _version_unknown(self, version: int) -> NotFound:
        return NotFound(
            f"Model {self.name} has no version {version}; loaded: {', '.join(map(str, self.versions))}.",
            reason=error_reason_pb2.ERROR_REASON_VERSION_UNKNOWN,
            model=self.name,
            version=version,
        )


class Models:
    """Every model of a process, by name."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(sorted(self._models))

    def get(self, name: str) -> Model:
        """The model of this name, ready or not.

        Raises:
            NotFound: MODEL_UNKNOWN.
        """
        found = self._models.get(name)
        if found is None:
            raise model_unknown(name)
        return found

    def require(self, name: str, version: int = 0) -> Model:
        """The model of this name, which would answer a call for a version (0: any).

        Raises:
            NotFound: MODEL_UNKNOWN or VERSION_UNKNOWN.
            NotReady: it loads.
            Precondition: it was unloaded, or nobody has built it: MODEL_MISSING, with the command.
        """
        model = self.get(name)
        model.require(version)
        return model
