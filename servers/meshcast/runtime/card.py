"""What model cards of services have in common: the text beside the numbers, and how parts and numbers are written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["CardText", "channels", "is_less", "number", "posts_of", "split_lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardText:
    """What a card says beside the numbers.

    Attributes:
        title: heading.
        data: where the posts or series come from, with the licence.
        intended_use: what the model is for.
        limits: what it is not for; one sentence or two each.
        notes: anything else, in Markdown; empty for none.
    """

    title: str
    data: str
    intended_use: str
    limits: Sequence[str]
    notes: str = ""

    def opening(self) -> list[str]:
        """Lines down to where the figures of the data begin."""
        return [f"# {self.title}", "", self.intended_use, "", "## Data", "", self.data, ""]

    def limit_lines(self) -> list[str]:
        """Lines of the section of limits."""
        return ["## Limits", "", *(f"- {limit}" for limit in self.limits), ""]


def posts_of(data: Mapping[str, Any]) -> str:
    """How many posts of how many channels there were and from when, without a stop; `data` as in `Trained.metrics`."""
    first, last = _day(data["first_unix_s"]), _day(data["last_unix_s"])
    return f"{data['posts']:,} posts of {channels(data['channels'])}, {first} to {last} (UTC)"


def split_lines(metrics: Mapping[str, Any], *, one: str) -> list[str]:
    """Lines from the warning of a single channel, over the parts of the split, to the heading of the scores.

    Args:
        metrics: `Trained.metrics`; its `data` and `split` are read.
        one: what the warning calls a single channel.
    """
    lines = []
    if metrics["data"]["channels"] == 1:
        lines += [
            f"**One {one} only.** Everything below was learnt from and measured on a single channel. Nothing here "
            "says how the model does on another one: train it on your own posts before relying on it.",
            "",
        ]
    lines += ["| part | rows | channels | from | to | for |", "| --- | --- | --- | --- | --- | --- |"]
    purposes = {"train": "weights", "validation": "best epoch, calibration", "test": "the numbers below"}
    for name, purpose in purposes.items():
        part = metrics["split"][name]
        first, last = _day(part["first_unix_s"]), _day(part["last_unix_s"])
        lines.append(f"| {name} | {part['rows']:,} | {part['channels']} | {first} | {last} | {purpose} |")
    return [*lines, "", "## Scores on the test part", ""]


def channels(count: int) -> str:
    """So many channels, in words."""
    return "1 channel" if count == 1 else f"{count:,} channels"


def number(value: float | None) -> str:
    """A score to three decimals; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def is_less(value: float | None, other: float | None) -> bool:
    """Whether both were measured, and the first is less."""
    return value is not None and other is not None and value < other


def _day(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, tz=UTC).date().isoformat()
