"""The analysis of a series as a message: growth patterns become what the contract says."""

import numpy as np

from meshcast.api.forecaster.v1 import forecaster_pb2 as pb
from meshcast.series import day_texts
from meshcast.services.forecaster.patterns import Patterns, SeasonPattern, Trend

__all__ = ["patterns_message"]

_DIRECTIONS = {"growing": pb.DIRECTION_GROWING, "flat": pb.DIRECTION_FLAT, "declining": pb.DIRECTION_DECLINING}
_KINDS = {"level": pb.CHANGE_KIND_LEVEL, "bend": pb.CHANGE_KIND_BEND}


def patterns_message(patterns: Patterns) -> pb.AnalyzeGrowthPatternsResponse:
    """The answer to AnalyzeGrowthPatterns, without its receipt."""
    answer = pb.AnalyzeGrowthPatternsResponse(
        trend=_trend(patterns.trend),
        recent_trend=_trend(patterns.recent_trend),
        anomaly_score_low=patterns.anomaly_scores[0],
        anomaly_score_high=patterns.anomaly_scores[1],
        false_anomalies=patterns.false_anomalies,
        multiplicative=patterns.multiplicative,
        notes=patterns.notes,
    )
    if patterns.weekly is not None:
        _set_season(answer.weekly, patterns.weekly)
    if patterns.yearly is not None:
        _set_season(answer.yearly, patterns.yearly)
    for change in patterns.change_points:
        answer.change_points.add(
            date=_date(change.day),
            kind=_KINDS[change.kind],
            level_before=change.level_before,
            level_after=change.level_after,
            relative_change=change.relative_change,
            strength=change.strength,
            p_value=change.p_value,
        )
    for phase in patterns.phases:
        answer.phases.add(trend=_trend(phase.trend), days=phase.days)
    for anomaly in patterns.anomalies:
        answer.anomalies.add(
            date=_date(anomaly.day), value=anomaly.value, expected=anomaly.expected, score=anomaly.score
        )
    return answer


def _trend(trend: Trend) -> pb.Trend:
    return pb.Trend(
        first_date=_date(trend.first_day),
        last_date=_date(trend.last_day),
        slope=trend.slope,
        slope_lower=trend.slope_lower,
        slope_upper=trend.slope_upper,
        growth_weekly=trend.growth_weekly,
        direction=_DIRECTIONS[trend.direction],
        probability=trend.probability,
        strength=trend.strength,
        level=trend.level,
    )


def _set_season(message: pb.WeeklySeason | pb.YearlySeason, season: SeasonPattern) -> None:
    message.effects.extend(season.effects)
    message.multiplicative = season.multiplicative
    message.strength = season.strength
    message.p_value = season.p_value
    message.present = season.present


def _date(day: int) -> str:
    return day_texts(np.array([day]))[0]
