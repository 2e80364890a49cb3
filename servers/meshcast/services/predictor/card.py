"""Model card of a predictor: what it was trained on, how it scores beside plain methods, and what it is not for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshcast.runtime import card

__all__ = ["CardText", "render_card"]

_SCORES = (
    ("mae", "MAE"),
    ("spearman", "Spearman"),
    ("spearman_within", "Spearman within a channel"),
    ("auc", "AUC above the median"),
)

_INTENDED_USE = (
    "To rank planned posts of a channel and to state the range of engagement that they will get, from the plan and "
    "20 to 100 of the channel's settled posts (counts at least 24 h old)."
)

_LIMITS = (
    "It reads neither text nor pictures: two posts of the same hour, length and kind get the same answer.",
    "Coverage and confidence were calibrated on the validation part and hold as long as the channel behaves as it did "
    "then; a change of regime breaks them until the model is calibrated anew.",
    "Engagement is a sum of the counts that are known. Compare answers only between posts with the same counts known.",
    "It predicts; it does not explain. That posts at some hour did better does not mean that a post moved there will.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardText(card.CardText):
    """What the card says beside the numbers; see the runtime's `CardText`."""

    title: str = "Predictor of engagement"
    data: str = "Posts given by the user."
    intended_use: str = _INTENDED_USE
    limits: Sequence[str] = _LIMITS


def render_card(metrics: Mapping[str, Any], text: CardText | None = None) -> str:
    """The card in Markdown.

    Args:
        metrics: `Trained.metrics`, or the same read back from JSON.
        text: what the card says beside the numbers.
    """
    text = text or CardText()
    data, recipe, test = metrics["data"], metrics["recipe"], metrics["test"]
    model = test["model"]
    lines = text.opening()
    missing = [name for name, share in data["missing_share"].items() if share > 0]
    lines += [
        f"{card.posts_of(data)}. Counts missing: "
        + (", ".join(f"{name} {100 * data['missing_share'][name]:.0f} %" for name in missing) or "none")
        + ". A missing count is left out of engagement, never taken as zero.",
        "",
    ]
    lines += card.split_lines(metrics, one="account")
    lines += [
        "Errors are in log1p units of engagement (0.1 is about 10 %). The median is that of the channel's last 20 "
        "settled posts.",
        "",
        "| method | " + " | ".join(title for _, title in _SCORES) + " |",
        "| --- " * (len(_SCORES) + 1) + "|",
        _score_row("**this model**", model),
        *(_score_row(name, values) for name, values in test["baselines"].items()),
        "",
        "## Calibration on the test part",
        "",
        "| interval | covered | mean width | channels within 5 points |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {100 * level['covered']:.1f} % | {level['mean_width']:.2f} | "
            f"{_share(level['channels_within_5_points'])} |"
            for name, level in model["coverage"].items()
        ),
        "",
        f"Channels are judged from 200 test posts on ({card.channels(model['channels_judged'])}). Confidence, the "
        f"chance of ending above the median: expected calibration error {model['ece']:.3f} (15 equal-mass bins), "
        f"{100 * model['above_share']:.1f} % of the test posts did.",
        "",
    ]
    worse = [
        f"{title} ({name})"
        for key, title in _SCORES
        for name, values in test["baselines"].items()
        if _is_better(key, values[key], model[key])
    ]
    if worse:
        lines += [f"A plain method does better in: {', '.join(worse)}.", ""]
    warned = [name for name, level in model["coverage"].items() if abs(level["covered"] - level["stated"]) > 0.02]
    if warned or model["ece"] > 0.03:
        what = [f"the {name} interval" for name in warned] + (["confidence"] if model["ece"] > 0.03 else [])
        lines += [
            f"**Off by more than it should be** (2 points of coverage, 0.03 of calibration error): {', '.join(what)}.",
            "",
        ]
    lines += text.limit_lines()
    settings = recipe["settings"]
    lines += [
        "## Recipe",
        "",
        f"Two LSTM layers of 64 units over the last 24 settled posts ({recipe['history_columns']} columns), joined "
        f"with the plan and the channel's summaries ({recipe['planned_columns']} columns); {recipe['parameters']:,} "
        f"parameters. Best of {recipe['epochs_run']} epochs: {recipe['best_epoch']}; batches of "
        f"{settings['batch_rows']}, learning rate {settings['learning_rate']:g}, dropout {settings['dropout']:g}, "
        f"averaged weights (decay {settings['averaging']:g}), {100 * settings['count_dropout']:.0f} % of rows with one "
        f"count declared missing, seed {settings['seed']}. Intervals: conformalised quantile regression; confidence: "
        "Platt scaling; both on the validation part and both inside the exported graph.",
        "",
    ]
    if text.notes:
        lines += ["## Notes", "", text.notes, ""]
    return "\n".join(lines)


def _score_row(name: str, values: Mapping[str, float | None]) -> str:
    return f"| {name} | " + " | ".join(card.number(values[key]) for key, _ in _SCORES) + " |"


def _is_better(key: str, value: float | None, model: float | None) -> bool:
    return card.is_less(value, model) if key == "mae" else card.is_less(model, value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
