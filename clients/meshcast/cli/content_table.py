"""The report on a file of texts as it is written: a row a text, or JSON."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meshcast.cli.content_report import ContentReport
from meshcast.cli.plain import plain
from meshcast.contents import UNKNOWN_TIME

__all__ = ["columns", "document"]


def columns(report: ContentReport) -> dict[str, Sequence[object] | NDArray[np.generic]]:
    """The rows of the file with what was answered, as they are written: a row a text."""
    judged, rows = report.judged, report.rows
    written: dict[str, Sequence[object] | NDArray[np.generic]] = {
        "row": report.places,
        "channel": rows.channel,
        "published_unix_s": [None if one == UNKNOWN_TIME else one for one in rows.published_unix_s.tolist()],
        "title": rows.contents.title,
        "text": rows.contents.text,
        "above_median": judged.above_median.astype(np.float32),  # as the model gives it
        "viral": judged.viral.astype(np.float32),
        "characters_read": judged.characters_read,
        "outcome": rows.outcome,
    }
    if report.patterns is not None:
        topics = np.full(len(rows), -1)
        topics[report.pattern_rows] = report.patterns.row_topics
        written["topic"] = [None if topic < 0 else topic for topic in topics.tolist()]
    written["prediction_id"] = judged.prediction_ids
    written["model_version"] = judged.model_versions
    return written


def document(report: ContentReport) -> dict[str, object]:
    """The report as JSON: probabilities by row, and what was found out about them together."""
    judged = report.judged
    rows = [
        {
            "row": row,
            "above_median": plain(above),
            "viral": plain(viral),
            "characters_read": read,
            "prediction_id": name,
            "model_version": version,
        }
        for row, above, viral, read, name, version in zip(
            report.places.tolist(),
            _short(judged.above_median),
            _short(judged.viral),
            judged.characters_read.tolist(),
            judged.prediction_ids,
            judged.model_versions.tolist(),
            strict=True,
        )
    ]
    refused = [
        {"rows": [int(report.places[row]) for row in befallen], "error": reason}
        for reason, befallen in judged.reasons.items()
    ]
    receipt = judged.receipt
    return {
        "source": report.source,
        "rows": rows,
        "refused": refused,
        "calibration": plain(report.calibrations),
        "patterns": None if report.patterns is None else _patterns(report),
        "features": plain(report.features),
        "notes": list(report.notes),
        "model": None if receipt is None else receipt.model,
        "model_version": None if receipt is None else receipt.model_version,
    }


def _patterns(report: ContentReport) -> object:
    """Patterns whose examples are rows of the file."""
    found = plain(report.patterns)
    for part in ("topics", "claims", "others"):
        for one in found[part]:
            one["examples"] = [int(report.places[row]) for row in report.examples(one["examples"])]
    found["row_topics"] = {
        str(report.places[row]): topic
        for row, topic in zip(report.pattern_rows.tolist(), found["row_topics"], strict=True)
    }
    return found


def _short(values: NDArray[np.float64]) -> list[float]:
    """Values of a model with the digits that float32 holds."""
    return [float(str(value)) for value in values.astype(np.float32)]
