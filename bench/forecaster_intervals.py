"""How well intervals keep their level while a series changes, with what came told to them and without.

Prints JSON. `change`: streams of 15,000 rows, forecast one row ahead. An autoregression of three lags whose noise
triples at row 5,000 and whose weights change sign at 10,000; beside it, as a harder look, a mean that jumps by five
standard deviations and then moves on by ten over 5,000 rows. The forecast comes from the same autoregression fitted to
the first 1,000 rows and never again, or from the forecaster that ships, which sees only the days before. Every window
of 500 rows from row 1,000 on is looked at. The oracle knows, for each third of the stream, the distance from the
forecast that holds the level over that third: the narrowest interval of one width around the same forecast.

`days_ahead`: how several days ahead are counted. An autoregression of one lag (0.9), forecast 14 days ahead with its
own true quantiles every 14 days or every day; its noise triples half way. Scores are in units of the noise.

`rolling`: rolling origins 14 days apart and 14 days ahead on daily sets, with the model's own intervals and with those
that adapt; what came is recorded between the origins. `cost`: microseconds, one thread.

    python bench/forecaster_intervals.py ../shared/data > intervals.json
    python bench/forecaster_intervals.py --short
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from forecaster_accuracy import DAYS, SHIPPED, Origin, Series, best_us, sets, shipped, tensors
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from processes import machine

from meshcast.services.forecaster import features
from meshcast.services.forecaster.intervals import (
    CENTRAL,
    HORIZONS,
    SCALE_RATE,
    STEP,
    WINDOW,
    IntervalTracker,
    adapted,
    quantiles_at,
)
from meshcast.services.forecaster.signature import LEVELS

Values = NDArray[np.float64]
Fans = NDArray[np.float32]
Forecaster = Callable[[dict[str, NDArray[np.float32]]], NDArray[np.float32]]

ROWS, NOISE_AT, FLIP_AT = 15_000, 5_000, 10_000
FITTED = 1_000  # rows that the autoregression and the plain conformal intervals learn from
WEIGHTS = np.array([0.6, 0.25, -0.1])  # stable with either sign
MEDIAN = LEVELS.index(0.5)
LOWER = [MEDIAN - 1 - k for k in range(len(CENTRAL))]
UPPER = [MEDIAN + 1 + k for k in range(len(CENTRAL))]
BLOCKS_AT, LAG = 1_400, 0.9
ALLOWED = 0.03
STATED = (0.8, 0.9, 0.95)
FROM = {"Chicago": "2012-01-01", "births by state": "1985-01-01"}  # first origin; elsewhere after so many days:
BEFORE = {"wikipedia": 112, "page engagement": 28}
TRAINED = {"Chicago": "2015-07-01", "births by state": "1987-07-01"}  # the days before were part of its training


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"), help="folder with the CSV files")
    parser.add_argument("--short", action="store_true", help="one seed and three series a set, to see that it runs")
    parser.add_argument("--repository", type=Path, default=SHIPPED, help="where the model lies")
    parser.add_argument("--seeds", type=int, default=10, help="of the autoregression; the forecaster gets a third")
    options = parser.parse_args()
    seeds = 1 if options.short else options.seeds
    report: dict[str, Any] = {
        "benchmark": "forecaster_intervals",
        "short": options.short,
        "machine": machine(),
        "parameters": {
            "step": STEP,
            "scale_rate": SCALE_RATE,
            "horizons": HORIZONS,
            "window": WINDOW,
            "window_allowed_off": ALLOWED,
        },
        "change": {
            "autoregression: noise x 3, then weights flip": change(noise_and_flip, autoregression, seeds),
            "autoregression: mean jumps, then ramps": change(jump_and_ramp, autoregression, seeds),
        },
    }
    report["days_ahead"] = {f"an origin every {spacing} days": days_ahead(spacing, seeds) for spacing in (DAYS, 1)}
    forecaster = shipped(options.repository) if options.repository.is_dir() else None
    if forecaster is None:
        print(f"There is no {options.repository}: the forecaster is left out.", file=sys.stderr)
    else:

        def ahead(values: Values) -> Fans:
            return one_day_ahead(forecaster, values)

        few = max(1, seeds // 3)
        report["change"]["forecaster: noise x 3, then weights flip"] = change(noise_and_flip, ahead, few)
        report["rolling"] = {}
        for name, _, read in sets(options.data):
            try:
                series = read()
            except (FileNotFoundError, ModuleNotFoundError) as error:
                print(f"{name}: left out, {error}", file=sys.stderr)
                continue
            if options.short:
                series = dict(list(series.items())[:3])
            report["rolling"][name] = rolling(name, series, forecaster)
            print(name, json.dumps(report["rolling"][name]), file=sys.stderr, flush=True)
    report["cost"] = cost()
    print(json.dumps(report, indent=1, allow_nan=False))


def noise_and_flip(seed: int) -> Values:
    """An autoregression whose noise triples and whose weights change sign, shape (15000,)."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(ROWS) * np.where(np.arange(ROWS) < NOISE_AT, 1.0, 3.0)
    values = np.zeros(ROWS + len(WEIGHTS))
    for row in range(ROWS):
        weights = WEIGHTS if row < FLIP_AT else -WEIGHTS
        values[row + len(WEIGHTS)] = weights @ values[row : row + len(WEIGHTS)][::-1] + noise[row]
    return values[len(WEIGHTS) :]


def jump_and_ramp(seed: int) -> Values:
    """An autoregression around a mean that jumps at row 5,000 and ramps from 10,000 on, shape (15000,)."""
    rng = np.random.default_rng(seed)
    noise, values = rng.standard_normal(ROWS), np.zeros(ROWS + len(WEIGHTS))
    for row in range(ROWS):
        values[row + len(WEIGHTS)] = WEIGHTS @ values[row : row + len(WEIGHTS)][::-1] + noise[row]
    at = np.arange(ROWS)
    mean = 5.0 * (at >= NOISE_AT) + 10.0 * np.clip((at - FLIP_AT) / (ROWS - FLIP_AT), 0, 1)
    moved: Values = values[len(WEIGHTS) :] + values.std() * mean
    return moved


def autoregression(values: Values) -> Fans:
    """Quantiles of each row from the three before it: least squares and empirical quantiles of the first 1,000 rows."""
    lags = np.stack([np.concatenate([np.zeros(k), values[:-k]]) for k in range(1, len(WEIGHTS) + 1)], axis=1)
    weights, *_ = np.linalg.lstsq(lags[:FITTED], values[:FITTED], rcond=None)
    forecast = lags @ weights
    off = np.quantile((values - forecast)[:FITTED], LEVELS)
    off[MEDIAN] = 0.0
    fans: Fans = (forecast[:, None] + off).astype(np.float32)
    return fans


def one_day_ahead(forecaster: Forecaster, values: Values) -> Fans:
    """The forecaster's quantiles of each day from the days before; NaN for the first 1,000."""
    day = np.arange(len(values))
    stop = day[FITTED:]
    start = np.maximum(stop - features.DAYS_BACK, 0)
    fans = np.full((len(values), len(LEVELS)), np.nan, dtype=np.float32)
    for at in range(0, len(stop), 2_048):
        part = slice(at, at + 2_048)
        inputs = features.tensors(
            day, values, start[part], stop[part], stop[part], np.zeros(len(stop[part]), dtype=np.bool_)
        )
        fans[stop[part]] = forecaster(inputs)[:, 0]
    return fans


def change(stream: Callable[[int], Values], model: Callable[[Values], Fans], seeds: int) -> dict[str, Any]:
    """Coverage and widths over some seeds of a stream, by method and level; the worst window is the worst of all."""
    found: dict[str, list[tuple[NDArray[np.bool_], Values]]] = {}
    seconds = 0.0
    for seed in range(seeds):
        values = stream(seed)
        fans = model(values)
        distance = np.abs(values - fans[:, MEDIAN])
        oracle = np.empty((ROWS, len(CENTRAL)))
        for start, stop in ((FITTED, NOISE_AT), (NOISE_AT, FLIP_AT), (FLIP_AT, ROWS)):
            oracle[start:stop] = 2 * np.quantile(distance[start:stop], CENTRAL)
        started = time.process_time()
        moved = followed(values, fans)
        seconds += time.process_time() - started
        ends = {
            "adaptive": (moved[:, LOWER], moved[:, UPPER]),
            "as the model says": (fans[:, LOWER], fans[:, UPPER]),
        } | conformal(distance, fans[:, MEDIAN].astype(np.float64))
        for name, (lower, upper) in ends.items():
            inside = (values[:, None] >= lower) & (values[:, None] <= upper)
            found.setdefault(name, []).append((inside[FITTED:], (upper - lower)[FITTED:] / oracle[FITTED:]))
    report: dict[str, Any] = {"seeds": seeds, "cpu_us_a_row": round(seconds / seeds / (ROWS - FITTED) * 1e6, 1)}
    for name, runs in found.items():
        report[name] = {}
        for k, level in enumerate(CENTRAL):
            if level not in STATED:
                continue
            windows = [sliding_window_view(inside[:, k], WINDOW).mean(axis=1) for inside, _ in runs]
            every = np.concatenate(windows)
            report[name][f"{100 * level:.0f} %"] = {
                "covered": round(float(np.mean([inside[:, k].mean() for inside, _ in runs])), 4),
                "lowest_window": round(float(every.min()), 3),
                "highest_window": round(float(every.max()), 3),
                "windows_within_3_points": round(float((np.abs(every - level) <= ALLOWED + 1e-9).mean()), 4),
                "seeds_with_all_windows_within": sum(
                    bool((np.abs(one - level) <= ALLOWED + 1e-9).all()) for one in windows
                ),
                "width_to_oracle": round(float(np.mean([width[:, k].mean() for _, width in runs])), 3),
            }
    return report


def followed(values: Values, fans: Fans) -> Fans:
    """The quantiles that a tracker answers, each told what came before the next."""
    tracker, moved = IntervalTracker(), fans.copy()
    ahead = np.array([1])
    for row in range(FITTED, len(values)):
        moved[row] = adapted(fans[row][None, None], [tracker])[0, 0]
        tracker.update(np.array([row]), ahead, values[row : row + 1], fans[row][None], moved[row][None])
    return moved


def conformal(distance: Values, median: Values) -> dict[str, tuple[Values, Values]]:
    """Ends of split conformal intervals: frozen after the first 1,000 scores seen, and of the newest 500 scores."""
    seen = distance[~np.isnan(distance)]
    first = np.flatnonzero(~np.isnan(distance))[0]
    frozen = np.quantile(seen[:FITTED], CENTRAL) * np.ones((len(distance), 1))
    windows = sliding_window_view(seen, WINDOW)[:-1]
    rolled = frozen.copy()
    rolled[first + WINDOW :] = np.quantile(windows, CENTRAL, axis=1).T
    return {
        name: (median[:, None] - reach, median[:, None] + reach)
        for name, reach in (("split conformal, frozen", frozen), ("split conformal, newest 500", rolled))
    }


def days_ahead(spacing: int, seeds: int) -> dict[str, Any]:
    """Coverage and interval score before and after the noise triples, by the buckets that horizons fall into."""
    buckets: dict[str, tuple[int, ...] | None] = {
        "as the model says": None,
        "each day by itself": tuple(range(1, DAYS + 1)),
        "all days in one": (DAYS,),
        "adaptive": HORIZONS,
    }
    report: dict[str, Any] = {}
    for name, horizons in buckets.items():
        phases: dict[str, list[Values]] = {"before": [], "after": [], "first 140 days after": []}
        for seed in range(seeds):
            origin, inside, score = blocks(spacing, seed, horizons)
            late = origin >= BLOCKS_AT
            for phase, rows in (
                ("before", origin < BLOCKS_AT - DAYS),
                ("after", late),
                ("first 140 days after", late & (origin < BLOCKS_AT + 140)),
            ):
                phases[phase].append(np.stack([inside[rows].mean(axis=(0, 1)), score[rows].mean(axis=(0, 1))]))
        report[name] = {
            phase: {
                f"{100 * level:.0f} %": {"covered": round(float(covered), 4), "interval_score": round(float(score), 3)}
                for level, covered, score in zip(CENTRAL, *np.mean(found, axis=0), strict=True)
                if level in STATED
            }
            for phase, found in phases.items()
        }
    return report


def blocks(spacing: int, seed: int, horizons: tuple[int, ...] | None) -> tuple[NDArray[np.int64], Values, Values]:
    """Origins (n,), and by origin, day ahead and level (n, 14, 4): inside, and interval score in units of the noise."""
    rng = np.random.default_rng(seed)
    size = np.where(np.arange(2 * BLOCKS_AT) < BLOCKS_AT, 1.0, 3.0)
    noise, values = rng.standard_normal(len(size)) * size, np.zeros(len(size))
    for day in range(1, len(size)):
        values[day] = LAG * values[day - 1] + noise[day]
    steps = np.arange(1, DAYS + 1)
    spread = np.sqrt(np.cumsum(LAG ** (2.0 * (steps - 1))))
    normal = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
    origin = np.arange(DAYS, len(size) - DAYS, spacing)
    fans = (LAG**steps * values[origin - 1, None])[:, :, None] + spread[:, None] * normal
    fans, moved = fans.astype(np.float32), fans.astype(np.float32)
    tracker = None if horizons is None else IntervalTracker(horizons=horizons)
    for row, first in enumerate(origin.tolist()):
        if tracker is None:
            break
        # The days since the last origin, each compared with every forecast that covers it.
        for day in range(first - spacing, first):
            covers = np.arange(row - 1, max(row - 1 - (DAYS - 1) // spacing, 0) - 1, -1) if row else np.arange(0)
            covers = covers[day - origin[covers] < DAYS]
            ahead = day - origin[covers] + 1
            if len(covers):
                came = np.full(len(covers), values[day])
                tracker.update(np.full(len(covers), day), ahead, came, fans[covers, ahead - 1])
        moved[row] = adapted(fans[row : row + 1], [tracker])[0]
    came = values[origin[:, None] + steps - 1][:, :, None]
    low, high = moved[:, :, LOWER].astype(np.float64), moved[:, :, UPPER].astype(np.float64)
    miss = np.maximum(low - came, 0) + np.maximum(came - high, 0)
    score = (high - low + 2 / (1 - np.array(CENTRAL)) * miss) / size[origin][:, None, None]
    return origin, (miss == 0).astype(np.float64), score


def rolling(name: str, series: Series, forecaster: Forecaster) -> dict[str, Any]:
    """Scores over rolling origins of one set, with adaptation and without; apart for days that training did not see."""
    origins: list[Origin] = []
    for one, (first, values) in series.items():
        begins = (_day(FROM[name]) - first) if name in FROM else BEFORE[name]
        for at in range(begins, len(values) - DAYS + 1, DAYS):
            past = values[max(0, at - features.DAYS_BACK) : at]
            if np.isfinite(past[-features.HISTORY :]).sum() >= features.DAYS_MIN:
                origins.append(Origin(series=one, day=first + at, past=past, came=values[at : at + DAYS]))
    fans = forecaster(tensors(origins))[:, :DAYS]
    moved = fans.copy()
    trackers: dict[str, IntervalTracker] = {}
    steps = np.arange(DAYS)
    for row, origin in enumerate(origins):
        tracker = trackers.setdefault(origin.series, IntervalTracker())
        moved[row] = adapted(fans[row : row + 1], [tracker], np.array([True]))[0]
        known = np.isfinite(origin.came)
        tracker.update(
            (origin.day + steps)[known], steps[known] + 1, origin.came[known], fans[row][known], moved[row][known]
        )
    report = {"all": scores(origins, fans, moved)}
    if name in TRAINED:
        unseen = np.array([origin.day >= _day(TRAINED[name]) for origin in origins])
        kept = [origin for origin, keep in zip(origins, unseen, strict=True) if keep]
        report["days that training did not see"] = scores(kept, fans[unseen], moved[unseen])
    return report


def scores(origins: list[Origin], fans: Fans, moved: Fans) -> dict[str, Any]:
    """Coverage, width and interval score by method and level; widths and scores in the scale of MASE."""
    came = np.stack([origin.came for origin in origins])
    scale = np.array([np.nanmean(np.abs(origin.past[7:] - origin.past[:-7])) for origin in origins])
    known = np.isfinite(came) & (scale > 0)[:, None]
    names = np.array([origin.series for origin in origins])
    report: dict[str, Any] = {
        "series": len(np.unique(names)),
        "windows": len(origins),
        "compared": int(known.sum()),
        "first_origin": str(np.datetime64(min(origin.day for origin in origins), "D")),
    }
    for method, drawn in (("as the model says", fans), ("adaptive", moved)):
        report[method] = {}
        for k, level in enumerate(CENTRAL):
            if level not in STATED:
                continue
            low, high = drawn[:, :, LOWER[k]].astype(np.float64), drawn[:, :, UPPER[k]].astype(np.float64)
            inside = (came >= low) & (came <= high)
            miss = np.maximum(low - came, 0) + np.maximum(came - high, 0)
            score = (high - low + 2 / (1 - level) * miss) / np.where(scale > 0, scale, 1.0)[:, None]
            width = (high - low)[known] / np.broadcast_to(scale[:, None], known.shape)[known]
            of_series = [inside[at][known[at]].mean() for one in np.unique(names) if known[at := names == one].any()]
            report[method][f"{100 * level:.0f} %"] = {
                "covered": round(float(inside[known].mean()), 4),
                "series_within_5_points": round(float(np.mean(np.abs(np.array(of_series) - level) <= 0.05)), 3),
                "median_width_in_scales": round(float(np.median(width)), 3),
                "interval_score_in_scales": round(float(score[known].mean()), 3),
            }
    return report


def cost() -> dict[str, float]:
    """Microseconds: of 256 series times 90 days, and of one comparison after the other."""
    rng = np.random.default_rng(0)
    fans = np.sort(rng.normal(0, 1, (256, 90, len(LEVELS))).astype(np.float32))
    tracker = IntervalTracker()
    one, value = fans[0, :1], np.array([3.0])
    day, ahead = np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64)
    for _ in range(100):
        tracker.update(day, ahead, value, one)
    days, aheads, values = np.zeros(90, dtype=np.int64), np.arange(1, 91), np.full(90, 0.3)
    return {
        "two_levels_of_the_grid_256x90": best_us(lambda: quantiles_at(fans, (0.1, 0.9)), 50),
        "two_other_levels_256x90": best_us(lambda: quantiles_at(fans, (0.15, 0.99)), 50),
        "no_row_adapted_256x90": best_us(lambda: adapted(fans, [None] * 256), 50),
        "all_rows_adapted_256x90": best_us(lambda: adapted(fans, [tracker] * 256), 50),
        "adapt_one_row_of_one_day": best_us(lambda: adapted(fans[:1, :1], [tracker]), 50),
        "take_one_comparison": best_us(lambda: tracker.update(day, ahead, value, one), 50),
        "take_90_comparisons_of_a_day": best_us(lambda: tracker.update(days, aheads, values, fans[0]), 50),
    }


def _day(text: str) -> int:
    return date.fromisoformat(text).toordinal() - date(1970, 1, 1).toordinal()


if __name__ == "__main__":
    main()
