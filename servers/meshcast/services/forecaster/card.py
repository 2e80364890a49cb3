"""Model card of a forecaster: what it was trained on, how it scores beside plain methods, and what it is not for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from meshcast.runtime import card
from meshcast.runtime.card import number

__all__ = ["CardText", "render_card"]

_WINDOWS_MIN = 30  # fewer say nothing about coverage

_INTENDED_USE = (
    "To forecast daily series (views, reactions, sales, visits: anything counted or measured once a day) up to 90 days "
    "ahead, each day with the range that it will fall into, from 14 or more days of history."
)

_LIMITS = (
    "It knows weekdays and the time of the year, but no holidays by name and no plans: a campaign or a closed day that "
    "has not shown in the history comes as a surprise.",
    "Intervals were calibrated on days that training did not see and hold as long as series behave as they did then; "
    "recorded actual values adapt them to a series that has changed.",
    "Values are daily. Hourly, weekly or monthly series are another model's business.",
    "Of the history the newest 112 days count, and the same season a year before; older days change nothing.",
    "It forecasts; it does not explain. A trend that goes on in the forecast need not have a reason to.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardText(card.CardText):
    """What the card says beside the numbers; see the runtime's `CardText`."""

    title: str = "Forecaster of daily series"
    data: str = "Series given by the user, and made-up series."
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
    settings, mase = recipe["settings"], test["mase"]
    lines = text.opening()
    lines += [
        f"{data['series']:,} series of {data['days']:,} days altogether, {_day(data['first_day'])} to "
        f"{_day(data['last_day'])}; {100 * data['missing_share']:.1f} % of the days have no value. Each series is "
        f"split by time: {split['training_days']:,} days train, {split['validation_windows']:,} later windows choose "
        f"the step and calibrate, {split['test_windows']:,} windows after those only score. "
        f"{100 * settings['synthetic_share']:.0f} % of what training saw were made-up series.",
        "",
        "## Scores on the test part",
        "",
        f"Mean absolute scaled error (MASE, season 7) of the 14 days after each of {test['windows']:,} origins, 14 "
        "days apart. The scale is the mean absolute difference to the week before, over all of the history.",
        "",
        "| method | MASE |",
        "| --- | --- |",
        *(f"| {'**this model**' if name == 'model' else name} | {number(value)} |" for name, value in mase.items()),
        "",
        "## Intervals on the test part",
        "",
        "Widths are in units of the same scale, averaged over days and windows.",
        "",
        "| interval | covered | mean width | median width |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {_percent(level['covered'])} | {number(level['width'])} | {number(level['width_median'])} |"
            for name, level in test["coverage"].items()
        ),
        "",
    ]
    worse = [name for name, value in mase.items() if name != "model" and card.is_less(value, mase["model"])]
    if worse:
        lines += [f"**A plain method does better here**: {', '.join(worse)}.", ""]
    few = test["windows"] < 200  # then coverage is known to five points at best
    judged = test["windows"] >= _WINDOWS_MIN
    off = [
        name
        for name, level in test["coverage"].items()
        if judged and level["covered"] is not None and abs(level["covered"] - level["stated"]) > (0.05 if few else 0.03)
    ]
    if off:
        lines += [
            f"**Off by more than it should be** ({5 if few else 3} points of coverage): the {', the '.join(off)} "
            "interval.",
            "",
        ]
    if few:
        lines += [f"All of these figures are rough: the test part has {test['windows']:,} windows.", ""]
    lines += text.limit_lines()
    begun = "the weights that ship" if recipe["started_from_shipped"] else "nothing"
    lines += [
        "## Recipe",
        "",
        "A few dozen plain forecasts are computed in the graph; a GRU reads 16 weeks, each day ahead attends over what "
        "it read, and a head mixes the plain forecasts, corrects them and puts nine quantiles around them; "
        f"{recipe['parameters']:,} parameters. Pinball loss in units of each series' own spread; "
        f"{settings['steps']:,} steps of {settings['batch_rows']} windows from {begun}, the best at step "
        f"{recipe['best_step']:,}; learning rate {settings['learning_rate']:g}, dropout {settings['dropout']:g}, "
        f"averaged weights (decay {settings['averaging']:g}), seed {settings['seed']}. Windows are disturbed: days "
        "missing, short histories, other trends and levels, mixtures. Intervals: conformalised quantile regression by "
        "level and day of the horizon, inside the exported graph.",
        "",
    ]
    if text.notes:
        lines += [text.notes, ""]
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _day(day: int) -> str:
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()
