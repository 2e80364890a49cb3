"""Observations: rows of numbers and categories as columns, in memory, in files and on the wire."""

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
    # the wire
    "CATEGORIES_MAX",
    "CATEGORY_CHARACTERS_MAX",
    "NAME_CHARACTERS_MAX",
    "pack_observations",
    "unpack_observations",
]
