from typing import Any

from meshcast.services.forecaster.card import CardText, render_card


def metrics(**test: Any) -> dict[str, Any]:
    level = {"width": 2.0, "width_median": 1.8}
    return {
        "data": {"series": 3, "days": 1200, "first_day": 16_000, "last_day": 16_399, "missing_share": 0.05},
        "split": {"training_days": 900, "validation_windows": 12, "test_windows": 12},
        "recipe": {
            "parameters": 115_948,
            "started_from_shipped": True,
            "best_step": 500,
            "settings": {
                "synthetic_share": 0.5,
                "steps": 600,
                "batch_rows": 128,
                "learning_rate": 4e-4,
                "dropout": 0.1,
                "averaging": 0.995,
                "seed": 0,
            },
        },
        "test": {
            "windows": 300,
            "mase": {"model": 0.8, "seasonal naive": 1.0, "weekday mean of 4 weeks": 0.9},
            "coverage": {
                "80 %": {"stated": 0.8, "covered": 0.79, **level},
                "95 %": {"stated": 0.95, "covered": 0.94, **level},
            },
            **test,
        },
    }


def test_a_card_shows_the_model_beside_plain_methods() -> None:
    card = render_card(metrics())
    assert "| **this model** | 0.800 |" in card
    assert "| weekday mean of 4 weeks | 0.900 |" in card
    assert "| 80 % | 79.0 % | 2.000 | 1.800 |" in card
    assert "2013-10-22 to 2014-11-25" in card
    assert "A plain method does better" not in card and "Off by more" not in card and "rough" not in card


def test_a_card_says_where_a_plain_method_is_better() -> None:
    worse = {"model": 1.2, "seasonal naive": 1.0, "weekday mean of 4 weeks": 1.3}
    assert "**A plain method does better here**: seasonal naive." in render_card(metrics(mase=worse))


def test_a_card_warns_of_intervals_that_are_off_and_of_few_windows() -> None:
    off = {"80 %": {"stated": 0.8, "covered": 0.76, "width": 1.0, "width_median": 1.0}}
    assert "(3 points of coverage): the 80 % interval" in render_card(metrics(coverage=off))
    few = render_card(metrics(coverage=off, windows=20))
    assert "Off by more" not in few
    assert "the test part has 20 windows" in few


def test_what_was_not_measured_is_a_dash() -> None:
    card = render_card(
        metrics(
            windows=0,
            mase={"model": None, "seasonal naive": None},
            coverage={"80 %": {"stated": 0.8, "covered": None, "width": None, "width_median": None}},
        )
    )
    assert "| **this model** | - |" in card


def test_a_cards_text_can_be_given() -> None:
    card = render_card(metrics(), CardText(title="Visits", data="Our own.", notes="## Elsewhere\n\nNothing."))
    assert card.startswith("# Visits\n")
    assert "Our own." in card and card.endswith("Nothing.\n")
