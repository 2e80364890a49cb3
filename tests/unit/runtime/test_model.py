import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc import CorruptData, Deadline, MeshError, NotFound, NotReady, Precondition
from meshcast.runtime import Model, ModelState, Recorded, Repository, RuntimeSettings, VersionPolicy


class Healths(dict[str, bool]):
    """Health names as a model tells them."""

    def __call__(self, name: str, serves: bool | None) -> None:
        if serves is None:
            self.pop(name)
        else:
            self[name] = serves


def model_of(small: Any, repository: Any, settings: RuntimeSettings, health: Any = None) -> Model:
    return Model(
        name="small",
        signature=small.signature,
        repository=repository,
        settings=settings,
        on_health=Healths() if health is None else health,
    )


async def ask(model: Model, arrays: dict[str, Any], version: int = 0) -> Any:
    return await model.batcher.submit(arrays, rows=len(arrays["mask"]), deadline=Deadline.after(30.0), version=version)


async def test_a_model_loads_proves_chooses_and_answers_as_torch_does(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    health = Healths()
    async with model_of(small, repository, settings, health) as model:
        assert health == {"model/small": False}
        with pytest.raises(NotReady) as caught:
            await ask(model, small.inputs(1))
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_MODEL_LOADING
        await model.load()
        assert health == {"model/small": True, "model/small/1": True}
        assert model.state is ModelState.READY
        recorded = Recorded.load(repository.paths("small", 1).meta_dir / "recorded.npz")
        answer = await ask(model, dict(recorded.inputs))
        assert np.abs(answer.outputs["log_engagement"] - recorded.outputs["log_engagement"]).max() <= 1e-5
        about = model.describe()
        assert about.backend == answer.facts.backend
        assert {candidate.backend for candidate in about.candidates if candidate.accepted} == {
            "onnxruntime/cpu/f32",
            "openvino/cpu/f32",
        }
        assert all(candidate.rows_per_second > 0 for candidate in about.candidates if candidate.accepted)
        assert about.candidates[0].backend == about.backend
        assert (about.card, dict(about.metrics)) == ("# Small 1", {"test.mae": 0.1})
        with pytest.raises(NotFound):
            model.describe(4)


async def test_speeds_are_measured_once_a_host_and_graph(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    for _ in range(2):
        async with model_of(small, repository, settings) as model:
            await model.load()
        kept = list((settings.state / "cache").glob("*/speeds-*.json"))
        assert len(kept) == 1
        kept[0].write_text('{"onnxruntime/cpu/f32": 1.0, "openvino/cpu/f32": 2.0}')  # believed the next time
    assert model.batcher.counts.runs == 0
    async with model_of(small, repository, settings) as model:
        await model.load()
        assert [(candidate.backend, candidate.rows_per_s) for candidate in model.candidates] == [
            ("openvino/cpu/f32", 2.0),
            ("onnxruntime/cpu/f32", 1.0),
        ]


@pytest.mark.parametrize(
    ("file", "goes_on"), [("model.onnx", "openvino/cpu/f32"), ("openvino.bin", "onnxruntime/cpu/f32")]
)
async def test_a_corrupt_candidate_is_refused_and_service_goes_on_with_the_other(
    small: Any, repository: Any, settings: RuntimeSettings, file: str, goes_on: str
) -> None:
    paths = repository.paths("small", 1)
    path = (paths.version_dir if file == "model.onnx" else paths.meta_dir) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    async with model_of(small, repository, settings) as model:
        await model.load()
        assert (await ask(model, small.inputs(3))).facts.backend == goes_on
        refused = [candidate for candidate in model.candidates if not candidate.accepted]
        assert len(refused) == 1 and file in refused[0].refusal and "sha256" in refused[0].refusal


async def test_a_version_that_no_back_end_can_serve_leaves_the_present_one_serving(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    health = Healths()
    async with model_of(small, repository, settings, health) as model:
        await model.load()
        paths = repository.paths("small", repository.add(2))
        (paths.version_dir / "model.onnx").write_bytes(b"")
        (paths.meta_dir / "openvino.bin").write_bytes(b"")
        with pytest.raises(CorruptData) as caught:
            await model.load()
        assert caught.value.facts["version"] == "2"
        assert (model.live, model.state) == (1, ModelState.READY)
        assert "No back-end may serve" in model.reason
        assert health == {"model/small": True, "model/small/1": True}
        assert (await ask(model, small.inputs(1))).facts.version == 1


async def test_a_load_of_several_versions_takes_all_of_them_or_nothing(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    health = Healths()
    async with model_of(small, repository, settings, health) as model:
        await model.load()
        repository.add(2)
        (repository.paths("small", repository.add(1)).meta_dir / "export.json").write_text("{")
        with pytest.raises(CorruptData):
            await model.load(VersionPolicy(latest=0, specific=(2, 3)))
        assert (model.versions, model.live) == ((1,), 1)
        assert health == {"model/small": True, "model/small/1": True}
        await model.closed()


@pytest.mark.parametrize("policy", [VersionPolicy(latest=1), VersionPolicy(latest=0, all=True)])
async def test_a_start_serves_what_can_be_served_where_the_newest_version_is_corrupt(
    small: Any, repository: Any, settings: RuntimeSettings, policy: VersionPolicy
) -> None:
    health = Healths()
    repository.add(2)
    (repository.paths("small", repository.add(1)).meta_dir / "export.json").write_text("{")
    async with model_of(small, repository, settings, health) as model:
        await model.load(policy, falls_back=True)
        assert model.live == 2 and 3 not in model.versions
        assert health["model/small"] and health["model/small/2"] and "model/small/3" not in health
        assert (await ask(model, small.inputs(1))).facts.version == 2


async def test_a_corrupt_first_version_answers_with_its_reason(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    (repository.paths("small", 1).meta_dir / "export.json").write_text("{")
    async with model_of(small, repository, settings) as model:
        with pytest.raises(CorruptData):
            await model.load()
        with pytest.raises(Precondition, match=r"export\.json"):
            await ask(model, small.inputs(1))
        repository.add(2)
        await model.load()
        assert (await ask(model, small.inputs(1))).facts.version == 2


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
async def test_swaps_under_load_lose_nothing_and_mix_nothing(
    small: Any, repository: Any, settings: RuntimeSettings, backend: str
) -> None:
    """Every answer is reproduced by the version that its facts name, and nothing is refused."""
    swaps = 10
    arrays = small.inputs(4)
    async with model_of(small, repository, replace(settings, backend=backend, runs_max=2)) as model:
        await model.load()
        expected = {1: (await ask(model, arrays)).outputs["quantiles"]}
        seen: set[int] = set()
        stop = False

        async def caller(row: int) -> None:
            one = {name: array[row : row + 1] for name, array in arrays.items()}
            while not stop:
                answer = await ask(model, one)
                seen.add(answer.facts.version)
                wanted = expected[2 - answer.facts.version % 2][row]
                assert np.abs(answer.outputs["quantiles"][0] - wanted).max() <= 1e-5

        repository.add(2)
        await model.load()
        expected[2] = (await ask(model, arrays)).outputs["quantiles"]
        assert np.abs(expected[1] - expected[2]).max() > 1e-2
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(caller(row % 4)) for row in range(8)]
            for version in range(3, 3 + swaps):
                await asyncio.to_thread(repository.add, 2 - version % 2)
                await model.load()
                assert model.versions == (version,)
            stop = True
            await asyncio.gather(*callers)
        await model.closed()
        assert len(seen) > swaps // 2


async def test_a_swap_keeps_the_back_end_and_measures_nothing(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    async with model_of(small, repository, settings) as model:
        await model.load()
        chosen = model.describe().backend
        for kept in (settings.state / "cache").glob("*/*"):
            kept.unlink()
        repository.add(2)
        await model.load()
        assert (model.live, model.describe().backend) == (2, chosen)
        assert not list((settings.state / "cache").glob("*/*"))


async def test_a_policy_loads_several_versions_and_the_highest_is_live(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    repository.add(2)
    async with model_of(small, repository, settings) as model:
        await model.load(VersionPolicy(latest=0, all=True))
        assert (model.versions, model.live) == ((1, 2), 2)
        assert (await ask(model, small.inputs(1), version=1)).facts.version == 1
        await model.load(VersionPolicy(latest=0, specific=(1,)))
        assert (model.versions, model.live) == ((1,), 1)
        with pytest.raises(NotFound):
            await ask(model, small.inputs(1), version=2)
        with pytest.raises(NotFound):
            await model.load(VersionPolicy(latest=0, specific=(9,)))
        assert model.live == 1


async def test_an_unloaded_model_says_so_until_it_is_loaded_again(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    health = Healths()
    async with model_of(small, repository, settings, health) as model:
        await model.load()
        waiting = [asyncio.create_task(ask(model, small.inputs(1))) for _ in range(8)]
        await asyncio.sleep(0)
        await model.unload()
        assert {answer.facts.version for answer in await asyncio.gather(*waiting)} == {1}
        assert (model.state, health) == (ModelState.UNAVAILABLE, {"model/small": False})
        with pytest.raises(Precondition) as caught:
            await ask(model, small.inputs(1))
        assert caught.value.reason == error_reason_pb2.ERROR_REASON_MODEL_STATE
        await model.unload()
        await model.load()
        assert (await ask(model, small.inputs(1))).facts.version == 1


async def test_a_polling_model_finds_a_new_version_by_itself(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    async with model_of(small, repository, replace(settings, poll_s=0.01)) as model:
        await model.load()
        following = asyncio.create_task(model.follow())
        await asyncio.sleep(0.05)
        repository.add(2)
        async with asyncio.timeout(20):
            while model.live != 2:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_load_that_is_cut_short_leaves_a_model_that_can_be_loaded(
    small: Any, repository: Any, settings: RuntimeSettings
) -> None:
    async with model_of(small, repository, settings) as model:
        loading = asyncio.create_task(model.load())
        await asyncio.sleep(0)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        with pytest.raises(MeshError):
            await ask(model, small.inputs(1))
        await model.load()
        assert (await ask(model, small.inputs(1))).facts.version == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
async def test_memory_does_not_grow_over_fifty_swaps(
    small: Any, repository: Any, settings: RuntimeSettings, backend: str
) -> None:
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    resident: list[int] = []
    async with model_of(small, repository, replace(settings, backend=backend)) as model:
        await model.load()
        for swap in range(1, 51):
            repository.add(1 + swap % 2)
            await model.load()
            await model.closed()
            await ask(model, small.inputs(64))
            resident.append(process.memory_info().rss)
    assert resident[49] <= 1.1 * resident[4]


async def test_a_load_finds_the_users_first_version_beside_the_one_that_ships(
    small: Any, settings: RuntimeSettings, tmp_path: Path
) -> None:
    own = Repository(tmp_path / "own", shipped=small.root)
    async with model_of(small, own, settings) as model:
        await model.load()
        assert model.versions == (2,)
        source = own.paths("small", 1)
        with own.install("small", small.signature) as staged:
            shutil.copytree(source.version_dir, staged.version_dir, dirs_exist_ok=True)
            shutil.copytree(source.meta_dir, staged.meta_dir, dirs_exist_ok=True)
        assert model.describe().card == "# Small 2"  # it serves still
        await model.load()
        assert model.versions == (3,)
        assert model.describe().card == "# Small 1"
