"""How well the predictor does on posts of 63 public pages: its scores beside plain methods and gradient boosting.

Prints JSON. Trains on the posts before 2016-05-10, calibrates on those to 05-20 and tests on the rest; then once more
without a quarter of the channels, to test on channels that it never saw. Without the data it says so and does nothing.

    python bench/predictor_accuracy.py ../shared/data > accuracy.json
    python bench/predictor_accuracy.py --short
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import machine

from meshcast.posts import PostTable
from meshcast.runtime.export import export_model
from meshcast.services.predictor import SIGNATURE, features
from meshcast.services.predictor.train import Baselines, Part, Progress, Trained, TrainSettings, judge, scores, train

Floats = NDArray[np.float32]

_FILES = ("page_posts_a.csv.xz", "page_posts_b.csv.xz")
_UTC_OFFSET_S = -5 * 3_600  # the pages' times carry no zone; they are UTC-5
_CHANNELS_SHORT = 12
_TARGETS = {"mae": 1.076, "spearman_within": 0.16, "auc": 0.65, "ece": 0.03, "coverage": 0.02, "channels": 0.80}


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"), help="folder with page_posts_*")
    parser.add_argument("--short", action="store_true", help="a few channels and epochs, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    missing = [name for name in _FILES if not (options.data / name).is_file()]
    if missing:
        print(f"No {' and '.join(missing)} in {options.data}: nothing measured. Name the folder that has them.")
        return

    posts = read_pages(options.data)
    settings = TrainSettings(
        train_before_unix_s=_local_midnight("2016-05-10"),
        validate_before_unix_s=_local_midnight("2016-05-20"),
        seed=options.seed,
    )
    if options.short:
        names, counts = np.unique(posts.channel, return_counts=True)
        largest = names[np.argsort(-counts, kind="stable")[:_CHANNELS_SHORT]]
        posts = posts.take(np.isin(posts.channel, largest))
        settings = replace(settings, epochs=1, steps_min=1)
    trained = train(posts, settings=settings, progress=_tell)
    model = trained.metrics["test"]["model"]
    report: dict[str, Any] = {
        "benchmark": "predictor_accuracy",
        "short": options.short,
        "machine": machine(),
        **trained.metrics,
    }
    report["test"]["baselines"] |= gradient_boosting(trained.train, trained.test, options.seed)
    report["cost"] = cost(trained, posts)
    if not options.short:
        report["targets"] = targets(model)
        report["unseen_channels"] = unseen_channels(posts, settings, trained.test)
    print(json.dumps(report, indent=1, allow_nan=False))


def read_pages(folder: Path) -> PostTable:
    """The posts of the pages; shares are forwards, comments replies, and views are unknown."""
    import pandas as pd

    columns = ["channel", "published_at", "content_length", "has_media", "reactions", "comments", "shares"]
    frame = pd.concat(pd.read_csv(folder / name, keep_default_na=False, usecols=columns) for name in _FILES)
    local = pd.to_datetime(frame["published_at"])
    local_s = (local - pd.Timestamp(0)) // pd.Timedelta(seconds=1)
    return PostTable.of(
        {
            "channel": frame["channel"].to_numpy(dtype=str),
            "published_unix_s": (local_s - _UTC_OFFSET_S).to_numpy(),
            "hour_of_day": local.dt.hour.to_numpy(),
            "day_of_week": local.dt.weekday.to_numpy(),
            "content_length": frame["content_length"].to_numpy(),
            "has_media": frame["has_media"].to_numpy(),
            "forwards": frame["shares"].to_numpy(),
            "replies": frame["comments"].to_numpy(),
            "reactions": frame["reactions"].to_numpy(),
        }
    )


def gradient_boosting(learn: Part, test: Part, seed: int) -> dict[str, dict[str, float | None]]:
    """Scores of boosted trees on the residual to the median, on the usual inputs and on all that the model is given."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    found = {}
    for name, inputs in (("usual inputs", _usual_inputs), ("the model's inputs", Baselines.inputs)):
        trees = HistGradientBoostingRegressor(max_iter=300, learning_rate=0.05, random_state=seed)
        trees.fit(inputs(learn), learn.target - learn.window_median)
        prediction = test.window_median + trees.predict(inputs(test))
        found[f"gradient boosting, {name}"] = scores(test, prediction.astype(np.float32))
    return found


def targets(model: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was asked for, what came out, and whether that is enough."""
    coverage = model["coverage"].values()
    measured = {
        "mae": model["mae"],
        "spearman_within": model["spearman_within"],
        "auc": model["auc"],
        "ece": model["ece"],
        "coverage": max(abs(level["covered"] - level["stated"]) for level in coverage),
        "channels": model["channels_within_5_points_on_both"],
    }
    at_most = ("mae", "ece", "coverage")
    return {
        name: {
            "target": _TARGETS[name],
            "measured": value,
            "met": value is not None and (value <= _TARGETS[name] if name in at_most else value >= _TARGETS[name]),
        }
        for name, value in measured.items()
    }


def cost(trained: Trained, posts: PostTable) -> dict[str, Any]:
    """Microseconds a row on one thread, 256 rows at once, of the tensors and of the exported graph; best of 30."""
    import onnxruntime

    index = trained.test.index
    rows = np.linspace(0, len(trained.test) - 1, 256).astype(np.int64)
    planned = posts.planned(index.row[rows])
    at = (index.stop[rows] - features.WINDOW)[:, None] + np.arange(features.WINDOW)
    own = np.maximum(at, index.start[rows][:, None])
    chunk = posts.take(own.ravel())
    start = np.arange(256) * features.WINDOW + (own == own[:, :1]).sum(axis=1) - 1
    stop = (np.arange(256) + 1) * features.WINDOW
    # torch's exporter prints its progress; standard output is for the JSON alone
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        where = Path(folder)
        report = export_model(
            trained.module, SIGNATURE, recorded=trained.recorded, version_dir=where / "1", meta_dir=where / "meta"
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(where / "1" / "model.onnx", options)
        inputs = features.tensors(chunk, planned, start, stop)
        return {
            "tensors_us_a_row": round(_best_s(lambda: features.tensors(chunk, planned, start, stop)) / 256 * 1e6, 2),
            "onnxruntime_us_a_row": round(_best_s(lambda: session.run(None, inputs)) / 256 * 1e6, 2),
            "parity": {proof.backend: proof.accepted for proof in report.evidence.proofs},
        }


def unseen_channels(posts: PostTable, settings: TrainSettings, test: Part) -> dict[str, Any]:
    """Scores on a random quarter of the channels of a model that was trained without them."""
    names = np.unique(posts.channel)
    rng = np.random.default_rng(settings.seed)
    held = rng.choice(len(names), len(names) // 4, replace=False)
    trained = train(posts.take(~np.isin(posts.channel, names[held])), settings=settings, progress=_tell)
    rows = np.flatnonzero(np.isin(test.channel, held))
    part = Part(
        inputs={name: column[rows] for name, column in test.inputs.items()},
        target=test.target[rows],
        channel=test.channel[rows],
        published_unix_s=test.published_unix_s[rows],
        index=test.index[rows],
    )
    baselines = Baselines(trained.train).scores(part) | gradient_boosting(trained.train, part, settings.seed)
    return {
        "channels": len(np.unique(part.channel)),
        "rows": len(part),
        "model": judge(trained.module, part),
        "baselines": baselines,
    }


def _usual_inputs(part: Part) -> Floats:
    """The last 20 levels and their summaries, mean logs of the counts, hours since the last, and the plan."""
    planned, history = part.inputs["planned"], part.inputs["history"][:, -features.RECENT :]
    named = {name: planned[:, k] for k, name in enumerate(features.PLANNED_FEATURES)}
    at = features.HISTORY_FEATURES.index
    median = part.window_median
    columns = [
        *(history[:, :, at("log_engagement")] - median[:, None]).T,
        named["recent_mean"] - median,
        named["recent_median"] - median,
        named["recent_spread"],
        median,
        *(history[:, :, at(f"log_{name}")].mean(axis=1) for name in ("forwards", "replies", "reactions")),
        *(named[name] for name in ("log_hours_since_last", "hour_of_day", "day_of_week")),
        *(named[name] for name in ("log_content_length", "has_media")),
    ]
    return np.stack(columns, axis=1)


def _best_s(run: Callable[[], object]) -> float:
    best = math.inf
    for _ in range(30):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def _tell(at: Progress) -> None:
    if at.validation_mae is not None:
        print(f"epoch {at.epoch}/{at.epochs}: validation MAE {at.validation_mae:.4f}", file=sys.stderr, flush=True)


def _local_midnight(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) - _UTC_OFFSET_S


if __name__ == "__main__":
    main()
