"""How soon risen losses are found, and how seldom steady ones raise an alarm: the e-detector beside river's detectors.

Prints JSON. Delays are medians over the same streams of losses of 0 and 1 for every detector; the error rate rises at
loss 10,000, at once or as a ramp of 1,000 losses. Detectors run from the first loss and begin anew after an alarm; the
delay is that of the first alarm at or after the rise. Mean times to a false alarm are counted from the end of the
warm-up; a life without an alarm counts as long as it was watched, so a mean is rather too small than too large. The
full run takes about ten minutes on one core.

    python bench/drift_losses.py > drift_losses.json
    python bench/drift_losses.py --short
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import machine

from meshcast.services.drift.comparators import alarms_of
from meshcast.services.drift.losses import LossWatch

Floats = NDArray[np.float64]
Rng = np.random.Generator
Draw = Callable[[Rng, int], Floats]

_ERROR = 0.1
_RISE_AT, _AFTER, _RAMP = 10_000, 10_000, 1_000
_WARM_UP = 2_000
_CHUNK = 20_000
_LIFE_MAX = 10  # lives are watched for so many times the nominal time
_RISES = {
    "0.1 to 0.15": (0.15, 0),
    "0.1 to 0.2": (0.2, 0),
    "0.1 to 0.3": (0.3, 0),
    "ramp 0.1 to 0.15": (0.15, _RAMP),
    "ramp 0.1 to 0.2": (0.2, _RAMP),
    "ramp 0.1 to 0.3": (0.3, _RAMP),
}
_KINDS: Mapping[str, float | None] = {"known baseline": _ERROR, "learnt baseline": None}
_RATIO_MAX = {"known baseline": 0.65, "learnt baseline": 1.0}
_RIVER = ("adwin", "page_hinkley", "ddm")


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few streams and lives, to see that it runs")
    parser.add_argument("--streams", type=int, default=200, help="streams of each rise")
    parser.add_argument("--lives", type=int, default=200, help="lives of each nominal time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    streams, lives = (20, 40) if options.short else (options.streams, options.lives)
    nominals = (1e3,) if options.short else (1e4, 1e5)
    has_river = find_spec("river") is not None
    report: dict[str, Any] = {
        "benchmark": "drift_losses",
        "short": options.short,
        "machine": machine(),
        "streams": streams,
        "lives": lives,
        "comparators": "river's own settings" if has_river else "river is not installed: no comparators",
        "delays": delays(streams, options.seed, has_river),
        "bounded_losses": bounded(streams, options.seed, has_river),
        "steady": {f"{nominal:g}": steady(nominal, lives, options.seed) for nominal in nominals},
        "falling": falling(10 if options.short else 100, options.seed),
        "speed": speed(options.seed),
    }
    if has_river:
        report["steady"]["comparators"] = steady_river(50_000 if options.short else 2_000_000, options.seed)
    report["goals"] = goals(report)
    print(json.dumps(report, indent=1, allow_nan=False))


def risen(to: float, ramp: int, rng: Rng) -> Floats:
    """One stream whose error rate rises."""
    rate = np.full(_RISE_AT + _AFTER, _ERROR)
    rate[_RISE_AT:] = to
    rate[_RISE_AT : _RISE_AT + ramp] = np.linspace(_ERROR, to, ramp)
    return (rng.random(len(rate)) < rate).astype(np.float64)


def delays(streams: int, seed: int, has_river: bool) -> dict[str, Any]:
    """Median delays by rise and detector, with how often nothing was found, and false alarms before the rise."""
    report: dict[str, Any] = {}
    for number, (name, (to, ramp)) in enumerate(_RISES.items()):
        rng = np.random.default_rng([seed, number])
        rows = [risen(to, ramp, rng) for _ in range(streams)]
        report[name] = compared(rows, _ERROR, has_river)
        if ramp:
            oracle = judged([ramp_oracle(losses, to, ramp, 1e5) for losses in rows[: max(1, streams // 4)]])
            if has_river:
                oracle["of_adwin"] = round(oracle["delay_median"] / report[name]["adwin"]["delay_median"], 3)
            report[name]["who knows baseline, ramp and end, 100000"] = oracle
    return report


def ramp_oracle(losses: Floats, to: float, ramp: int, nominal: float) -> list[int]:
    """First alarm after the rise of one who knows all but when the ramp begins: the best that this rate allows, nearly.

    It is the Shiryaev-Roberts procedure with the ramp's own likelihood ratio for each beginning, at the same threshold.
    """
    rate = _ERROR + (to - _ERROR) * np.minimum((np.arange(4 * ramp) + 0.5) / ramp, 1)
    gains = np.log(np.stack([(1 - rate) / (1 - _ERROR), rate / _ERROR]))[:, ::-1]
    values = np.zeros(0)
    for at in range(_RISE_AT - 2 * ramp, len(losses)):
        values = np.append(values, 0.0)[-4 * ramp :]
        values += gains[int(losses[at]), -len(values) :]
        if np.logaddexp.reduce(values) >= np.log(nominal):
            if at >= _RISE_AT:
                return [at]
            values = np.zeros(0)
    return []


def bounded(streams: int, seed: int, has_river: bool) -> dict[str, Any]:
    """The same for losses between 0 and 1 whose mean rises from 0.2 to 0.22, by how much they vary."""
    report: dict[str, Any] = {}
    for number, (name, weight) in enumerate({"sd 0.18": 4.0, "sd 0.06": 40.0}.items()):
        rng = np.random.default_rng([seed, 100 + number])
        mean = np.full(_RISE_AT + _AFTER, 0.2)
        mean[_RISE_AT:] = 0.22
        rows = [rng.beta(weight * mean, weight * (1 - mean)) for _ in range(streams // 2)]
        report[name] = compared(rows, 0.2, has_river)
    return report


def compared(streams: Sequence[Floats], baseline: float, has_river: bool) -> dict[str, Any]:
    """Delays of every detector on the same streams; ratios to ADWIN."""
    found: dict[str, Any] = {}
    for nominal in (1e5, 1e4):
        for kind, given in _KINDS.items():
            known = None if given is None else baseline
            alarms = [watch(losses, known, nominal) for losses in streams]
            found[f"{kind}, {nominal:g}"] = judged(alarms)
    if has_river:
        names = _RIVER if np.isin(streams[0], (0, 1)).all() else _RIVER[:2]
        for name in names:
            found[name] = judged([alarms_of(name, losses.tolist()) for losses in streams])
        for one in found.values():
            one["of_adwin"] = round(one["delay_median"] / found["adwin"]["delay_median"], 3)
    return found


def watch(losses: Floats, baseline: float | None, nominal: float) -> list[int]:
    """Positions of our alarms."""
    detector = LossWatch(baseline=baseline, warm_up=_WARM_UP, losses_to_false_alarm=nominal)
    return [alarm.position for alarm in detector.update(losses)]


def judged(alarms: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Delays of the first alarms after the rise; a miss counts as the longest delay."""
    first = [min((at - _RISE_AT for at in one if at >= _RISE_AT), default=_AFTER) for one in alarms]
    early = sum(at < _RISE_AT for one in alarms for at in one)
    return {
        "delay_median": float(np.median(first)),
        "delay_90": float(np.quantile(first, 0.9)),
        "missed": int(np.count_nonzero(np.array(first) == _AFTER)),
        "false_alarms_per_10000": round(early / len(alarms) * 10_000 / _RISE_AT, 3),
    }


def independent(rng: Rng, count: int) -> Floats:
    """Steady losses, each by itself."""
    return (rng.random(count) < _ERROR).astype(np.float64)


def hanging_together(rng: Rng, count: int) -> Floats:
    """Losses of the same rate whose neighbours correlate by 0.3: each repeats the one before with that chance."""
    fresh = independent(rng, count)
    begins = rng.random(count) >= 0.3
    begins[0] = True
    repeated: Floats = fresh[np.maximum.accumulate(np.where(begins, np.arange(count), 0))]
    return repeated


def bursts(rng: Rng, count: int) -> Floats:
    """Steady losses of which 5 % are bad ones, in bursts of 50 in which half of the losses are 1."""
    losses = independent(rng, count)
    bad = np.repeat(rng.random(-(-count // 50)) < 0.05, 50)[:count]
    losses[bad] = rng.random(np.count_nonzero(bad)) < 0.5
    return losses


def flipped(rng: Rng, count: int) -> Floats:
    """Steady losses of which 5 % are told wrongly, evenly spread: their true mean is 0.14."""
    losses = independent(rng, count)
    return np.where(rng.random(count) < 0.05, 1 - losses, losses)


def steady(nominal: float, lives: int, seed: int) -> dict[str, Any]:
    """Mean times to a false alarm, where losses are independent, and where that or the baseline is not so."""
    rng = np.random.default_rng([seed, int(nominal)])
    contaminated_mean = 0.95 * _ERROR + 0.05 * 0.5
    cases: dict[str, tuple[Draw, float | None, int]] = {
        "known baseline": (independent, _ERROR, lives),
        "learnt baseline": (independent, None, lives),
        "known baseline, neighbours correlate by 0.3": (hanging_together, _ERROR, lives),
        "learnt baseline, neighbours correlate by 0.3": (hanging_together, None, lives),
        "5 % in bursts of 50, known baseline of all": (bursts, contaminated_mean, lives),
        "5 % in bursts of 50, known baseline of the others": (bursts, _ERROR, lives),
        "5 % in bursts of 50, learnt baseline": (bursts, None, lives),
        "5 % flipped, known baseline of the others": (flipped, _ERROR, lives),
        "5 % flipped, learnt baseline": (flipped, None, lives),
    }
    return {name: lifetimes(draw, baseline, nominal, count, rng) for name, (draw, baseline, count) in cases.items()}


def lifetimes(draw: Draw, baseline: float | None, nominal: float, lives: int, rng: Rng) -> dict[str, Any]:
    """Times to the first alarm of so many watches."""
    times, quiet = [], 0
    skipped = _WARM_UP if baseline is None else 0
    for _ in range(lives):
        detector = LossWatch(baseline=baseline, warm_up=_WARM_UP, losses_to_false_alarm=nominal)
        while not (alarms := detector.update(draw(rng, _CHUNK))) and detector.losses < _LIFE_MAX * nominal:
            pass
        quiet += not alarms
        times.append((alarms[0].position + 1 if alarms else detector.losses) - skipped)
    return {
        "lives": lives,
        "mean": round(float(np.mean(times))),
        "standard_error": round(float(np.std(times)) / lives**0.5),
        "median": round(float(np.median(times))),
        "quiet_to_the_end": quiet,
        "of_nominal": round(float(np.mean(times)) / nominal, 3),
        "alarm_before_a_tenth_of_nominal": round(float(np.mean(np.array(times) < nominal / 10)), 3),
    }


def steady_river(losses: int, seed: int) -> dict[str, Any]:
    """False alarms of river's detectors on long steady streams."""
    rng = np.random.default_rng([seed, 7])
    draws: dict[str, Draw] = {
        "independent": independent,
        "neighbours correlate by 0.3": hanging_together,
        "5 % in bursts of 50": bursts,
    }
    found: dict[str, Any] = {"losses": losses}
    for kind, draw in draws.items():
        stream = draw(rng, losses).tolist()
        counts = {name: len(alarms_of(name, stream)) for name in _RIVER}
        found[kind] = {
            name: {"false_alarms": count, "mean_time": round(losses / count) if count else None}
            for name, count in counts.items()
        }
    return found


def falling(streams: int, seed: int) -> dict[str, int]:
    """Alarms raised after the error rate has fallen from 0.1 to 0.05, within 20,000 losses, over all streams."""
    rng = np.random.default_rng([seed, 8])
    counts = dict.fromkeys(_KINDS, 0)
    for _ in range(streams):
        rate = np.repeat([_ERROR, _ERROR / 2], [_RISE_AT, 2 * _AFTER])
        losses = (rng.random(len(rate)) < rate).astype(np.float64)
        for kind, baseline in _KINDS.items():
            counts[kind] += sum(at >= _RISE_AT for at in watch(losses, baseline, 1e5))
    return counts


def speed(seed: int) -> dict[str, float]:
    """Losses a second of one core, and the size of the state."""
    losses = independent(np.random.default_rng([seed, 9]), 262_144)
    detector = LossWatch()
    began = time.perf_counter()
    detector.update(losses)
    return {
        "losses_per_second": round(len(losses) / (time.perf_counter() - began)),
        "state_bytes": len(detector.to_bytes()),
    }


def goals(report: Mapping[str, Any]) -> dict[str, Any]:
    """What was to be reached, and whether it was."""
    found: dict[str, Any] = {
        f"mean time to a false alarm, {nominal}, {kind}": {
            "of_nominal": cases[kind]["of_nominal"],
            "is_met": cases[kind]["of_nominal"] >= 1,
        }
        for nominal, cases in report["steady"].items()
        if nominal != "comparators"
        for kind in _KINDS
    }
    for rise, detectors in report["delays"].items():
        for kind, most in _RATIO_MAX.items():
            ratio = detectors[f"{kind}, 100000"].get("of_adwin")
            if ratio is not None:
                found[f"delay, {rise}, {kind}"] = {"of_adwin": ratio, "at_most": most, "is_met": ratio <= most}
    found["falling error raises nothing"] = {"alarms": report["falling"], "is_met": not any(report["falling"].values())}
    return found


if __name__ == "__main__":
    main()
