"""Series files of the kind Parquet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.columns import load_pyarrow
from meshcast.rpc.errors import InvalidInput, NotFound
from meshcast.series.file_rows import (
    BAD_DAY,
    VIOLATIONS_MAX,
    DayTexts,
    FileRows,
    check_names,
    check_size,
    long_name,
    no_date,
    refusal,
)
from meshcast.series.rules import NAME_CHARACTERS_MAX

Days = NDArray[np.int64]


def read_parquet(path: Path) -> FileRows:
    """The rows of a Parquet file.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is no Parquet, too large, or holds what cannot be read; the row is named.
        Precondition: the extra `parquet` is not installed.
    """
    source = path.name
    if not path.exists():
        raise NotFound(f"{path}: there is no such file", file=source)
    arrow, parquet = load_pyarrow()
    import pyarrow.compute as compute

    def place(row: int) -> str:
        return f"row {row + 1}"

    try:
        with parquet.ParquetFile(path) as file:
            check_names(file.schema_arrow.names, source)
            check_size(source, file.metadata.num_rows, 0)
            table = file.read()
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, OSError) as error:
        first = (str(error).splitlines() or ["unreadable"])[0]
        text = f"{source}: is cut off or not a Parquet file ({first}); fetch or export it again"
        raise InvalidInput(text, file=source) from error
    if not table.num_rows:
        raise InvalidInput(f"{source}: has no rows; give at least one", file=source)
    day, has_times = _arrow_days(table.column("date"), source, place, arrow, compute)
    value = table.column("value")
    kind = value.type
    is_number = arrow.types.is_integer(kind) or arrow.types.is_floating(kind) or arrow.types.is_decimal(kind)
    if not (is_number or arrow.types.is_null(kind)):
        text = f"must hold numbers, holds {kind}"
        raise InvalidInput(
            f"{source}, column 'value': {text}", violations=[("value", text)], file=source, column="value"
        )
    values = compute.fill_null(value.cast(arrow.float64(), safe=False), float("nan")).to_numpy()
    names: list[str] = []
    codes = np.zeros(table.num_rows, dtype=np.int32)
    if "series" in table.column_names:
        encoded = (
            compute.fill_null(table.column("series").cast(arrow.string()), "").combine_chunks().dictionary_encode()
        )
        names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
        check_size(source, table.num_rows, len(names))
        for code, name in enumerate(names):
            if len(name) > NAME_CHARACTERS_MAX:
                raise refusal(source, place, [(int(np.argmax(codes == code)), "series", long_name(name))])
    return FileRows(source, place, day, np.asarray(values, dtype=np.float64), codes, names, has_times)


def _arrow_days(column: Any, source: str, place: Callable[[int], str], arrow: Any, compute: Any) -> tuple[Days, bool]:
    """Days of a Parquet column of dates, times (on their own clock) or texts, and whether it held times of day."""
    kind = column.type
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise refusal(source, place, [(row, "date", no_date(""))])
    if arrow.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
        encoded = column.combine_chunks().dictionary_encode()
        texts = DayTexts()
        unique = encoded.dictionary.to_pylist()
        days = np.array([texts[text] for text in unique], dtype=np.int64)[
            encoded.indices.to_numpy(zero_copy_only=False)
        ]
        wrong = np.flatnonzero(days == BAD_DAY)[:VIOLATIONS_MAX].tolist()
        if wrong:
            raise refusal(source, place, [(row, "date", no_date(column[row].as_py())) for row in wrong])
        return days, texts.has_times
    if arrow.types.is_timestamp(kind):
        if kind.tz is not None:
            column = compute.local_timestamp(column)
        seconds = column.cast(arrow.timestamp("s"), safe=False).cast(arrow.int64()).to_numpy()
        days, rest = np.divmod(np.asarray(seconds, dtype=np.int64), 86_400)
        return days, bool(rest.any())
    if arrow.types.is_date(kind):
        return np.asarray(column.cast(arrow.date32()).cast(arrow.int32()).to_numpy(), dtype=np.int64), False
    text = f"must hold dates, holds {kind}"
    raise InvalidInput(f"{source}, column 'date': {text}", violations=[("date", text)], file=source, column="date")
