from typing import Any

from meshcast.services.analyzer.card import CardText, render_card


def question(auc: float | None, ece: float = 0.01) -> dict[str, Any]:
    return {"auc": auc, "ece": ece, "log_loss": 0.6, "share": 0.3}


def metrics(model: dict[str, Any] | None = None, rows: int = 2_000, channels: int = 3) -> dict[str, Any]:
    part = {"rows": rows, "channels": channels, "first_unix_s": 1_400_000_000, "last_unix_s": 1_450_000_000}
    plain = {"above_median": question(0.70), "viral": question(0.72)}
    return {
        "data": {
            "channels": channels,
            "posts": 12_345,
            "titled_share": 0.94,
            "first_unix_s": 1_400_000_000,
            "last_unix_s": 1_450_000_000,
        },
        "split": {"train": part, "validation": part, "test": part},
        "recipe": {
            "parameters": 600_000,
            "buckets": 65_536,
            "epochs_run": 2,
            "best_epoch": 1,
            "penalty": {"above_median": 3.0, "viral": 6.0},
            "network_counts": {"above_median": 0.9, "viral": 0.4},
            "settings": {
                "batch_rows": 128,
                "learning_rate": 1e-3,
                "dropout": 0.4,
                "averaging": 0.995,
                "seed": 0,
            },
        },
        "test": {
            "model": model or {"above_median": question(0.74), "viral": question(0.76)},
            "baselines": {"TF-IDF and logistic regression": plain},
        },
    }


def test_a_card_shows_the_model_beside_plain_methods() -> None:
    card = render_card(metrics())
    assert "12,345 posts of 3 channels, 2014-05-13 to 2015-12-13 (UTC); 94 % have a title." in card
    assert "### Above the channel's recent median (600 of 2,000 posts)" in card
    assert "| **this model** | 0.740 | 0.010 | 0.600 |" in card
    assert "| TF-IDF and logistic regression | 0.720 | 0.010 | 0.600 |" in card
    assert "A plain method" not in card and "Calibrated worse" not in card and "rough" not in card
    assert "One channel only" not in card


def test_a_card_says_where_a_plain_method_is_better_and_where_calibration_is_off() -> None:
    card = render_card(metrics({"above_median": question(0.69), "viral": question(0.75, ece=0.04)}))
    assert card.count("**A plain method ranks posts better here**: TF-IDF and logistic regression.") == 1
    assert "**Calibrated worse than it should be** (0.03): viral, the channel's top tenth." in card


def test_a_card_warns_of_one_channel_and_of_few_rows() -> None:
    card = render_card(metrics(rows=200, channels=1))
    assert "**One channel only.**" in card
    assert "the test part has 200 posts" in card


def test_a_card_says_where_too_few_posts_held() -> None:
    rare = question(0.75) | {"share": 0.02}
    assert "for want of posts that were: viral," in render_card(
        metrics({"above_median": question(0.74), "viral": rare})
    )


def test_what_was_not_measured_is_a_dash() -> None:
    assert "| **this model** | - |" in render_card(metrics({"above_median": question(None), "viral": question(None)}))


def test_a_card_says_what_its_author_told_it() -> None:
    text = CardText(title="Ours", data="Our own posts.", intended_use="For us.", limits=("Not for you.",), notes="Bye.")
    card = render_card(metrics(), text)
    assert card.startswith("# Ours\n\nFor us.\n")
    assert "Our own posts." in card and "- Not for you." in card and "## Notes\n\nBye." in card
