"""Words of reports: what moved and what to do about it, in plain English."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from meshcast.services.drift.severity import Level

__all__ = [
    "Change",
    "Moved",
    "advice_of_feature",
    "alarm_sentence",
    "counted",
    "listed",
    "number",
    "overall_advice",
    "percent",
    "summary",
    "what_moved",
]

_NAMES_MAX = 3
_NAME_CHARACTERS_MAX = 40
_SHARE_MIN = 0.005  # changes of shares below half a percent are not worth a word
_FRAGMENTS_MAX = 3
_WEIGHT_MIN = 0.01  # a two-hundredth of a standard deviation
_UNIT_TOLERANCE = 0.03


class Change(NamedTuple):
    """A number before and after; None where a side has none."""

    before: float | None
    after: float | None


class Moved(NamedTuple):
    """What is told of one feature.

    Attributes:
        name: of the feature.
        is_number: False for categories.
        is_output: True for what a model answers.
        mean: of the finite values.
        spread: their standard deviation.
        median: of the values.
        nulls: share of nulls.
        infinite: share of infinite values.
        unseen: share of rows whose category the reference does not have.
        unseen_names: the most frequent of those categories.
        categories: (category, its share before and after), the largest change first.
        mean_shift_sd: shift of the mean in standard deviations of the reference; None where there are none.
        wasserstein_sd: distance of the distributions in those.
    """

    name: str
    is_number: bool
    is_output: bool
    mean: Change
    spread: Change
    median: Change
    nulls: Change
    infinite: Change
    unseen: float
    unseen_names: tuple[str, ...]
    categories: tuple[tuple[str, Change], ...]
    mean_shift_sd: float | None
    wasserstein_sd: float | None


def what_moved(moved: Moved) -> str:
    """What moved, the most telling first, as in `mean 3.2 to 4.1 (+0.9 sd); nulls 1 % to 12 %`."""
    told: list[tuple[float, str]] = []
    if (fall := _apart(moved.nulls)) and abs(fall) >= _SHARE_MIN:
        told.append((abs(fall) / 0.1, f"nulls {percent(moved.nulls.before)} to {percent(moved.nulls.after)}"))
    if (rise := _apart(moved.infinite)) and abs(rise) >= 1e-6:
        told.append(
            (abs(rise) / 0.1, f"infinite values {percent(moved.infinite.before)} to {percent(moved.infinite.after)}")
        )
    if moved.unseen > 0:
        names = listed([f"“{_short(name)}”" for name in moved.unseen_names])
        told.append(
            (moved.unseen / 0.05, f"new categories in {percent(moved.unseen)} of rows" + (f": {names}" * bool(names)))
        )
    told += _of_numbers(moved) if moved.is_number else _of_categories(moved)
    told.sort(key=lambda one: -one[0])
    kept = [text for weight, text in told[:_FRAGMENTS_MAX] if weight >= max(_WEIGHT_MIN, min(0.1, told[0][0]))]
    return "; ".join(kept) or "nothing to speak of"


def advice_of_feature(moved: Moved, level: Level) -> str:
    """What to do about a feature; empty where nothing is to be done."""
    if level == Level.NONE:
        return ""
    name = f"“{_short(moved.name)}”"
    if moved.nulls.after is not None and (_apart(moved.nulls) or 0) >= 0.02:
        if moved.nulls.after >= 0.999:
            return f"Check what fills {name}: it has nothing but nulls now."
        return (
            f"Check what fills {name}: nulls rose from {percent(moved.nulls.before)} to {percent(moved.nulls.after)}."
        )
    if (_apart(moved.infinite) or 0) > 0:
        return f"Check how {name} is computed: {percent(moved.infinite.after)} of its values are infinite."
    if moved.unseen >= 0.005:
        return f"Check whether the new categories of {name} are meant: retrain with them, or mend the pipeline."
    if factor := _unit(moved):
        return f"Check the unit of {name}: its values look multiplied by {factor}."
    if moved.spread.after == 0 and moved.spread.before:
        return f"Check the source of {name}: it has one value only, {number(moved.mean.after)}."
    if moved.is_output:
        return f"Compare the answers in {name} with fresh labels; the model or what it is asked has changed."
    if level >= Level.HIGH:
        return f"Check the source of {name} first: is the change real?"
    return f"Keep an eye on {name}, and compare with labels."


def overall_advice(
    level: Level, *, is_drift: bool, by_feature: Sequence[str], is_joint_only: bool, has_outputs: bool, is_subject: bool
) -> list[str]:
    """What to do, most important first.

    Args:
        level: overall.
        is_drift: whether drift is called.
        by_feature: advice on the features to blame, those to blame first.
        is_joint_only: True where no single feature is called.
        has_outputs: whether a model's outputs are watched.
        is_subject: whether the reference is that of a subject and could be replaced.
    """
    if not is_drift:
        return []
    advice = []
    if level == Level.CRITICAL:
        advice.append("Do not rely on what a model that learnt from the reference answers here until it was checked.")
    if level >= Level.HIGH:
        advice.append("Compare the model with fresh labels now.")
    advice += by_feature[:_NAMES_MAX]
    if is_joint_only:
        advice.append(
            "No single feature explains it: look at how features go together, such as a join or a source that changed."
        )
    if level >= Level.MODERATE:
        advice.append("Where the loss on fresh labels has risen, retrain with the newest rows.")
        if not has_outputs:
            advice.append(
                "Say which columns a model answers (role OUTPUT, `--output COLUMN`), so that it shows if they move."
            )
    if level <= Level.LOW:
        advice.append("The change is real but small: no action is needed while the loss on labels stays as it is.")
    if is_subject:
        advice.append(
            "If the change is meant and here to stay, make the newest rows the reference (SetReference; in Python "
            "`set_reference(subject, recent_rows=4096)`)."
        )
    return advice


def summary(
    *,
    level: Level,
    is_drift: bool,
    is_too_small: bool,
    is_fading: bool,
    window_rows: int,
    reference_rows: int,
    drifted: Sequence[tuple[str, str]],
    features: int,
    joint: Sequence[str],
    onset_window: int | None,
    number_of_window: int,
    p_value: float | None,
    false_alarms_a_year: float | None,
) -> str:
    """One paragraph for a person.

    Args:
        level: overall.
        is_drift: whether drift is called.
        is_too_small: whether the window has too few rows for a verdict.
        is_fading: whether an alarm stands though the evidence is below its threshold again.
        window_rows: rows of the window.
        reference_rows: rows of the reference.
        drifted: (name, what moved) of the features that drift is called for, those to blame first.
        features: number of features.
        joint: what the tests of all features together look at that found something, in words.
        onset_window: number of the window in which the drift began.
        number_of_window: of this window; 0 where it has none.
        p_value: of the window, all tests together.
        false_alarms_a_year: the subject's budget, where evidence over windows decides.
    """
    sides = f"{counted(window_rows, 'row')} against a reference of {reference_rows:,}"
    if is_too_small:
        return f"{sides}: too few for a verdict. What is told of each feature is what these rows show."
    chance = ""
    if p_value is not None:
        chance = f" (p = {number(p_value)})" if p_value >= 1e-4 else " (p < 0.0001)"
    if not is_drift:
        judged = (
            f" The evidence over windows is below the budget of {number(false_alarms_a_year)} false alarms a year."
            if false_alarms_a_year is not None
            else ""
        )
        return f"No drift is called{chance}: {sides}.{judged}"
    if is_fading:
        return f"An alarm stands, but its evidence is below the threshold again: {sides}."
    text = f"Drift of level {level.name}{chance}: {sides}."
    if level == Level.NONE:
        text = f"There is a drift, too small to matter{chance}: {sides}."
    if drifted:
        named = "; ".join(f"“{_short(name)}” ({what})" for name, what in drifted[:_NAMES_MAX])
        rest = len(drifted) - _NAMES_MAX
        more = f"; and {counted(rest, 'more')}" if rest > 0 else ""
        text += f" {len(drifted)} of {counted(features, 'feature')} moved: {named}{more}."
    elif joint:
        text += f" No feature moved by itself; what did: {listed(joint)}."
    if onset_window:
        ago = number_of_window - onset_window
        text += f" It began in window {onset_window}" + (
            f", {counted(ago, 'window')} ago." if ago > 0 else ", this one."
        )
    return text


def alarm_sentence(subject: str, level: Level, drifted: Sequence[tuple[str, str]], joint: Sequence[str]) -> str:
    """One sentence of an alarm.

    Args:
        subject: its name.
        level: overall.
        drifted: (name, what moved), those to blame first.
        joint: as in `summary`.
    """
    how = "drifts, too little to matter" if level == Level.NONE else f"drifts, level {level.name}"
    if drifted:
        name, what = drifted[0]
        rest = len(drifted) - 1
        more = f", and {counted(rest, 'more feature')} moved" if rest else ""
        return f"{subject} {how}: “{_short(name)}” has {what}{more}."
    about = f" in {listed(joint)}" if joint else ""
    return f"{subject} {how}: no feature by itself, but all together{about}."


def listed(texts: Sequence[str]) -> str:
    """Texts as a list in a sentence, at most three by name."""
    shown = list(texts[:_NAMES_MAX])
    rest = len(texts) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {rest:,} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def counted(count: int, noun: str) -> str:
    """A number with its noun, as in `1 row` and `2 rows`."""
    plural = noun if noun == "more" or count == 1 else f"{noun}s"
    return f"{count:,} {plural}"


def number(value: float | None) -> str:
    """A number of three digits, or all those before the point where it has more; `none` for None."""
    if value is None or math.isnan(value):
        return "none"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1e7 or abs(value) < 1e-4:
        return f"{value:.3g}"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def percent(share: float | None) -> str:
    """A share as a percentage: two digits, and never 0 % or 100 % of what is not."""
    if share is None:
        return "none"
    if 0 < share < 0.0001:
        return "under 0.01 %"
    if 0.9999 < share < 1:
        return "over 99.99 %"
    digits = 0 if share in (0, 1) or 0.1 <= share <= 0.9 else 1 if 0.01 <= share <= 0.99 else 2
    return f"{100 * share:.{digits}f} %"


def _of_numbers(moved: Moved) -> list[tuple[float, str]]:
    told = []
    shift = moved.mean_shift_sd
    if shift is not None and moved.mean.after is not None:
        told.append((abs(shift) / 0.5, f"mean {_pair(moved.mean)} ({shift:+.2g} sd)"))
    elif moved.mean.before is not None and moved.mean.after is not None and moved.mean.before != moved.mean.after:
        told.append((2.0, f"mean {_pair(moved.mean)}, where the reference is constant"))
    if moved.spread.before and moved.spread.after:
        ratio = moved.spread.after / moved.spread.before
        told.append((abs(math.log(ratio)) / 0.5, f"spread {_pair(moved.spread)} (x {number(ratio)})"))
    elif moved.spread.before and moved.spread.after == 0:
        told.append((2.0, f"one value only, {number(moved.mean.after)}"))
    distance = moved.wasserstein_sd
    if distance is not None and distance > 1.5 * max((weight * 0.5 for weight, _ in told), default=0.0):
        told.append((distance / 0.5, f"shape (distance {distance:.2g} sd; median {_pair(moved.median)})"))
    return told


def _of_categories(moved: Moved) -> list[tuple[float, str]]:
    return [
        (abs(_apart(change) or 0.0) / 0.2, f"“{_short(name)}” {percent(change.before)} to {percent(change.after)}")
        for name, change in moved.categories[:_FRAGMENTS_MAX]
        if abs(_apart(change) or 0.0) >= _SHARE_MIN
    ]


def _unit(moved: Moved) -> str:
    """The factor, a power of ten, by which all values look multiplied; empty where they do not."""
    if not (moved.spread.before and moved.spread.after and moved.mean.before and moved.mean.after):
        return ""
    ratio, spread = moved.mean.after / moved.mean.before, moved.spread.after / moved.spread.before
    if ratio <= 0 or abs(ratio / spread - 1) > 4 * _UNIT_TOLERANCE:
        return ""
    power = round(math.log10(ratio))
    if power == 0 or abs(ratio / 10.0**power - 1) > _UNIT_TOLERANCE:
        return ""
    return f"{10**power:,}" if power > 0 else f"{10.0**power:g}"


def _pair(change: Change) -> str:
    """Two numbers, with as many digits as it takes to tell them apart."""
    before, after = number(change.before), number(change.after)
    if before == after and change.before is not None and change.after is not None and change.before != change.after:
        for digits in range(4, 16):
            before, after = f"{change.before:.{digits}g}", f"{change.after:.{digits}g}"
            if before != after:
                break
    return f"{before} to {after}"


def _apart(change: Change) -> float | None:
    return None if change.before is None or change.after is None else change.after - change.before


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS_MAX else f"{name[: _NAME_CHARACTERS_MAX - 1]}…"
