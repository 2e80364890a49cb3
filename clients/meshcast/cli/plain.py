"""Answers as JSON holds them: fields of values by name, without receipts."""

import math
from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """A value as dicts, lists, texts and numbers; dates as ISO 8601, NaN as None, receipts left out."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    fields: Mapping[str, object] | None = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        return {name: plain(getattr(value, name)) for name in fields if name != "receipt"}
    return value
