"""Observations: rows of numbers and categories as columns, in memory, in files and on the wire."""

from meshcast.observations.files import (
    CHUNK_ROWS,
    Choices,
    ObservationFile,
    open_observations,
    read_observations,
)
from meshcast.observations.kinds import Kind
from meshcast.observations.table import CategoryColumn, Floats, Observations
from meshcast.observations.wire import (
    CATEGORIES_MAX,
    CATEGORY_CHARACTERS_MAX,
    NAME_CHARACTERS_MAX,
    pack_observations,
    unpack_observations,
)

__all__ = [
    # the table
    "CategoryColumn",
    "Floats",
    "Observations",
    # files
    "CHUNK_ROWS",
    "Choices",
    "Kind",
    "ObservationFile",
    "open_observations",
    "read_observations",
    # the wire
    "CATEGORIES_MAX",
    "CATEGORY_CHARACTERS_MAX",
    "NAME_CHARACTERS_MAX",
    "pack_observations",
    "unpack_observations",
]
