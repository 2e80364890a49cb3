"""Series files as commands take them: read, with every fault placed, and narrowed to the series that were named."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

from meshcast.cli.problem import ExitCode, Problem, translate
from meshcast.rpc import MeshError
from meshcast.series import SeriesIndex, SeriesTable, read_series

__all__ = ["pick", "series_of", "shown_name"]

_NAMES_SHOWN = 12


def series_of(file: Path, *, today: date, nonnegative: bool = False) -> SeriesTable:
    """The series of a file that the person at the terminal named.

    Args:
        file: as `read_series` takes it.
        today: present day in UTC.
        nonnegative: whether a negative value is refused.

    Raises:
        Problem: the file is missing, or breaks a rule: bad input, whatever class the rule has elsewhere.
    """
    try:
        return read_series(file, today=today, nonnegative=nonnegative)
    except MeshError as error:
        problem = translate(error)
        if problem.exit_code is ExitCode.REFUSED:
            problem.exit_code = ExitCode.USAGE
        raise problem from error


def pick(table: SeriesTable, names: Sequence[str], file: str) -> tuple[SeriesTable, SeriesIndex]:
    """The series to be asked about: those named, in their order, or all; and the table with the names they go by.

    In a file of one series without a name, the one name that is given becomes its own.

    Args:
        table: of the file.
        names: of series; empty for all.
        file: the file's name, for errors.

    Raises:
        Problem: the file holds no such series.
    """
    if not names:
        return table, table.whole()
    held = table.names.tolist()
    if held == [""]:
        if len(names) > 1:
            raise Problem(f"{file} holds one series; {len(names)} names are given", way_out="give one --series")
        named = SeriesTable(names=np.array([names[0]]), bounds=table.bounds, day=table.day, value=table.value)
        return named, named.whole()
    places = {name: at for at, name in enumerate(held)}
    missing = [name for name in names if name not in places]
    if missing:
        more = [f"and {len(held) - _NAMES_SHOWN:,} more"] if len(held) > _NAMES_SHOWN else []
        raise Problem(f"{file} holds no series {missing[0]!r}; it holds", details=[*held[:_NAMES_SHOWN], *more])
    at = np.array([places[name] for name in dict.fromkeys(names)])
    return table, SeriesIndex(start=table.bounds[at], stop=table.bounds[at + 1])


def shown_name(name: str) -> str:
    """A series' name as it is shown."""
    return name or "(unnamed)"
