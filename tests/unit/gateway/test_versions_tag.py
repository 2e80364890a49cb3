"""The tag of a route's serving versions, which decides whether a kept answer is still the models' own."""

from __future__ import annotations

from typing import Any

from meshcast.gateway import Backend, Replica, RouteSettings, State


def replica(endpoint: str, *versions: int) -> Replica:
    channel: Any = None
    made = Replica(endpoint, channel)
    made.problem = ""
    made.models = {f"model/m/{version}": State.SERVING for version in versions}
    return made


def lose(lost: Replica) -> None:
    """As `follow` does."""
    lost.problem = "gone"
    lost.models = dict.fromkeys(lost.models, State.UNREACHABLE)


def test_it_follows_the_versions_that_serve() -> None:
    one, two = replica("a:1", 1), replica("b:1", 1)
    route = Backend("m", RouteSettings(services=("a.B",)))
    route.replicas = {"a:1": one, "b:1": two}
    tags = []

    def take() -> None:
        route.refresh()
        tags.append(route.versions_tag)

    take()
    one.models["model/m/2"] = State.SERVING
    take()
    lose(two)
    take()
    assert tags[0] != tags[1]
    assert tags[1] == tags[2]  # a replica that is lost takes no version away that another serves
    one.models = {"model/m/1": State.SERVING, "model/m/2": State.NOT_SERVING}
    route.refresh()
    assert route.versions_tag == tags[0]


def test_it_stays_while_no_replica_says_anything() -> None:
    only = replica("a:1", 1)
    route = Backend("m", RouteSettings(services=("a.B",)))
    route.replicas = {"a:1": only}
    route.refresh()
    known = route.versions_tag
    lose(only)
    route.refresh()
    assert route.versions_tag == known
    only.problem = ""  # reached again, not listed yet
    route.refresh()
    assert route.versions_tag == known
    only.models = {"model/m/1": State.SERVING, "model/m/2": State.SERVING}
    route.refresh()
    assert route.versions_tag != known
