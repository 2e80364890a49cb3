"""`meshcast train` and `meshcast export`: hand over to what a service declares for them, and name what is missing."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from meshcast.cli.mesh_plan import installed_services
from meshcast.cli.problem import Problem

__all__ = ["train"]


def train(service: str, arguments: Sequence[str]) -> None:
    """Runs a service's trainer with the arguments that follow its name; its own parser explains them.

    Raises:
        Problem: there is no such service, or it has no trainer.
        ModuleNotFoundError: the extra `train` is not installed.
    """
    found = installed_services()
    if service not in found:
        raise Problem(
            f"no model service {service!r} is installed", way_out=f"installed are: {', '.join(sorted(found)) or 'none'}"
        )
    named: str | None = getattr(found[service].load(), "train", None)
    if named is None:
        raise Problem(f"{service} has no trainer")
    module, _, function = named.partition(":")
    run: Callable[..., Any] = getattr(importlib.import_module(module), function)
    run(list(arguments))
