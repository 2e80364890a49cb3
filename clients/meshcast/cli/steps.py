"""Steps of a long command: a bar for each, as a trainer or a builder tells of it."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

__all__ = ["steps"]


@contextlib.contextmanager
def steps(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Shows bars while the block runs; gives what is to be told: what is being done, how far, and of how much."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        tasks: dict[str, TaskID] = {}

        def progressed(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                for before in tasks.values():  # a step may end early, which is nothing left undone
                    bar.update(before, completed=1, total=1)
                tasks[doing] = bar.add_task(doing)
            bar.update(tasks[doing], completed=done, total=total)

        yield progressed
