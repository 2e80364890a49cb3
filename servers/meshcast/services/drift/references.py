"""References: rows become a subject that has observed nothing yet. Nothing here changes what is shared."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

from meshcast.observations import Observations
from meshcast.rpc.errors import InvalidInput
from meshcast.services.drift.comparison import Autoencoder, GroupName, Reference, WatchOptions
from meshcast.services.drift.derived import DerivedReference, energy_of, sampled
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.packed_rows import small_copy
from meshcast.services.drift.subject import Subject
from meshcast.services.drift.watched import FeatureOption

__all__ = [
    "REFERENCE_ROWS_MIN",
    "SAMPLE_ROWS_MAX",
    "TRAINING_ROWS_MAX",
    "digest_of",
    "numbered",
    "subject_of",
    "training_rows",
]

REFERENCE_ROWS_MIN = 2
"""Rows of a reference at least, of the contract."""

SAMPLE_ROWS_MAX = 1_024
"""Rows of a reference that are kept as they are, for tests that need rows and for plots."""

TRAINING_ROWS_MAX = 30_000
"""Rows that an autoencoder is trained and held out on: training looks at no more than 20,000 of them."""

_TRAINING_BYTES_MAX = 32 << 20
_SAMPLE_BYTES_MAX = 1 << 20


def subject_of(
    name: str,
    rows: Observations,
    *,
    set_us: int,
    features: Mapping[str, FeatureOption],
    options: WatchOptions,
    autoencoder: Autoencoder,
) -> Subject:
    """A subject whose reference is of these rows, as version 0; `numbered` gives it another.

    Raises:
        InvalidInput: the rows make no reference, or an option is of no column.
    """
    if rows.rows < REFERENCE_ROWS_MIN:
        raise InvalidInput(
            f"a reference has {REFERENCE_ROWS_MIN} rows or more, not {rows.rows}", field="observations.rows"
        )
    layout = Layout.of(
        rows,
        roles={column: option.role for column, option in features.items()},
        importances={column: option.importance for column, option in features.items()},
    )
    derived: dict[GroupName, DerivedReference] = {}
    energy = energy_of(rows)
    if energy is not None:
        derived["energy"] = energy[1]
    reference = Reference(
        subject=name,
        version=0,
        set_us=set_us,
        layout=layout,
        tally=layout.tally(rows),
        sample=small_copy(sampled(rows, _bounded(rows, SAMPLE_ROWS_MAX, _SAMPLE_BYTES_MAX))),
        options=options,
        autoencoder=autoencoder,
    )
    return Subject(reference, energy=None if energy is None else energy[0], derived=derived)


def numbered(subject: Subject, version: int) -> None:
    """Gives a subject that has observed nothing its reference's version."""
    subject.reference = replace(subject.reference, version=version)


def training_rows(rows: Observations) -> Observations:
    """Rows that an autoencoder is trained on: all, or as many as are looked at."""
    return sampled(rows, _bounded(rows, TRAINING_ROWS_MAX, _TRAINING_BYTES_MAX))


def digest_of(
    subject: str, source: Observations | str | int, features: Mapping[str, FeatureOption], options: WatchOptions
) -> str:
    """Tells whether a request with the same id sets the same reference of the same subject, watched in the same way."""
    wanted = subject, sorted((name, asdict(option)) for name, option in features.items()), asdict(options)
    digest = hashlib.blake2b(repr(wanted).encode("utf-8", "surrogatepass"), digest_size=16)
    if not isinstance(source, Observations):
        digest.update(repr(source).encode())
        return digest.hexdigest()
    for name, values in source.numeric.items():
        digest.update(f"{name}\0{values.dtype}\0".encode())
        digest.update(np.ascontiguousarray(values).data)
    for name, column in source.categorical.items():
        digest.update("\0".join((name, *column.names, "")).encode("utf-8", "surrogatepass"))
        digest.update(np.ascontiguousarray(column.codes).data)
    if source.unix_us is not None:
        digest.update(np.ascontiguousarray(source.unix_us).data)
    return digest.hexdigest()


def _bounded(rows: Observations, most: int, bytes_max: int) -> int:
    """As many rows as fit, with 4 bytes a value; two at least."""
    return max(REFERENCE_ROWS_MIN, min(most, bytes_max // (4 * max(1, len(rows.names)))))
