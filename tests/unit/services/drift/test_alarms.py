"""An alarm is raised once, told again when it gets worse, and over after ten quiet windows."""

from meshcast.services.drift.alarms import JUDGED_WINDOWS, QUIET_WINDOWS, Alarm, Judgement, Standing


def judgement(severity: int = 3) -> Judgement:
    return Judgement(
        severity=severity,
        severity_score=0.5,
        is_drift=True,
        blamed=(("x", 1.0),),
        onset_window=4,
        text="x moved",
        message=b"report",
    )


def alarm(severity: int = 3) -> Alarm:
    return Alarm(
        alarm_id=7,
        subject="a",
        kind="raised",
        raised_us=11,
        observed_us=5,
        severity=severity,
        blamed=(("x", 0.75), ("é", 0.25)),
        onset_window=4,
        onset_us=2,
        report_id="a.1.6",
        text="x moved",
        position=6,
        reference_version=1,
    )


def standing(severity: int = 3) -> Standing:
    what, state = Standing().after_window(True)
    assert what == "judge"
    kind, state = state.after_judgement(judgement(severity), ["x"])
    assert kind == "raised"
    return state.told(alarm(severity))


def test_quiet_windows_raise_nothing() -> None:
    state = Standing()
    for _ in range(30):
        what, state = state.after_window(False)
        assert what is None
    assert state == Standing()


def test_a_drift_that_lasts_is_told_once() -> None:
    state, asked = standing(), 0
    for _ in range(3 * JUDGED_WINDOWS):
        what, state = state.after_window(True, ["x"])
        if what == "judge":
            asked += 1
            kind, state = state.after_judgement(judgement(), ["x"])
            assert kind is None
    assert asked == 3


def test_a_higher_level_is_told_as_worse_and_a_lower_one_is_not() -> None:
    kind, state = standing(3).after_judgement(judgement(4), ["x"])
    assert kind == "worsened"
    kind, _ = state.told(alarm(4)).after_judgement(judgement(2), ["x"])
    assert kind is None


def test_an_alarm_is_over_after_ten_quiet_windows_in_a_row() -> None:
    state = standing()
    for _ in range(QUIET_WINDOWS - 1):
        what, state = state.after_window(False)
        assert what is None and state.alarm is not None
    _, state = state.after_window(True, ["x"])  # one loud window, and the counting begins anew
    for _ in range(QUIET_WINDOWS - 1):
        what, state = state.after_window(False)
        assert what is None
    what, state = state.after_window(False)
    assert (what, state) == ("resolve", Standing())


def test_state_and_alarm_come_back_as_they_were() -> None:
    state = standing().after_window(False)[1]
    assert Standing.from_facts(state.to_facts()) == state
    assert Standing.from_facts(Standing().to_facts()) == Standing()
    assert Alarm.from_json(7, alarm().to_json()) == alarm()
