"""Model card of an autoencoder: which reference it learnt, how well it rebuilds held-out rows, what it is not for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshcast.runtime import card

__all__ = ["CardText", "render_card"]

_INTENDED_USE = (
    "To watch whether the columns of rows still go together as they did in one reference: the errors of "
    "reconstruction and the codes of new rows are compared with those of held-out rows of the reference."
)

_LIMITS = (
    "It knows one reference. For rows of another subject its errors say nothing; a new reference needs a new version.",
    "Columns that never varied in the reference are not looked at; a change of those shows in the columns themselves.",
    "An error is no probability, and a large one is no fault of the row: it is unlike the rows of the reference.",
    "A category is seen as its share of the reference's rows: two categories of the same share look alike to it.",
)

_STILL_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CardText(card.CardText):
    """What the card says beside the numbers; see the runtime's `CardText`."""

    title: str = "Autoencoder of a reference"
    data: str = "Rows given by the user."
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
    settings, still = recipe["settings"], data["still"]
    lines = text.opening()
    lines += [
        f"{data['rows']:,} rows of {data['columns']:,} columns, {100 * data['null_share']:.1f} % of the values null; "
        f"{split['train']:,} rows trained it, {split['held_out']:,} were held out, by chance.",
        "",
    ]
    if still:
        more = f" and {len(still) - _STILL_SHOWN:,} more" if len(still) > _STILL_SHOWN else ""
        lines += [f"Columns that never vary: {', '.join(still[:_STILL_SHOWN])}{more}.", ""]
    lines += [
        "## Errors on the rows held out",
        "",
        "In variances of the reference's columns: 1 is what a guess of the mean would get.",
        "",
        "| method | mean | median | 99 % below |",
        "| --- | --- | --- | --- |",
        f"| **this model** | {card.number(test['error'])} | {card.number(test['error_median'])} | "
        f"{card.number(test['error_99'])} |",
        f"| as many principal components | {card.number(test['error_of_components'])} | - | - |",
        "",
    ]
    if card.is_less(test["error_of_components"], test["error"]):
        lines += ["**A plain method rebuilds rows better here**: principal components.", ""]
    lines += text.limit_lines()
    lines += [
        "## Recipe",
        "",
        f"Principal components, and beside them a hidden layer of {settings['hidden']} on either side of a code of "
        f"{recipe['numbers']} numbers ({recipe['parameters']:,} parameters). Columns are centred at the median, scaled "
        f"by quartiles and clipped at 8, nulls are 0; {100 * settings['blanks']:.0f} % of the values are blanked and "
        f"noise of {settings['noise']:g} is added while training. Best of {recipe['epochs_run']} epochs on a tenth of "
        f"the training rows: {recipe['best_epoch']} (0: the components alone); batches of {settings['batch_rows']}, "
        f"learning rate {settings['learning_rate']:g}, seed {settings['seed']}.",
        "",
    ]
    if text.notes:
        lines += ["## Notes", "", text.notes, ""]
    return "\n".join(lines)
