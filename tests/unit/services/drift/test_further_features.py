"""An alarm that stands is judged again as soon as drift is called for a further feature."""

from meshcast.services.drift.alarms import JUDGED_WINDOWS, Alarm, Judgement, Standing


def judgement(severity: int) -> Judgement:
    return Judgement(
        severity=severity,
        severity_score=0.5,
        is_drift=True,
        blamed=(),
        onset_window=1,
        text="it moved",
        message=b"",
    )


def raised(*drifted: str) -> Standing:
    """An alarm that stands since drift was called for these features."""
    what, state = Standing().after_window(True, drifted)
    assert what == "judge"
    kind, state = state.after_judgement(judgement(2), drifted)
    assert kind == "raised"
    return state.told(Alarm(subject="s", kind="raised", raised_us=0, severity=2, text="it moved"))


def test_a_further_feature_is_told_with_its_first_window() -> None:
    what, state = raised("length").after_window(True, ["length", "favourites"])
    assert what == "judge"
    kind, state = state.after_judgement(judgement(2), ["length", "favourites"])
    assert kind == "worsened" and state.features == {"length", "favourites"}
    assert state.after_window(True, ["favourites"])[0] is None


def test_without_one_the_windows_are_judged_from_time_to_time() -> None:
    state, asked = raised("length"), []
    for _ in range(JUDGED_WINDOWS):
        what, state = state.after_window(True, ["length"])
        asked.append(what)
    assert asked == [None] * (JUDGED_WINDOWS - 1) + ["judge"]
    assert state.after_judgement(judgement(2), ["length"])[0] is None
    assert state.after_judgement(judgement(3), ["length"])[0] == "worsened"
