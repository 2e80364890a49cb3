"""The card says what the numbers are, where a plain method is better, and that one account is not many."""

import copy
from typing import Any

from meshcast.services.predictor.card import CardText, render_card

SCORES = {"mae": 1.0, "spearman": 0.6, "spearman_within": 0.2, "auc": 0.66}
PART = {"rows": 1000, "channels": 3, "first_unix_s": 0, "last_unix_s": 86_400}
METRICS: dict[str, Any] = {
    "data": {
        "channels": 3,
        "posts": 1234,
        "first_unix_s": 0,
        "last_unix_s": 864_000,
        "missing_share": {"views": 1.0, "forwards": 0.0, "replies": 0.25, "reactions": 0.0},
    },
    "split": {"train": PART, "validation": PART, "test": PART},
    "recipe": {
        "parameters": 90_000,
        "history_columns": 14,
        "planned_columns": 40,
        "epochs_run": 6,
        "best_epoch": 5,
        "settings": {
            "batch_rows": 128,
            "learning_rate": 0.0015,
            "dropout": 0.3,
            "averaging": 0.999,
            "count_dropout": 0.1,
            "seed": 0,
        },
    },
    "test": {
        "model": {
            **SCORES,
            "ece": 0.012,
            "above_share": 0.5,
            "channels_judged": 2,
            "coverage": {
                "80 %": {"stated": 0.8, "covered": 0.79, "mean_width": 3.2, "channels_within_5_points": 1.0},
                "95 %": {"stated": 0.95, "covered": 0.96, "mean_width": 4.9, "channels_within_5_points": 0.5},
            },
        },
        "baselines": {"last value": {"mae": 1.4, "spearman": 0.4, "spearman_within": None, "auc": 0.5}},
    },
}


def test_a_card_states_data_scores_and_calibration() -> None:
    card = render_card(METRICS, CardText(title="Engagement", data="Public posts, MIT.", notes="Made for tests."))
    assert card.startswith("# Engagement\n")
    assert (
        "1,234 posts of 3 channels, 1970-01-01 to 1970-01-11 (UTC). Counts missing: views 100 %, replies 25 %." in card
    )
    assert "| **this model** | 1.000 | 0.600 | 0.200 | 0.660 |" in card
    assert "| last value | 1.400 | 0.400 | - | 0.500 |" in card
    assert "| 80 % | 79.0 % | 3.20 | 100 % |" in card
    assert "calibration error 0.012" in card
    assert "Public posts, MIT." in card and card.rstrip().endswith("Made for tests.")
    assert "One account only" not in card
    assert "does better in" not in card
    assert "Off by more" not in card


def test_a_card_warns_of_one_account() -> None:
    metrics = copy.deepcopy(METRICS)
    metrics["data"]["channels"] = 1
    assert "**One account only.**" in render_card(metrics)


def test_a_card_says_where_it_falls_short() -> None:
    metrics = copy.deepcopy(METRICS)
    metrics["test"]["baselines"]["median of last 20"] = {**SCORES, "mae": 0.9, "auc": 0.7}
    metrics["test"]["model"]["ece"] = 0.08
    metrics["test"]["model"]["coverage"]["80 %"]["covered"] = 0.86
    card = render_card(metrics)
    assert "does better in: MAE (median of last 20), AUC above the median (median of last 20)." in card
    assert "calibration error): the 80 % interval, confidence." in card
