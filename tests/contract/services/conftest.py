"""Every installed service in every back-end of this host: found by listing, served on real ports, asked at both doors.

The distributions under `tests/distributions` are installed first, as pip does it for a user, into a folder of their
own. That folder is on the path while services are looked up, and in the environment of processes that tests start; the
rest of the tests never see it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from meshcast.api.oip.v2 import grpc_service_pb2 as oip_pb
from meshcast.api.oip.v2 import grpc_service_pb2_grpc as oip_grpc
from meshcast.rpc import ChannelSettings, RpcSettings, Server, channel, mesh_errors
from meshcast.runtime import (
    Arrays,
    ExampleCall,
    ModelSpec,
    Repository,
    RuntimeSettings,
    ServiceContext,
    ServiceExample,
    ServiceSpec,
    Session,
    Signature,
    find_example,
    find_service,
    find_services,
    publish,
)
from meshcast.runtime.main import serving
from meshcast.runtime.onnxruntime import has_cuda
from meshcast.runtime.session import difference
from meshcast.runtime.signature import RAGGED

DISTRIBUTIONS = Path(__file__).parents[2] / "distributions"

BACKENDS = ("onnxruntime/cpu/f32", "openvino/cpu/f32", *(["onnxruntime/cuda/f32"] if has_cuda() else []))
"""Back-ends that may serve here; torch is the reference that they are held against."""

FIRST, SECOND = 1, 2
"""Versions of every model here: the one that ships where one does, and one of other weights, which torch holds too."""

CALL_S = 20.0

ROWS_MAX = 8
"""Rows of a run on servers that tests start for themselves: few batch sizes are to be warmed at each load."""


@dataclass(frozen=True)
class ModelCase:
    """One model in one back-end."""

    spec: ServiceSpec | ModelSpec
    backend: str

    @property
    def signature(self) -> Signature:
        """Of the model."""
        return self.spec.signature

    def tensors(self, rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Made-up inputs of so many rows, those of a ragged axis of different lengths."""
        return made_up(self.signature, rows, seed)

    def difference(self, given: Arrays, expected: Arrays) -> float:
        """How far an answer is from the expected one, as the parity gate measures it, over the outputs that it has."""
        assert given and set(given) <= set(self.signature.output_names)
        stated = replace(self.signature, outputs=tuple(out for out in self.signature.outputs if out.name in given))
        return difference(stated, given, expected)


@dataclass(frozen=True)
class Further(ModelCase):
    """A further model of a service's process in one back-end: one of untrained weights, whoever builds the real one."""

    host: Case


@dataclass(frozen=True)
class Case(ModelCase):
    """One service in one back-end."""

    spec: ServiceSpec
    example: ServiceExample

    @property
    def calls(self) -> tuple[ExampleCall, ...]:
        """The example's rpcs."""
        return (self.example.single,) if self.example.stream is None else (self.example.single, self.example.stream)

    def method(self, name: str) -> MethodDescriptor:
        """An rpc's contract, as the stubs brought it along."""
        service = descriptor_pool.Default().FindServiceByName(self.spec.service_name)
        return service.methods_by_name[name]

    def tensors(self, rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
        """The graph's inputs of so many rows, by way of the example's typed questions."""
        call = next((call for call in self.calls if call.rows_max >= rows), None)
        if call is not None:
            return dict(call.tensors(call.request(rows, seed)))
        single = self.example.single
        parts = [single.tensors(single.request(1, seed + 1000 * row)) for row in range(rows)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.signature.input_names}


def made_up(signature: Signature, rows: int, seed: int, *, multiples: int = 3) -> dict[str, NDArray[Any]]:
    """Inputs that a signature takes, of rows whose ragged axes are up to so many multiples long, padded with zeros."""
    rng = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for spec in signature.inputs:
        longest = min(multiples * spec.multiple_of, spec.length_max)
        shape = (rows, *(longest if size == RAGGED else size for size in spec.shape))
        most = 1 if spec.value_max is None else spec.value_max
        is_real = spec.numpy_dtype.kind == "f"
        array: NDArray[Any] = rng.normal(size=shape) if is_real else rng.integers(1, most + 1, size=shape)
        for axis, size in enumerate(spec.shape, start=1):
            if size == RAGGED:
                own = rng.integers(1, longest + 1, rows).reshape((rows, *(1 for _ in spec.shape)))
                places = np.arange(longest).reshape([-1 if place == axis else 1 for place in range(len(shape))])
                array = np.where(places < own, array, 0)
        found[spec.name] = array.astype(spec.numpy_dtype)
    return found


# --- listing ---


@functools.cache
def installed() -> Path:
    """The folder that the tests' own distributions were installed into."""
    folder = tempfile.mkdtemp(prefix="meshcast-distributions-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    found = sorted(str(project.parent) for project in DISTRIBUTIONS.glob("*/pyproject.toml"))
    if found:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
        done = subprocess.run(
            [*pip, "--no-deps", "--no-build-isolation", "--target", folder, *found],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise pytest.UsageError(f"{', '.join(found)} cannot be installed: {done.stderr}")
    return Path(folder)


@contextlib.contextmanager
def on_the_path() -> Iterator[None]:
    """Where entry points and modules of the tests' own distributions are found."""
    folder = str(installed())
    sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


@functools.cache
def services() -> tuple[tuple[ServiceSpec, ServiceExample], ...]:
    """Every service that the entry-point group lists, with its example."""
    with on_the_path():
        specs = [find_service(name) for name in find_services()]
        return tuple((spec, find_example(spec)) for spec in specs)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs what takes a `case` for every service and back-end, and what takes a `service` for every service."""
    if "case" in metafunc.fixturenames:
        cases = [
            pytest.param(
                Case(spec, backend, example),
                marks=[pytest.mark.gpu] if "cuda" in backend else [],
                id=f"{spec.name}-{backend.replace('/', '_')}",
            )
            for spec, example in services()
            for backend in BACKENDS
        ]
        metafunc.parametrize("case", cases, indirect=True, scope="session")
    elif "service" in metafunc.fixturenames:
        singles = [pytest.param(Case(spec, BACKENDS[0], example), id=spec.name) for spec, example in services()]
        metafunc.parametrize("service", singles, indirect=True, scope="session")
    elif "further" in metafunc.fixturenames:
        others = [
            pytest.param(
                Further(model, backend, Case(spec, backend, example)),
                marks=[pytest.mark.gpu] if "cuda" in backend else [],
                id=f"{model.name}-{backend.replace('/', '_')}",
            )
            for spec, example in services()
            for model in spec.also
            for backend in BACKENDS
        ]
        metafunc.parametrize("further", others, indirect=True, scope="session")


@pytest.fixture(scope="session")
def case(request: pytest.FixtureRequest) -> Case:
    """A service in a back-end."""
    found: Case = request.param
    return found


@pytest.fixture(scope="session")
def service(request: pytest.FixtureRequest) -> Case:
    """A service, in whichever back-end does not matter."""
    found: Case = request.param
    return found


@pytest.fixture(scope="session")
def further(request: pytest.FixtureRequest) -> Further:
    """A further model of a service's process in a back-end."""
    found: Further = request.param
    return found


@pytest.fixture(scope="session")
def environ() -> dict[str, str]:
    """Environment of a process that finds the tests' own distributions as well."""
    paths = [str(installed()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


# --- versions ---


class Artefacts:
    """Two versions of one service's model, which answer differently, and torch's word on the second one."""

    def __init__(self, case: Case, root: Path) -> None:
        self._case, self._root = case, root
        shipped = case.spec.shipped
        if shipped is None:
            self._export(FIRST)
        else:
            versions = Repository(shipped).versions(case.spec.name)
            _copy(shipped, root, case.spec.name, versions[-1], FIRST)
        self.torch: Session = self._export(SECOND)

    def repository(self, folder: Path, *versions: int) -> Path:
        """A repository of these versions; the highest is loaded."""
        for version in versions:
            _copy(self._root, folder, self._case.spec.name, version, version)
        return folder

    def _export(self, version: int) -> Session:
        return untrained(self._case, self._root, version)


def untrained(case: ModelCase, root: Path, version: int, rows: int = 64) -> Session:
    """Installs a version of untrained weights, which differ from version to version; gives the torch session of it."""
    import torch

    from meshcast.runtime.torch import open_session

    module, _, kind = case.spec.model.partition(":")
    with on_the_path():
        make = getattr(importlib.import_module(module), kind)
    torch.manual_seed(version)
    network = make()
    publish(
        replace(case.spec, shipped=None),
        network,
        recorded=case.tensors(rows),
        repository=root,
        card="# A card",
        metrics={"test.error": 0.5},
        version=version,
    )
    session: Session = open_session(network, case.signature)
    return session


def _copy(source: Path, target: Path, name: str, version: int, number: int) -> None:
    models, meta = target / "models" / name, target / "meta" / name
    models.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "models" / name / "config.pbtxt", models)
    shutil.copytree(source / "meta" / name / str(version), meta / str(number))
    shutil.copytree(source / "models" / name / str(version), models / str(number))


@pytest.fixture(scope="session")
def artefacts_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Artefacts]:
    """The versions of a case's service, made once."""
    made: dict[str, Artefacts] = {}

    def of(case: Case) -> Artefacts:
        name = case.spec.name
        if name not in made:
            made[name] = Artefacts(case, tmp_path_factory.mktemp(name))
        return made[name]

    return of


@pytest.fixture(scope="session")
def artefacts(case: Case, artefacts_of: Callable[[Case], Artefacts]) -> Artefacts:
    """The versions of the case's service."""
    return artefacts_of(case)


# --- servers ---


class Peer:
    """Whoever asks one address about a case's service, at both doors."""

    def __init__(self, case: Any, opened: grpc.aio.Channel) -> None:
        self.case = case
        self.channel = opened
        self.oip: Any = oip_grpc.GRPCInferenceServiceStub(opened)  # its synchronous base hides the calls of grpc.aio
        self.health: Any = health_pb2_grpc.HealthStub(opened)

    def call(self, method: str, request: Message, *, timeout_s: float | None = CALL_S, **options: Any) -> Any:
        """A unary call under way."""
        contract = self.case.method(method)
        make = self.channel.unary_unary(
            f"/{self.case.spec.service_name}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(contract.output_type).FromString,
        )
        return make(request, timeout=timeout_s, **options)

    async def ask(self, method: str, request: Message, *, timeout_s: float | None = CALL_S) -> Any:
        """The answer to a unary call, or its MeshError."""
        with mesh_errors():
            return await self.call(method, request, timeout_s=timeout_s)

    async def single(self, request: Message | None = None, *, timeout_s: float | None = CALL_S, **fields: Any) -> Any:
        """The answer to a question of the example, or to `request`, with these fields set."""
        single = self.case.example.single
        return await self.ask(single.method, changed(request or single.request(1, 0), **fields), timeout_s=timeout_s)

    def chunks(self, requests: Iterator[Message], *, timeout_s: float | None = CALL_S) -> Any:
        """A stream under way."""
        assert self.case.example.stream is not None
        method = self.case.example.stream.method
        contract = self.case.method(method)
        make = self.channel.stream_stream(
            f"/{self.case.spec.service_name}/{method}",
            request_serializer=message_factory.GetMessageClass(contract.input_type).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(contract.output_type).FromString,
        )
        return make(requests, timeout=timeout_s)

    async def stream(self, *requests: Message, timeout_s: float | None = CALL_S) -> list[Any]:
        """The answers of a stream, or its MeshError."""
        call = self.chunks(iter(requests), timeout_s=timeout_s)
        with mesh_errors(call):
            return [answer async for answer in call]

    def request_of(self, method: str, **fields: Any) -> Any:
        """A request of an rpc, made of its fields."""
        kind: Any = message_factory.GetMessageClass(self.case.method(method).input_type)
        return kind(**fields)

    async def describe(self, **fields: Any) -> Any:
        """The answer of DescribeModel."""
        return await self.ask("DescribeModel", self.request_of("DescribeModel", **fields))

    def tensor_request(self, tensors: Arrays, **fields: Any) -> oip_pb.ModelInferRequest:
        """A question of the Open Inference Protocol, with raw contents."""
        request = oip_pb.ModelInferRequest(model_name=self.case.spec.name, **fields)
        for spec in self.case.signature.inputs:
            array = np.ascontiguousarray(tensors[spec.name])
            request.inputs.add(name=spec.name, datatype=spec.dtype, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        return request

    def wrong_tensors(self) -> list[tuple[str, oip_pb.ModelInferRequest]]:
        """(tensor at fault, request) of every way in which a tensor can be wrong, for every input."""
        signature, tensors = self.case.signature, self.case.tensors(2)
        cases: list[tuple[str, oip_pb.ModelInferRequest]] = []

        def add(name: str, change: Any) -> None:
            request = self.tensor_request(tensors)
            change(request, next(at for at, tensor in enumerate(request.inputs) if tensor.name == name))
            cases.append((name, request))

        def remove(request: oip_pb.ModelInferRequest, at: int) -> None:
            del request.inputs[at], request.raw_input_contents[at]

        def retype(request: oip_pb.ModelInferRequest, at: int) -> None:
            request.inputs[at].datatype = "FP64" if request.inputs[at].datatype != "FP64" else "FP32"

        def deepen(request: oip_pb.ModelInferRequest, at: int) -> None:
            request.inputs[at].shape.append(1)

        def widen(request: oip_pb.ModelInferRequest, at: int) -> None:
            request.inputs[at].shape[-1] += 1

        def shorten(request: oip_pb.ModelInferRequest, at: int) -> None:
            request.raw_input_contents[at] = request.raw_input_contents[at][:-1]

        def repeat(request: oip_pb.ModelInferRequest, at: int) -> None:
            request.inputs.append(request.inputs[at])
            request.raw_input_contents.append(request.raw_input_contents[at])

        for spec in signature.inputs:
            for change in (remove, retype, deepen, widen, shorten, repeat):
                add(spec.name, change)
            if spec.numpy_dtype.kind == "f" and not spec.takes_nonfinite:
                for value in (np.nan, np.inf):
                    array = tensors[spec.name].copy()
                    array[(1, *(0 for _ in spec.shape))] = value
                    cases.append((spec.name, self.tensor_request({**tensors, spec.name: array})))
            if spec.value_max is not None:
                for value in (-1, spec.value_max + 1):
                    array = tensors[spec.name].copy()
                    array[(1, *(0 for _ in spec.shape))] = value
                    cases.append((spec.name, self.tensor_request({**tensors, spec.name: array})))
        stranger = self.tensor_request(tensors)
        stranger.inputs[0].name = "stranger"
        cases.append(("stranger", stranger))
        wanted = self.tensor_request(tensors)
        wanted.outputs.add(name="nothing")
        cases.append(("nothing", wanted))
        return cases

    async def infer(self, request: oip_pb.ModelInferRequest, *, timeout_s: float | None = CALL_S) -> Any:
        """The answer of ModelInfer, or its MeshError."""
        with mesh_errors():
            return await self.oip.ModelInfer(request, timeout=timeout_s)

    async def outputs(self, tensors: Arrays, **fields: Any) -> dict[str, NDArray[Any]]:
        """The outputs of ModelInfer, by name."""
        return self.arrays_of(await self.infer(self.tensor_request(tensors, **fields)))

    def arrays_of(self, response: oip_pb.ModelInferResponse) -> dict[str, NDArray[Any]]:
        """The outputs of an answer, by name."""
        dtypes = {spec.name: spec.numpy_dtype for spec in self.case.signature.outputs}
        return {
            output.name: np.frombuffer(raw, dtype=dtypes[output.name]).reshape(tuple(output.shape))
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }

    async def load(self, *versions: int) -> None:
        """Loads these versions, by a policy that comes along; without versions, by the repository's."""
        request = oip_pb.RepositoryModelLoadRequest(model_name=self.case.spec.name)
        if versions:
            wanted = ", ".join(map(str, versions))
            policy = f'{{"version_policy": {{"specific": {{"versions": [{wanted}]}}}}}}'
            request.parameters["config"].string_param = policy
        with mesh_errors():
            await self.oip.RepositoryModelLoad(request, timeout=60)

    async def unload(self) -> None:
        """Unloads the model."""
        request = oip_pb.RepositoryModelUnloadRequest(model_name=self.case.spec.name)
        with mesh_errors():
            await self.oip.RepositoryModelUnload(request, timeout=60)

    async def check(self, name: str) -> str:
        """What Check says of a health name; UNKNOWN where there is none."""
        try:
            answer = await self.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, error
            return "UNKNOWN"
        return status_name(answer)

    async def listed(self) -> dict[str, str]:
        """What List says."""
        answer = await self.health.List(health_pb2.HealthListRequest(), timeout=CALL_S)
        return {name: status_name(response) for name, response in answer.statuses.items()}

    @contextlib.asynccontextmanager
    async def watching(self, *names: str) -> AsyncIterator[dict[str, list[str]]]:
        """What Watch has said of each name so far."""
        seen: dict[str, list[str]] = {name: [] for name in names}

        async def watch(name: str) -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for answer in self.health.Watch(health_pb2.HealthCheckRequest(service=name)):
                    seen[name].append(status_name(answer))

        tasks = [asyncio.create_task(watch(name), name=f"watch:{name}") for name in names]
        try:
            await until(lambda: all(seen.values()))
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Served:
    """A running server of one case, its inside, and a peer that asks it."""

    case: Case
    server: Server
    context: ServiceContext
    peer: Peer
    tasks: frozenset[asyncio.Task[Any]]

    async def is_idle(self) -> None:
        """Returns when no call, row or task of a question is left behind; fails where one is."""
        batcher, interceptor = self.context.batcher, self.server.interceptor
        await asyncio.wait_for(batcher.settle(), CALL_S)
        assert batcher.queued_rows == 0
        await until(lambda: interceptor.in_flight == 0)
        try:
            await until(lambda: not left_behind(self.tasks))
        except TimeoutError:
            pytest.fail(f"left behind: {left_behind(self.tasks)}")


def left_behind(before: frozenset[asyncio.Task[Any]]) -> list[str]:
    """Tasks that have come since, those of grpc, of the event loop and of the tests left out."""
    found = []
    for task in asyncio.all_tasks() - before:
        code = getattr(task.get_coro(), "cr_code", None)
        # What is compiled, as grpc's own tasks are, names a file of its build.
        if code is not None and os.path.isabs(code.co_filename) and not code.co_filename.startswith(_NOT_SERVERS):
            found.append(f"{task.get_name()} ({code.co_qualname})")
    return sorted(found)


_NOT_SERVERS = (
    *(str(Path(str(module.__file__)).parent) for module in (grpc, asyncio, pytest_asyncio)),
    str(Path(__file__).parents[2]),
)


def changed(message: Message, **fields: Any) -> Message:
    """A copy of a message with these fields set."""
    copy = type(message)()
    copy.CopyFrom(message)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


def status_name(answer: Any) -> str:
    """A health status as a word."""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds that tells nobody when it does."""
    async with asyncio.timeout(CALL_S):
        while not holds():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def running(case: Case, repository: Path, state: Path, **settings: Any) -> AsyncIterator[Served]:
    """A server of the case over a repository, drained with the block; settings are of `[runtime]`, but for one."""
    drain_delay_s = settings.pop("drain_delay_s", 0.0)
    settings = {"backend": case.backend, "runs_max": 1, "load_rest": 0.0, **settings}
    runtime = RuntimeSettings(model_repository=repository, state_dir=state, **settings)
    rpc = RpcSettings(metrics=False, drain_delay_s=drain_delay_s, drain_s=5.0)
    # The client's own limit is above the server's, so that the server's is seen.
    plain = ChannelSettings(plain=True, message_bytes_max=64 * 2**20)
    async with (
        serving(case.spec, runtime, rpc) as (server, context),
        channel(server.address, settings=plain) as opened,
    ):
        yield Served(case, server, context, Peer(case, opened), frozenset(asyncio.all_tasks()))


Start = Callable[..., Awaitable[Served]]


@pytest_asyncio.fixture(loop_scope="session")
async def start(case: Case, artefacts: Artefacts, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts servers of the test's own: `await start(versions=(1, 2), **settings)`; the highest version is live."""
    async with contextlib.AsyncExitStack() as stack:
        count = 0

        async def one(*, versions: tuple[int, ...] = (SECOND,), **settings: Any) -> Served:
            nonlocal count
            count += 1
            repository = artefacts.repository(tmp_path / f"repository-{count}", *versions)
            settings = {"rows_max": ROWS_MAX, **settings}
            return await stack.enter_async_context(running(case, repository, tmp_path / "state", **settings))

        yield one


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(case: Case, artefacts: Artefacts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The case's server that tests share, which leave it as they found it; the second version serves."""
    folder = tmp_path_factory.mktemp("served")
    repository = artefacts.repository(folder / "repository", SECOND)
    async with running(case, repository, folder / "state") as found:
        yield found


@pytest.fixture(scope="session")
def suite() -> Any:
    """What tests need beside: the names of this module."""
    return sys.modules[__name__]
