"""How well the baselines do that answer where no model can be asked, on the data of the models' own benchmarks.

Prints JSON. The forecaster's baseline and its shipped model forecast the rolling origins of
`bench/forecaster_accuracy.py`; the predictor's baseline answers for the posts that `bench/predictor_accuracy.py` tests
on, whose model's scores stand there. A set whose data are absent is left out with a line.

    python bench/baselines.py ../shared/data > baselines.json
    python bench/baselines.py --short
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import forecaster_accuracy
import numpy as np
import predictor_accuracy
from forecaster_accuracy import DAYS, SHIPPED, Origin
from numpy.typing import NDArray
from processes import machine

from meshcast.baselines.forecaster import WeekdayForecast
from meshcast.baselines.predictor import prediction_of
from meshcast.posts import PostTable, engagement, settled_history
from meshcast.services.forecaster.signature import LEVELS

_LEVELS = (0.8, 0.95)
_TESTED_FROM = datetime(2016, 5, 20, 5, tzinfo=UTC)  # midnight on the pages' clock, as in predictor_accuracy
_GROUPS = 15  # of the calibration error


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"), help="folder with the CSV files")
    parser.add_argument("--short", action="store_true", help="a few series and posts, to see that it runs")
    options = parser.parse_args()
    report: dict[str, Any] = {"benchmark": "baselines", "short": options.short, "machine": machine()}
    report["forecaster"] = {}
    model = forecaster_accuracy.shipped(SHIPPED)
    for name, origins_a_series, series in forecaster_accuracy.sets_at_hand(options.data):
        origins = list(
            forecaster_accuracy.rolling(dict(list(series.items())[: 4 if options.short else None]), origins_a_series)
        )
        fans = model(forecaster_accuracy.tensors(origins))[:, :DAYS].astype(np.float64)
        report["forecaster"][name] = {"baseline": forecasts(origins), "model": of_model(origins, fans)}
    try:
        posts = predictor_accuracy.read_pages(options.data)
    except FileNotFoundError as error:
        print(f"page posts: left out, there is no {error.filename}", file=sys.stderr)
    else:
        report["predictor"] = predictions(posts, rows_max=500 if options.short else None)
    print(json.dumps(report, indent=1, allow_nan=False))


def forecasts(origins: list[Origin]) -> dict[str, Any]:
    """Scores of the baseline on one set."""
    started = time.perf_counter()
    rules = [WeekdayForecast(np.arange(o.day - len(o.past), o.day), o.past) for o in origins]
    median = np.stack([rule.median(DAYS) for rule in rules])
    halves = [np.stack([rule.halves(level, DAYS) for rule in rules]) for level in _LEVELS]
    cost_ms = (time.perf_counter() - started) * 1e3 / len(origins)
    bounds = [(np.maximum(median - half, 0.0), median + half) for half in halves]
    return scores(origins, median, bounds) | {"ms_a_forecast": round(cost_ms, 2)}


def of_model(origins: list[Origin], fans: NDArray[np.float64]) -> dict[str, Any]:
    """The same of the shipped model's quantiles (windows, days, levels)."""
    at = {level: index for index, level in enumerate(LEVELS)}
    bounds = [(fans[:, :, at[round((1 - s) / 2, 4)]], fans[:, :, at[round((1 + s) / 2, 4)]]) for s in _LEVELS]
    return scores(origins, fans[:, :, at[0.5]], bounds)


def scores(
    origins: list[Origin],
    median: NDArray[np.float64],
    bounds: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> dict[str, Any]:
    """MASE, and what each interval holds and how wide it is in units of MASE's scale."""
    scale = np.array([np.nanmean(np.abs(o.past[7:] - o.past[:-7])) for o in origins])
    use = scale > 0
    came = np.stack([o.came for o in origins])
    gap = np.abs(median - came)[use]
    known = ~np.isnan(came) & use[:, None]
    report: dict[str, Any] = {
        "windows": int(use.sum()),
        "mase": round(float(np.nanmean(np.nanmean(gap, axis=1) / scale[use])), 3),
    }
    for level, (low, high) in zip(_LEVELS, bounds, strict=True):
        width = ((high - low)[use] / scale[use, None])[known[use]]
        report[f"{100 * level:.0f} %"] = {
            "covered": round(float(((came >= low) & (came <= high))[known].mean()), 4),
            "mean_width_in_scales": round(float(width.mean()), 2),
        }
    return report


def predictions(posts: PostTable, *, rows_max: int | None) -> dict[str, Any]:
    """Scores of the predictor's baseline on the posts that its benchmark tests on."""
    level = np.log1p(engagement(posts).astype(np.float64))
    index = settled_history(posts)
    tested = (posts.published_unix_s[index.row] >= _TESTED_FROM.timestamp()) & ~np.isnan(level[index.row])
    errors, hits, confidence, above = [], [], [], []
    for row, start, stop in zip(
        *(getattr(index[tested], name)[:rows_max] for name in ("row", "start", "stop")), strict=True
    ):
        settled = level[start:stop]
        settled = settled[~np.isnan(settled)]
        if len(settled) < 20:
            continue
        answer = prediction_of(settled)
        errors.append(abs(answer.log_engagement - level[row]))
        hits.append([one.lower_log <= level[row] <= one.upper_log for one in answer.intervals])
        confidence.append(answer.confidence)
        above.append(level[row] > answer.recent_median_log)
    told, happened = np.array(confidence), np.array(above, dtype=np.float64)
    groups = np.array_split(np.argsort(told, kind="stable"), _GROUPS)
    off = [abs(told[group].mean() - happened[group].mean()) * len(group) for group in groups]
    covered = np.mean(hits, axis=0)
    return {
        "posts": len(errors),
        "mae": round(float(np.mean(errors)), 3),
        "covered": {
            f"{100 * level:.0f} %": round(float(share), 4) for level, share in zip(_LEVELS, covered, strict=True)
        },
        "calibration_error": round(float(np.sum(off) / len(told)), 4),
    }


if __name__ == "__main__":
    main()
