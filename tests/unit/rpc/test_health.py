"""The health registry: states by name, watchers that never hold a writer up, and a shutdown that lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from meshcast.rpc import Health, ServingStatus

SERVING, NOT_SERVING, GONE = ServingStatus.SERVING, ServingStatus.NOT_SERVING, ServingStatus.SERVICE_UNKNOWN


async def following(watch: AsyncIterator[ServingStatus]) -> ServingStatus:
    return await asyncio.wait_for(anext(watch), 5)


def test_the_process_itself_starts_as_not_serving() -> None:
    assert Health().statuses() == {"": NOT_SERVING}


async def test_a_watcher_sees_the_state_now_and_each_change() -> None:
    health = Health()
    watch = health.watch("model/fox")
    assert await following(watch) is GONE
    health.set("model/fox", NOT_SERVING)
    assert await following(watch) is NOT_SERVING
    health.set("model/fox", SERVING)
    assert await following(watch) is SERVING
    health.remove("model/fox")
    assert await following(watch) is GONE


async def test_a_slow_watcher_skips_to_the_newest_state() -> None:
    health = Health({"a": NOT_SERVING})
    watch = health.watch("a")
    assert await following(watch) is NOT_SERVING
    for _ in range(1_000):
        health.set("a", SERVING)
        health.set("a", NOT_SERVING)
    health.set("a", SERVING)
    assert await following(watch) is SERVING


async def test_after_shutdown_nothing_serves_again_and_watches_go_on_until_close() -> None:
    health = Health({"": SERVING, "a": SERVING})
    watch = health.watch("a")
    assert await following(watch) is SERVING
    health.shutdown()
    health.set("a", SERVING)
    health.set("new", SERVING)
    health.remove("a")
    assert health.statuses() == {"": NOT_SERVING, "a": NOT_SERVING}
    assert await following(watch) is NOT_SERVING
    health.close()
    assert [status async for status in watch] == []


async def test_a_watch_that_starts_after_close_tells_the_state_and_ends() -> None:
    health = Health({"a": SERVING})
    health.close()
    assert [status async for status in health.watch("a")] == [NOT_SERVING]


async def test_a_watch_that_was_given_up_leaves_nothing_behind() -> None:
    health = Health()
    watch = health.watch("a")
    await following(watch)
    await watch.aclose()
    assert not health._watchers
