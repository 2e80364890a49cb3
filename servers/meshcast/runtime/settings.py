"""Settings of the runtime: the table `[runtime]`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

__all__ = ["RuntimeSettings", "TapSettings"]

REFERENCE_ROWS_MIN, REFERENCE_ROWS_MAX = 100, 1_000_000
"""Rows of a proposed reference; fewer would hide what drifts, and more are not collected by the contract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """How a process loads and runs models.

    Attributes:
        model_repository: folder with `models/` and `meta/`; None: `repository` in the state directory. A model that it
            holds wins over the one that ships with its service.
        state_dir: where measured speeds and the prediction log are kept; None: the user's state directory.
        backend: `auto` for the fastest that proves itself, or one as in `openvino/cpu/f32`.
        device: `auto`, `cpu` or `cuda`.
        device_id: which GPU.
        gpu_memory_bytes_max: most memory of a model on the GPU; None: no limit.
        gpu_rows_max: most rows of a run on the GPU, which takes far larger batches than a core's cache.
        threads_per_run: threads of one run; `threads_per_run` times `runs_max` should be the cores given.
        runs_max: runs under way at once; 0: one a core.
        rows_max: most rows of a run; the model's own bound holds too.
        wait_ms_max: how long a batch may wait for more rows while a run slot is free; 0 runs at once.
        queue_rows_max: rows that may wait for a run; more are refused.
        allow_bf16: True to let bf16 compete where a model states a tolerance for it.
        allow_int8: True to let a version's INT8 graph compete where its accuracy gate accepted it when it was built.
        choose_s: most seconds to measure back-ends, once a host and graph.
        load_nice: how far the thread that loads a version beside another steps back, 0 to 19; 0 for not at all.
        load_rest: seconds of rest for each second of work while a version loads beside another.
        control_mode: `explicit` loads on request, `poll` also looks for new versions by itself.
        poll_s: how often it looks.
        log_predictions: True to keep predictions so that they can be read back. Forecasts that are not kept are not
            compared with actual values either, so intervals do not adapt.
    """

    model_repository: Path | None = None
    state_dir: Path | None = None
    backend: str = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_id: int = 0
    gpu_memory_bytes_max: int | None = None
    gpu_rows_max: int = 2048
    threads_per_run: int = 1
    runs_max: int = 0
    rows_max: int = 256
    wait_ms_max: float = 0.0
    queue_rows_max: int = 8192
    allow_bf16: bool = False
    allow_int8: bool = True
    choose_s: float = 1.5
    load_nice: int = 19
    load_rest: float = 20.0
    control_mode: Literal["explicit", "poll"] = "explicit"
    poll_s: float = 5.0
    log_predictions: bool = True

    def __post_init__(self) -> None:
        for name in ("threads_per_run", "rows_max", "gpu_rows_max", "queue_rows_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        for name in ("runs_max", "wait_ms_max", "choose_s", "load_rest"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more")
        if self.poll_s <= 0:
            raise ValueError("poll_s must be more than 0")

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.state_dir or Path(platformdirs.user_state_dir("meshcast"))

    @property
    def repository(self) -> Path:
        """The user's own repository."""
        return self.model_repository or self.state / "repository"

    @property
    def runs(self) -> int:
        """Run slots: as set, or one for each `threads_per_run` cores."""
        if self.runs_max:
            return self.runs_max
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // self.threads_per_run)


@dataclass(frozen=True, slots=True, kw_only=True)
class TapSettings:
    """Which rows of a service's model the drift service gets to see: the table `[tap]`.

    Attributes:
        drift: where the drift service is, as `host:port`; empty: nothing is observed.
        share: chance of each row to be observed, 0 to 1.
        reference_rows: where a model's rows have no reference, the first so many that are observed become it; 0: no
            reference is proposed.
    """

    drift: str = ""
    share: float = 0.1
    reference_rows: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError("share must be 0 to 1")
        if self.reference_rows and not REFERENCE_ROWS_MIN <= self.reference_rows <= REFERENCE_ROWS_MAX:
            raise ValueError(f"reference_rows must be 0, or {REFERENCE_ROWS_MIN} to {REFERENCE_ROWS_MAX}")
