"""Endpoint sources: what `endpoints` may say, and what becomes of answers and files that are wrong for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshcast.gateway.dns_endpoints import DnsEndpoints, Seen, resolved
from meshcast.gateway.endpoints import (
    DiscoverySettings,
    MergedEndpoints,
    StaticEndpoints,
    check_endpoint,
    server_name,
    source_of,
)
from meshcast.gateway.file_endpoints import FileEndpoints, parse

SETTINGS = DiscoverySettings(dns_poll_s=0.001, file_poll_s=0.001)


class Resolver:
    """Gives one answer after the other, and the last one for ever; an error is raised."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OSError):
            raise answer
        return [f"{one}:{port}" for one in answer]


async def told(source: Any, count: int) -> list[tuple[str, ...]]:
    """The first lists that a source tells."""
    lists: list[tuple[str, ...]] = []
    async with aclosing(source.watch()) as watch, asyncio.timeout(5):
        async for endpoints in watch:
            lists.append(tuple(endpoints))
            if len(lists) == count:
                break
    return lists


@pytest.mark.parametrize(
    "endpoint", ["a:1", "10.0.0.1:8101", "[::1]:8101", "dns:///predictor:8101", "file:///etc/mesh/predictors"]
)
def test_endpoints_of_every_form_are_taken(endpoint: str) -> None:
    check_endpoint(endpoint)
    source_of([endpoint], SETTINGS)


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        ("predictor", "is not host:port"),
        (":8101", "is not host:port"),
        ("a:0", "is not host:port"),
        ("a:65536", "is not host:port"),
        ("a:٣", "is not host:port"),
        ("::1:8101", "in brackets"),
        ("dns:///predictor", "is not host:port"),
        ("dns://predictor:8101", "write dns:///host:port"),
        ("dns://8.8.8.8/predictor:8101", "write dns:///host:port"),
        ("file://list", "names no file"),
        ("file:///", "names no file"),
        ("http://predictor:8101", "known are host:port, dns:///host:port, file:///path"),
        ("xds:///predictor", "known are"),
        ("a/b:1", "is not host:port"),
    ],
)
def test_an_endpoint_that_cannot_work_is_named(endpoint: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_endpoint(endpoint)


def test_a_certificate_must_carry_the_name_that_led_to_the_replica() -> None:
    endpoints = ["10.0.0.9:1", "dns:///predictor:1", "dns:///a:2", "dns:///b:2", "file:///list"]
    assert server_name("10.0.0.1:1", endpoints) == "predictor"
    assert server_name("10.0.0.9:1", endpoints) == ""
    assert server_name("10.0.0.1:2", endpoints) == ""  # either
    assert server_name("10.0.0.1:3", endpoints) == ""


@pytest.mark.parametrize("field", ["dns_poll_s", "file_poll_s", "dns_gone_s"])
def test_times_that_cannot_work_are_named(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        DiscoverySettings(**{field: float("nan")})


async def test_a_fixed_list_is_told_once_and_in_order() -> None:
    lists = [list(endpoints) async for endpoints in source_of(["b:1", "a:1", "b:1"], SETTINGS).watch()]
    assert lists == [["b:1", "a:1"]]


async def test_a_name_is_followed_and_a_failure_changes_nothing() -> None:
    resolver = Resolver(OSError("busy"), ["b", "a"], OSError("busy"), ["b", "a"], ["c", "b", "a"], ["c"])
    source = DnsEndpoints("predictor", 1, poll_s=0, gone_s=0, resolve=resolver)
    assert await told(source, 3) == [("a:1", "b:1"), ("a:1", "b:1", "c:1"), ("c:1",)]
    assert resolver.asked == 6


async def test_a_name_without_addresses_empties_nothing_at_once() -> None:
    resolver = Resolver(["a"], [], [], ["a", "b"])
    source = DnsEndpoints("predictor", 1, poll_s=0, gone_s=60, resolve=resolver)
    assert await told(source, 2) == [("a:1",), ("a:1", "b:1")]


def test_an_address_leaves_once_it_was_missing_for_long_enough() -> None:
    seen = Seen(gone_s=10)
    assert seen.update({"a", "b"}, 0) == ("a", "b")
    assert seen.update({"a"}, 100) == ("a", "b")  # nobody could say for long; missing since now
    assert seen.update({"b"}, 105) == ("a", "b")
    assert seen.update({"b"}, 114) == ("a", "b")
    assert seen.update({"b"}, 115) == ("b",)
    assert seen.update((), 116) == ("b",)
    assert seen.update((), 126) == ()


@given(st.lists(st.sets(st.sampled_from("abcd")), max_size=20))
def test_what_an_answer_names_stands_and_the_rest_was_named_lately(answers: list[set[str]]) -> None:
    seen = Seen(gone_s=3)
    for now, answer in enumerate(answers):
        stands = seen.update(answer, now)
        lately = set().union(*answers[max(0, now - 3) : now + 1])
        assert answer <= {*stands} <= lately
        assert list(stands) == sorted({*stands})


async def test_the_systems_resolver_knows_this_machine() -> None:
    assert "127.0.0.1:8101" in await resolved("localhost", 8101)
    assert await resolved("[::1]", 8101) == ("[::1]:8101",)


def test_a_list_has_comments_and_each_address_once() -> None:
    assert parse("# two\nb:1  # the second\n\n a:1\nb:1") == ("a:1", "b:1")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no endpoint"),
        ("# none", "no endpoint"),
        ("a:1\nb", "line 2"),
        ("dns:///a:1", "line 1"),
        ("a:1 b:1", "line"),
    ],
)
def test_a_wrong_list_is_named_by_its_line(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(text)


async def test_a_list_is_followed_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "predictors"
    source = FileEndpoints(path, poll_s=0)
    async with aclosing(source.watch()) as watch, asyncio.timeout(10):
        first = asyncio.ensure_future(anext(watch))
        path.write_text("a:1\n", "utf-8")
        assert await first == ("a:1",)
        for number, broken in enumerate(("a:1\nb:\n", "", None), 2):
            after = asyncio.ensure_future(anext(watch))
            if broken is None:
                path.unlink()
            else:
                path.write_text(broken, "utf-8")
            done, _ = await asyncio.wait({after}, timeout=0.02)
            assert not done
            newer = path.with_suffix(".new")
            newer.write_text(f"a:1\nb:{number}\n", "utf-8")
            newer.rename(path)
            assert await after == ("a:1", f"b:{number}")


async def test_a_mixture_is_one_sorted_list(tmp_path: Path) -> None:
    path = tmp_path / "predictors"
    path.write_text("c:1\na:1\n", "utf-8")
    source = source_of(["d:1", "a:1", f"file://{path}"], SETTINGS)
    assert (await told(source, 2))[-1] == ("a:1", "c:1", "d:1")


async def test_the_parts_of_a_mixture_do_not_wait_for_each_other() -> None:
    class Silent:
        async def watch(self) -> AsyncIterator[Sequence[str]]:
            await asyncio.Event().wait()
            yield ()

    assert await told(MergedEndpoints([Silent(), StaticEndpoints(["a:1"])]), 1) == [("a:1",)]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("endpoints:part")]


async def test_a_bug_of_a_part_is_not_swallowed() -> None:
    class Broken:
        async def watch(self) -> AsyncIterator[Sequence[str]]:
            yield ("a:1",)
            raise KeyError("bug")

    with pytest.raises(KeyError):
        await told(MergedEndpoints([Broken()]), 2)
