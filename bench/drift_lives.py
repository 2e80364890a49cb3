"""How often drift is called where there is none, over whole lives, and how soon a small shift is found at that rate.

Prints JSON. A life is a reference and 1,000 windows of 1,000 rows of 64 columns that depend on each other (normal,
skewed, rounded, with nulls, categories), nothing of which ever drifts. A window spans so much time that the budget of
false alarms comes to a chance of .05 over a life: `window_hours` says how much at the default budget. Columns are
counted by the service's own layout; beside them runs the group of the energy distance, with a kept sample of 60 rows
to save time. After none, 100 and 500 windows of each life one normal column moves by .15 standard deviations for six
windows, on a copy of the evidence: what is found within them is `found`. An alarm in clean windows ends a life, and
shifts that it did not live to count as missed. The autoencoder's columns are left out: each life would train one.

    python bench/drift_lives.py > lives.json     # about half an hour of one core
    python bench/drift_lives.py --keep lives.jsonl > lives.json     # takes up where it was broken off
    python bench/drift_lives.py --count 200 --keep a.jsonl      # or in two processes
    python bench/drift_lives.py --first 200 --count 200 --keep b.jsonl
    python bench/drift_lives.py --join a.jsonl b.jsonl
    python bench/drift_lives.py --beside > beside.json     # other references, rows that remember, few lives
    python bench/drift_lives.py --short
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from drift_worlds import NORMAL, World
from processes import machine
from scipy.stats import beta

from meshcast.observations import Observations
from meshcast.services.drift.bets import FAILURE, Bets
from meshcast.services.drift.comparison import GROUP_WEIGHTS, GroupName
from meshcast.services.drift.derived import derived_reference, energy_columns
from meshcast.services.drift.energy import EnergySample, Space
from meshcast.services.drift.evidence import Evidence, Step
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.tally import Tally

LIVES, LIVES_SHORT = 400, 20
WINDOWS, WINDOWS_SHORT = 1_000, 101
ROWS = 1_000
REFERENCE = 10_000
CHANCE = 0.05
SHIFT, WITHIN, AFTER = 0.15, 6, (0, 100, 500)
ENERGY_ROWS = 60
BUDGET = DriftSettings().false_alarms_a_year
ELAPSED_YEARS = CHANCE / BUDGET / WINDOWS
HOURS_A_YEAR = 8_766
BESIDE_LIVES, BESIDE_WINDOWS = 30, 150


@dataclass
class Found:
    """What came of a shift."""

    after: int
    window: int | None = None  # of the shift, from 1, at which the alarm was raised; None: missed
    is_called: bool = False  # e-BH calls the column
    is_blamed: bool = False  # it has the largest share of the blame
    others: int = 0  # columns called beside it
    onset_error: int = 0  # windows by which the onset is late


@dataclass
class Life:
    """What came of a life."""

    seed: int
    windows: int = 0
    alarm: int | None = None  # clean window that raised one
    alarm_group: str = ""
    found: list[Found] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)  # p50, p99, max of the evidence of a window


class Watch:
    """A reference and the evidence of both groups against it."""

    def __init__(self, reference: Observations) -> None:
        order = np.random.default_rng(1).permutation(reference.rows)
        self.layout = Layout.of(reference)
        kept = np.sort(order[: min(ENERGY_ROWS, reference.rows // 2)])
        self.energy = EnergySample.from_rows(Space.of(reference), reference.take(kept))
        others = reference.take(np.sort(order[len(kept) :]))
        self.derived = derived_reference(energy_columns(self.energy, others))
        tally = self.layout.tally(reference, sketches=False)
        self.bets = {
            "features": _bets(self.layout, tally, "features"),
            "energy": _bets(self.derived.layout, self.derived.tally, "energy"),
        }
        self.evidence = {name: Evidence(bets, _log_threshold(name)) for name, bets in self.bets.items()}
        self.took: list[float] = []

    def step(self, rows: Observations, window: int) -> tuple[bool, dict[str, Step]]:
        """Whether a window raises an alarm, and what it made of the groups."""
        energy = energy_columns(self.energy, rows)
        counts = {
            "features": self.layout.tally(rows, sketches=False).counts,
            "energy": self.derived.layout.tally(energy, sketches=False).counts,
        }
        began = time.perf_counter()
        steps = {name: one.step(counts[name], ELAPSED_YEARS, window) for name, one in self.evidence.items()}
        self.took.append(1e3 * (time.perf_counter() - began))
        worth = [step.log_value - _log_threshold(name) for name, step in steps.items()]
        return bool(np.logaddexp.reduce(worth) >= 0), steps


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help=f"{LIVES_SHORT} lives of {WINDOWS_SHORT} windows")
    parser.add_argument("--first", type=int, default=0, help="first life; its number seeds it")
    parser.add_argument("--count", type=int, default=LIVES, help="lives")
    parser.add_argument("--beside", action="store_true", help="other references and dependent rows instead")
    parser.add_argument("--keep", type=Path, help="a line of JSON for each life; those that it has are not lived again")
    parser.add_argument("--join", type=Path, nargs="+", help="adds up what several runs kept, and lives no more")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "drift_lives",
        "short": options.short,
        "machine": machine(),
        "columns": 64,
        "window_rows": ROWS,
        "false_alarms_a_year": BUDGET,
        "window_hours": round(ELAPSED_YEARS * HOURS_A_YEAR, 3),
        "windows_to_chance_of_05": WINDOWS,
    }
    if options.beside:
        report["beside"] = beside(options.short)
    else:
        count, windows = (LIVES_SHORT, WINDOWS_SHORT) if options.short else (options.count, WINDOWS)
        lives = {life.seed: life for path in options.join or [options.keep] if path for life in kept(path)}
        for seed in range(options.first, options.first + count) if not options.join else ():
            if seed not in lives:
                lives[seed] = live(seed, windows)
                if options.keep:
                    with options.keep.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(lives[seed])) + "\n")
        report |= {"reference_rows": REFERENCE, **summary(list(lives.values()))}
    print(json.dumps(report, indent=1))


def kept(path: Path) -> list[Life]:
    """Lives of a file of JSON lines; none where there is no file."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [
        Life(**{**one, "found": [Found(**found) for found in one["found"]]}) for one in (json.loads(n) for n in lines)
    ]


def live(seed: int, windows: int, *, reference: int = REFERENCE, memory: float = 0.0) -> Life:
    """One life."""
    world = World.of([seed, reference], memory=memory)
    watch = Watch(world.rows(reference))
    life = Life(seed)
    for window in range(1, windows + 1):
        if window - 1 in AFTER:
            life.found.append(shifted(watch, world, window - 1))
        is_alarm, steps = watch.step(world.rows(ROWS), window)
        life.windows = window
        if is_alarm:
            life.alarm = window
            life.alarm_group = max(steps, key=lambda name: steps[name].log_value - _log_threshold(name))
            break
    life.found += [Found(after) for after in AFTER if life.windows <= after < windows]
    life.step_ms = [round(float(v), 3) for v in (*np.quantile(watch.took, [0.5, 0.99]), max(watch.took))]
    said = "" if life.alarm is None else f", false alarm at {life.alarm} by {life.alarm_group}"
    found = ", ".join(f"{one.window or '-'}" for one in life.found)
    print(f"life {seed}: {life.windows} windows{said}; shifts found at {found}", file=sys.stderr, flush=True)
    return life


def shifted(watch: Watch, world: World, after: int) -> Found:
    """What comes of a shift, on a copy of the evidence as it would come back from disk."""
    kept, took = watch.evidence, watch.took
    watch.evidence = {
        name: Evidence.from_bytes(one.to_bytes(), watch.bets[name]) for name, one in watch.evidence.items()
    }
    watch.took = []
    found = Found(after)
    column = int(world.rng.integers(NORMAL))
    for window in range(1, WITHIN + 1):
        is_alarm, steps = watch.step(world.rows(ROWS, {column: SHIFT}), after + window)
        if is_alarm:
            step = steps["features"]
            found.window = window
            found.is_called, found.others = bool(step.drifted[column]), int(step.drifted.sum() - step.drifted[column])
            found.is_blamed = int(step.blame.argmax()) == column
            found.onset_error = int(step.onset[column]) - after - 1
            break
    watch.evidence, watch.took = kept, took
    return found


def beside(short: bool) -> dict[str, Any]:
    """The same with other references, and with rows that remember the row before."""
    count, windows = (1, 5) if short else (BESIDE_LIVES, BESIDE_WINDOWS)
    report = {}
    for reference, memory in ((1_000, 0.0), (5_000, 0.0), (50_000, 0.0), (10_000, 0.3), (10_000, 0.6), (10_000, 0.9)):
        name = f"reference of {reference:,} rows, correlation with the row before {memory:g}"
        print(name, file=sys.stderr, flush=True)
        lives = [live(1_000 + seed, windows, reference=reference, memory=memory) for seed in range(count)]
        report[name] = summary(lives)
    return report


def summary(lives: list[Life]) -> dict[str, Any]:
    """Shares over lives, with 95 % bounds."""
    alarms = sum(life.alarm is not None for life in lives)
    report: dict[str, Any] = {
        "lives": len(lives),
        "windows": max(life.windows for life in lives),
        "false_alarms": {
            "lives": alarms,
            "share": alarms / len(lives),
            "share_upper_95": round(_upper(alarms, len(lives)), 4),
            "at": [(life.seed, life.alarm, life.alarm_group) for life in lives if life.alarm is not None],
        },
        "shift": {},
        "evidence_ms": {
            "p50": round(float(np.median([life.step_ms[0] for life in lives])), 3),
            "p99": round(float(np.median([life.step_ms[1] for life in lives])), 3),
            "max": max(life.step_ms[2] for life in lives),
        },
    }
    for after in sorted({one.after for life in lives for one in life.found}):
        ones = [one for life in lives for one in life.found if one.after == after]
        hits = [one for one in ones if one.window is not None]
        report["shift"][f"after {after} clean windows"] = {
            "runs": len(ones),
            "found": round(len(hits) / len(ones), 4),
            "found_lower_95": round(1 - _upper(len(ones) - len(hits), len(ones)), 4),
            "found_by_window": [
                round(sum((one.window or 99) <= window for one in ones) / len(ones), 4)
                for window in range(1, WITHIN + 1)
            ],
            "of_found": {
                "called": _share([one.is_called for one in hits]),
                "blamed_most": _share([one.is_blamed for one in hits]),
                "others_called": _share([one.others > 0 for one in hits]),
                "onset_within_1": _share([abs(one.onset_error) <= 1 for one in hits]),
            },
        }
    return report


def _bets(layout: Layout, tally: Tally, group: GroupName) -> Bets:
    failure = FAILURE * GROUP_WEIGHTS[group]
    return Bets.against(layout, tally, failure=failure)


def _log_threshold(group: str) -> float:
    weights: Mapping[Any, float] = GROUP_WEIGHTS
    return float(-np.log(BUDGET * weights[group]))


def _upper(hits: int, count: int) -> float:
    return 1.0 if hits == count else float(beta.ppf(0.95, hits + 1, count - hits))


def _share(claims: list[bool]) -> float | None:
    return round(float(np.mean(claims)), 4) if claims else None


if __name__ == "__main__":
    main()
