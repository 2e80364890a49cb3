"""What this host measured of its back-ends, as the servers keep it in the state folder between runs."""

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HostChoice", "host_choices"]

PATTERN = "cache/*/speeds-*.json"
"""Where servers keep them in the state folder: a folder a model, a file a host and graph."""


@dataclass(frozen=True, kw_only=True)
class HostChoice:
    """Speeds of the back-ends for one model's graph on this host.

    Attributes:
        model: whose graph it is.
        file: where they are kept; removing it makes the next load measure again.
        backend: the fastest, which serves.
        rows_per_s: speed of each, by name, fastest first.
    """

    model: str
    file: str
    backend: str
    rows_per_s: dict[str, float]


def host_choices(root: Path) -> list[HostChoice]:
    """Every measurement below the state folder, newest first; files that cannot be read are passed over.

    Args:
        root: the state folder.
    """
    choices = []
    for path in sorted(root.glob(PATTERN), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            speeds = {str(name): float(speed) for name, speed in json.loads(path.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError):
            continue  # the servers measure again as well
        if speeds:
            ranked = dict(sorted(speeds.items(), key=lambda pair: -pair[1]))
            backend = next(iter(ranked))
            choices.append(HostChoice(model=path.parent.name, file=str(path), backend=backend, rows_per_s=ranked))
    return choices
