"""Requests: the rules on ids, names and chunk sizes that every service's questions share, and how a refusal is told."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from meshcast.api.type.v1 import status_pb2
from meshcast.rpc.errors import InvalidInput, Violation

__all__ = [
    "ID_CHARACTERS_MAX",
    "NAME_CHARACTERS_MAX",
    "add_violations",
    "chunk_violations",
    "name_violations",
    "refusal",
]

ID_CHARACTERS_MAX = 128
"""Characters of a request id at most."""

NAME_CHARACTERS_MAX = 256
"""Characters of the name of a channel or a series at most."""

VIOLATIONS_MAX = 50
"""Violations that an answer or a status carries at most."""


def name_violations(request_id: str, name: str = "", *, field: str = "") -> list[Violation]:
    """Breaches of the rules on a request id and on the name of what is asked about.

    Args:
        request_id: chosen by the caller; may be empty.
        name: of a channel or a series; empty where there is none.
        field: how the request calls the name.
    """
    found = []
    if len(request_id) > ID_CHARACTERS_MAX:
        found.append(Violation("request_id", f"has {len(request_id)} characters, at most {ID_CHARACTERS_MAX}"))
    if len(name) > NAME_CHARACTERS_MAX:
        found.append(Violation(field, f"has {len(name)} characters, at most {NAME_CHARACTERS_MAX}"))
    return found


def chunk_violations(rows: int, row_request_ids: Sequence[str], *, rows_max: int, field: str) -> list[Violation]:
    """Breaches of the rules on the size of a chunk and on its rows' own ids.

    Args:
        rows: of the chunk.
        row_request_ids: none, or one a row.
        rows_max: most rows of a chunk.
        field: what states the rows in the request.
    """
    found = []
    if not 1 <= rows <= rows_max:
        found.append(Violation(field, f"a chunk has 1 to {rows_max} rows, this one has {rows}"))
    if row_request_ids and len(row_request_ids) != rows:
        found.append(Violation("row_request_ids", f"needs none or one a row ({rows}), has {len(row_request_ids)}"))
    found += [
        Violation(f"row_request_ids[{row}]", f"has more than {ID_CHARACTERS_MAX} characters")
        for row, own in enumerate(row_request_ids)
        if len(own) > ID_CHARACTERS_MAX
    ][:VIOLATIONS_MAX]
    return found


def refusal(violations: Sequence[tuple[str, str]]) -> InvalidInput:
    """The error of a question that breaks rules; its message says the first one, and how many more there are."""
    field, why = violations[0]
    more = f" ({len(violations) - 1} more)" if len(violations) > 1 else ""
    return InvalidInput(f"{field} {why}{more}", violations=violations)


def add_violations(target: Any, violations: Iterable[tuple[str, str]]) -> None:
    """Appends fields and reasons, the first 50 of them, to a repeated `FieldViolation` of an answer."""
    for field, description in islice(violations, VIOLATIONS_MAX):
        target.append(status_pb2.FieldViolation(field=field, description=description))
