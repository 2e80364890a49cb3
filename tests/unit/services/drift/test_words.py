from typing import Any

import pytest

from meshcast.services.drift.severity import Level
from meshcast.services.drift.words import (
    Change,
    Moved,
    advice_of_feature,
    alarm_sentence,
    listed,
    number,
    overall_advice,
    percent,
    summary,
    what_moved,
)

NONE = Change(None, None)


def moved(**facts: Any) -> Moved:
    same: dict[str, Any] = {
        "name": "age",
        "is_number": True,
        "is_output": False,
        "mean": Change(40.0, 40.0),
        "spread": Change(10.0, 10.0),
        "median": Change(39.0, 39.0),
        "nulls": Change(0.0, 0.0),
        "infinite": Change(0.0, 0.0),
        "unseen": 0.0,
        "unseen_names": (),
        "categories": (),
        "mean_shift_sd": 0.0,
        "wasserstein_sd": 0.0,
    }
    return Moved(**(same | facts))


def test_what_moved_names_the_most_telling_first() -> None:
    shift = moved(mean=Change(3.2, 4.1), mean_shift_sd=0.9, wasserstein_sd=0.9)
    assert what_moved(shift) == "mean 3.2 to 4.1 (+0.9 sd)"
    nulls = moved(nulls=Change(0.01, 0.12), mean=Change(40, 41), mean_shift_sd=0.1, wasserstein_sd=0.1)
    assert what_moved(nulls) == "nulls 1.0 % to 12 %; mean 40 to 41 (+0.1 sd)"
    assert what_moved(moved(spread=Change(10, 20), wasserstein_sd=0.6)) == "spread 10 to 20 (x 2)"
    assert what_moved(moved(wasserstein_sd=0.4, median=Change(30, 50))) == "shape (distance 0.4 sd; median 30 to 50)"
    assert what_moved(moved()) == "nothing to speak of"


def test_numbers_that_look_the_same_get_more_digits() -> None:
    assert "4.002e+07 to 4.003e+07" in what_moved(moved(mean=Change(4.002e7, 4.003e7), mean_shift_sd=1.0))
    assert "mean 0.12341 to 0.12342" in what_moved(moved(mean=Change(0.12341, 0.12342), mean_shift_sd=1.0))


def test_categories_are_named_with_their_shares() -> None:
    colour = moved(
        name="colour",
        is_number=False,
        mean=NONE,
        spread=NONE,
        median=NONE,
        mean_shift_sd=None,
        wasserstein_sd=None,
        unseen=0.11,
        unseen_names=("purple", "x" * 60),
        categories=(("red", Change(0.5, 0.35)), ("blue", Change(0.2, 0.201))),
    )
    text = what_moved(colour)
    assert text.startswith("new categories in 11 % of rows: “purple” and “xxx")
    assert "“red” 50 % to 35 %" in text and "blue" not in text and "…" in text
    assert "retrain with them" in advice_of_feature(colour, Level.HIGH)


def test_constants_are_told_apart() -> None:
    assert "one value only, 5" in what_moved(moved(mean=Change(40, 5), spread=Change(10, 0), mean_shift_sd=-3.5))
    was = moved(mean=Change(3, 4), spread=Change(0, 0), mean_shift_sd=None, wasserstein_sd=None)
    assert what_moved(was) == "mean 3 to 4, where the reference is constant"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"nulls": Change(0.0, 0.2)}, "nulls rose from 0 % to 20 %"),
        ({"nulls": Change(0.0, 1.0)}, "nothing but nulls"),
        ({"infinite": Change(0.0, 0.1)}, "10 % of its values are infinite"),
        ({"mean": Change(70, 70_010), "spread": Change(10, 10_050)}, "multiplied by 1,000"),
        ({"mean": Change(70, 0.7), "spread": Change(10, 0.1)}, "multiplied by 0.01"),
        ({"spread": Change(10, 0.0)}, "one value only"),
        ({"is_output": True}, "fresh labels"),
        ({}, "Check the source"),
    ],
)
def test_advice_names_the_way_out(facts: dict[str, Any], said: str) -> None:
    assert said in advice_of_feature(moved(**facts), Level.HIGH)
    assert advice_of_feature(moved(**facts), Level.NONE) == ""


def test_overall_advice_ends_with_accepting_the_change() -> None:
    advice = overall_advice(
        Level.CRITICAL, is_drift=True, by_feature=["a", "b", "c", "d"], is_joint_only=False, has_outputs=True,
        is_subject=True,
    )  # fmt: skip
    assert "Do not rely" in advice[0] and "labels" in advice[1] and "SetReference" in advice[-1]
    assert "d" not in advice
    small = overall_advice(
        Level.NONE, is_drift=True, by_feature=[], is_joint_only=False, has_outputs=False, is_subject=False
    )
    assert len(small) == 1 and "no action" in small[0]
    assert not overall_advice(
        Level.NONE, is_drift=False, by_feature=[], is_joint_only=False, has_outputs=False, is_subject=True
    )


def told(**facts: Any) -> str:
    plain: dict[str, Any] = {
        "level": Level.HIGH,
        "is_drift": True,
        "is_too_small": False,
        "is_fading": False,
        "window_rows": 1_000,
        "reference_rows": 20_000,
        "drifted": [("age", "mean 3 to 4 (+1 sd)")],
        "features": 64,
        "joint": [],
        "onset_window": None,
        "number_of_window": 0,
        "p_value": 1e-9,
        "false_alarms_a_year": None,
    }
    return summary(**(plain | facts))


def test_the_summary_reads_as_a_paragraph() -> None:
    assert told() == (
        "Drift of level HIGH (p < 0.0001): 1,000 rows against a reference of 20,000. "
        "1 of 64 features moved: “age” (mean 3 to 4 (+1 sd))."
    )
    assert told(p_value=None, onset_window=7, number_of_window=9).endswith("It began in window 7, 2 windows ago.")
    assert told(onset_window=9, number_of_window=9).endswith("It began in window 9, this one.")
    assert "too small to matter" in told(level=Level.NONE)
    assert "below the threshold again" in told(level=Level.NONE, is_fading=True, p_value=None)
    assert "what did: spreads" in told(drifted=[], joint=["spreads"])
    quiet = told(is_drift=False, level=Level.NONE, p_value=None, false_alarms_a_year=0.5)
    assert quiet.startswith("No drift is called: 1,000 rows") and "0.5 false alarms a year" in quiet
    assert "too few for a verdict" in told(is_too_small=True, window_rows=1)
    assert "1 row against" in told(is_too_small=True, window_rows=1)


def test_an_alarm_is_one_sentence() -> None:
    one = alarm_sentence("shop", Level.LOW, [("age", "mean 3 to 4"), ("b", "")], [])
    assert one == "shop drifts, level LOW: “age” has mean 3 to 4, and 1 more feature moved."
    assert "drifts, too little to matter:" in alarm_sentence("shop", Level.NONE, [("age", "mean 3 to 4")], [])
    assert "all together in spreads" in alarm_sentence("shop", Level.LOW, [], ["spreads"])


def test_numbers_and_lists_are_short() -> None:
    assert [number(value) for value in (0, 1 / 3, 12_345.6, 1e-7, 5e9, float("inf"), None)] == [
        "0", "0.333", "12,346", "1e-07", "5e+09", "inf", "none",
    ]  # fmt: skip
    assert [percent(share) for share in (0, 1, 0.5, 0.05, 0.00123, 1e-6, 0.99999, None)] == [
        "0 %", "100 %", "50 %", "5.0 %", "0.12 %", "under 0.01 %", "over 99.99 %", "none",
    ]  # fmt: skip
    assert listed([]) == "" and listed(["a"]) == "a" and listed(["a", "b"]) == "a and b"
    assert listed(list("abcde")) == "a, b, c and 2 more"
