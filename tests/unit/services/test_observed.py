"""What the drift service sees of our models: columns that people know, and of drift itself nothing."""

from meshcast.runtime import TapColumns, find_service
from meshcast.services.drift.shipped_subject import shipped_rows
from meshcast.services.predictor.features import PLANNED_FEATURES


def columns(name: str) -> TapColumns:
    service = find_service(name)
    return TapColumns.of(service.signature, service.observed)


def test_the_predictors_rows_are_those_of_the_reference_that_ships() -> None:
    watched, shipped = columns("predictor"), shipped_rows()
    assert watched.names == (*PLANNED_FEATURES, "log_engagement", "confidence") == shipped.observations.names
    assert watched.output_names == shipped.outputs


def test_texts_are_watched_by_what_is_known_of_them_and_series_and_drift_are_not() -> None:
    analyzer = columns("analyzer")
    assert analyzer.names[:3] == ("content_length", "has_media", "hour_of_day")
    assert analyzer.output_names == ("above_median", "viral")
    assert not columns("forecaster").names and not columns("drift").names
