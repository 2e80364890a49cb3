"""Model card of a content model: what it was trained on, how it scores beside plain methods, and what it is not for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshcast.runtime import card

__all__ = ["CardText", "render_card"]

_QUESTIONS = {"above_median": "above the channel's recent median", "viral": "viral, the channel's top tenth"}
_ECE_MAX = 0.03
_ROWS_FEW = 1_000  # then an AUC is known to two points at best
_HELD_FEW = 100  # to three

_INTENDED_USE = (
    "To judge planned posts by their text and title: how likely each ends above the median of its channel's last 100 "
    "settled posts, and how likely among the channel's top tenth, relative to that median."
)

_LIMITS = (
    "It learnt from the languages and the subjects of its training posts. For others it falls back on length, media "
    "and hour, and its probabilities are not calibrated for them.",
    "News age: what drew readers then may not now. Train it anew from time to time.",
    "Of a text the first 1,000 characters count, of a title the first 200. It sees no pictures and follows no links.",
    "It judges how posts compare within their channel, not across channels, and knows nothing of the channel's size.",
    "It predicts; it does not explain, and it tells neither true from false nor good from bad. It must not decide what "
    "people may say, rank people by what they write, or be taken for an opinion about them.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardText(card.CardText):
    """What the card says beside the numbers; see the runtime's `CardText`."""

    title: str = "Content model"
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
    data, split, recipe, test = metrics["data"], metrics["split"], metrics["recipe"], metrics["test"]
    lines = text.opening()
    lines += [
        f"{card.posts_of(data)}; {100 * data['titled_share']:.0f} % have a title.",
        "",
    ]
    lines += card.split_lines(metrics, one="channel")
    lines += [
        "The calibration error is the expected one over 15 bins of equally many rows.",
        "",
    ]
    warned, rare = [], []
    rows = split["test"]["rows"]
    for question, meaning in _QUESTIONS.items():
        model = test["model"][question]
        held = round(rows * model["share"])
        others = {name: values[question] for name, values in test["baselines"].items()}
        lines += [
            f"### {meaning[0].upper()}{meaning[1:]} ({held:,} of {rows:,} posts)",
            "",
            "| method | AUC | calibration error | log loss |",
            "| --- | --- | --- | --- |",
            _score_row("**this model**", model),
            *(_score_row(name, values) for name, values in others.items()),
            "",
        ]
        better = [name for name, values in others.items() if card.is_less(model["auc"], values["auc"])]
        if better:
            lines += [f"**A plain method ranks posts better here**: {', '.join(better)}.", ""]
        if model["ece"] > _ECE_MAX:
            warned.append(meaning)
        if held < _HELD_FEW:
            rare.append(meaning)
    if warned:
        lines += [f"**Calibrated worse than it should be** ({_ECE_MAX:g}): {', '.join(warned)}.", ""]
    if rows < _ROWS_FEW:
        lines += [f"All of these figures are rough: the test part has {rows:,} posts.", ""]
    elif rare:
        lines += [f"AUCs are rough, for want of posts that were: {', '.join(rare)}.", ""]
    lines += text.limit_lines()
    settings, penalty = recipe["settings"], recipe["penalty"]
    lines += [
        "## Recipe",
        "",
        f"A bag of hashed n-grams (words, pairs of words, pieces of 2 to 4 characters; {recipe['buckets']:,} buckets a "
        "kind), weighed by rarity, each with a weight for posts with media and one for those without, fitted by ridge "
        "regression on the posts' ranks within their channel (penalties "
        f"{penalty['above_median']:g} and {penalty['viral']:g}). Beside it a convolution over the tokens, a "
        f"transformer encoder layer and a network for length, media and hour ({recipe['parameters']:,} parameters), "
        "trained on both questions together next to what bags say of posts they were not fitted on. Best of "
        f"{recipe['epochs_run']} epochs: {recipe['best_epoch']}; batches of {settings['batch_rows']}, learning rate "
        f"{settings['learning_rate']:g}, dropout {settings['dropout']:g}, averaged weights (decay "
        f"{settings['averaging']:g}), seed {settings['seed']}. The validation part weighs bag and network "
        "against each other and calibrates them, by logistic regression; both stand inside the exported graph.",
        "",
    ]
    if text.notes:
        lines += ["## Notes", "", text.notes, ""]
    return "\n".join(lines)


def _score_row(name: str, values: Mapping[str, float | None]) -> str:
    return f"| {name} | " + " | ".join(card.number(values[key]) for key in ("auc", "ece", "log_loss")) + " |"
