"""Model of the predictor: settled posts and a plan go in, engagement with calibrated intervals and confidence come out.

Two LSTM layers read the history, a small network reads the plan and the channel's summaries, and one head joins them.
Everything between raw features and calibrated answers is a layer or a buffer of the module, so its exported graph needs
no code beside it. Levels enter only relative to the channel's own median: a channel a thousand times larger, with the
same ups and downs, gets the same answer a thousand times larger.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from meshcast.services.predictor.features import HISTORY_FEATURES, PLANNED_FEATURES, STEPS

__all__ = ["LEVELS", "OUTPUTS", "EngagementModel", "Residual", "example_inputs"]

LEVELS = (0.025, 0.10, 0.90, 0.975)
"""Levels of `quantiles`: the ends of the 95 % interval outside, those of the 80 % interval inside."""

OUTPUTS = ("log_engagement", "quantiles", "confidence")
"""Names of the graph's outputs, in its order."""

_HISTORY = {name: k for k, name in enumerate(HISTORY_FEATURES)}
_PLANNED = {name: k for k, name in enumerate(PLANNED_FEATURES)}
_COUNTS = slice(_HISTORY["log_views"], _HISTORY["log_reactions"] + 1)
_MISSING = slice(_HISTORY["views_missing"], _HISTORY["reactions_missing"] + 1)
_LEVEL = _HISTORY["log_engagement"]
_MEDIAN = _PLANNED["window_quantile_500"]
_SPREAD = _PLANNED["window_spread"]
_LEVEL_COLUMNS = [
    k
    for name, k in _PLANNED.items()
    if name in ("recent_median", "recent_mean", "newest_mean", "window_mean") or name.startswith("window_quantile_")
]
_CLOCK = (_PLANNED["hour_of_day"], _PLANNED["day_of_week"])
_AFTER_CLOCK = max(_CLOCK) + 1

_SEQUENCE_COLUMNS = 20
_PLAN_COLUMNS = len(PLANNED_FEATURES) - 2 + 6
_CLIP = 6.0  # standard deviations; a freak count must not drive the LSTM into saturation
_SPREAD_RANGE = (0.2, 3.0)  # log1p units; a channel that never varies still gets an interval
_FACTOR_MIN = 0.05


class Residual(NamedTuple):
    """What the network says relative to the channel's median, before calibration.

    Attributes:
        shift: shape (B, 1), expected engagement less the median, log1p units.
        widths: shape (B, 4), all positive: from the middle down to level .10, on to .025, up to .90, on to .975.
        logit: shape (B,), log odds of being above the recent median.
    """

    shift: Tensor
    widths: Tensor
    logit: Tensor

    def offsets(self) -> Tensor:
        """Distance of the four `LEVELS` from the middle, (B, 4), ascending."""
        inner_low, outer_low, inner_high, outer_high = (self.widths[:, k : k + 1] for k in range(4))
        return torch.cat([-inner_low - outer_low, -inner_low, inner_high, inner_high + outer_high], dim=1)


class EngagementModel(nn.Module):
    """Engagement of a planned post, with calibrated intervals and confidence.

    Args:
        units: width of the two LSTM layers and of what the head joins.
        hidden: width of the networks for the plan and of the head.
        dropout: share of units left out while training.
    """

    history_mean: Tensor
    history_scale: Tensor
    planned_mean: Tensor
    planned_scale: Tensor
    level_columns: Tensor
    interval_factors: Tensor
    confidence_line: Tensor

    def __init__(self, *, units: int = 64, hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        levels = torch.zeros(len(PLANNED_FEATURES))
        levels[_LEVEL_COLUMNS] = 1.0
        self.register_buffer("level_columns", levels)
        self.register_buffer("history_mean", torch.zeros(_SEQUENCE_COLUMNS))
        self.register_buffer("history_scale", torch.ones(_SEQUENCE_COLUMNS))
        self.register_buffer("planned_mean", torch.zeros(_PLAN_COLUMNS))
        self.register_buffer("planned_scale", torch.ones(_PLAN_COLUMNS))
        self.register_buffer("interval_factors", torch.ones(len(LEVELS)))
        self.register_buffer("confidence_line", torch.tensor([1.0, 0.0]))
        self.lstm = nn.LSTM(_SEQUENCE_COLUMNS, units, num_layers=2, batch_first=True, dropout=dropout)
        self.plan = nn.Sequential(
            nn.Linear(_PLAN_COLUMNS, 3 * hidden // 4),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(3 * hidden // 4, units),
            nn.SiLU(),
        )
        last = nn.Linear(units, 2 + len(LEVELS))
        with torch.no_grad():  # start at the channel's median with the spread of its own history
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.head = nn.Sequential(
            nn.Linear(2 * units, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, units), nn.SiLU(), last
        )

    def forward(self, history: Tensor, mask: Tensor, planned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Calibrated answers.

        Args:
            history: shape (B, 24, F), float32, columns `HISTORY_FEATURES`, newest post last.
            mask: shape (B, 24), float32, 1 = a post, 0 = padding.
            planned: shape (B, P), float32, columns `PLANNED_FEATURES`.

        Returns:
            Engagement (B,) and its quantiles at `LEVELS` (B, 4), ascending, both log1p(count); confidence (B,), the
            probability of being above `recent_median`.
        """
        answer = self.residual(history, mask, planned)
        middle = planned[:, _MEDIAN : _MEDIAN + 1] + answer.shift
        offsets = answer.offsets() * self.interval_factors
        low, high = offsets[:, 1:2], offsets[:, 2:3]
        outer_low, outer_high = torch.minimum(offsets[:, :1], low), torch.maximum(offsets[:, 3:], high)
        quantiles = middle + torch.cat([outer_low, low, high, outer_high], dim=1)
        confidence = torch.sigmoid(answer.logit * self.confidence_line[0] + self.confidence_line[1])
        return torch.relu(middle[:, 0]), torch.relu(quantiles), confidence

    def residual(self, history: Tensor, mask: Tensor, planned: Tensor) -> Residual:
        """The uncalibrated answer relative to the channel's median: what training works on. Arguments as `forward`."""
        sequence = (self._sequence(history, planned) - self.history_mean) * self.history_scale
        plan = (self._plan(planned) - self.planned_mean) * self.planned_scale
        read, _ = self.lstm(sequence.clamp(-_CLIP, _CLIP) * mask[:, :, None])
        out = self.head(torch.cat([read[:, -1], self.plan(plan.clamp(-_CLIP, _CLIP))], dim=1))
        spread = planned[:, _SPREAD : _SPREAD + 1].clamp(*_SPREAD_RANGE)
        return Residual(out[:, :1], (nn.functional.softplus(out[:, 1:-1] + 0.5) + 1e-3) * spread, out[:, -1])

    @torch.no_grad()
    def fit_scaling(self, history: Tensor, mask: Tensor, planned: Tensor) -> None:
        """Sets the standardisation from training rows; a column that never varies is switched off."""
        real = self._sequence(history, planned)[mask > 0]
        for name, values in (("history", real), ("planned", self._plan(planned))):
            spread, mean = torch.std_mean(values, dim=0)
            varies = spread > 1e-4
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_scale").copy_(torch.where(varies, 1 / spread.clamp(min=1e-4), 0.0))
        # The last column is 1 for a post and, after masking, 0 for padding; scaled it would be 0 for both.
        self.history_mean[-1], self.history_scale[-1] = 0.0, 1.0

    @torch.no_grad()
    def set_calibration(self, *, interval_factors: Tensor, confidence_line: Tensor) -> None:
        """Sets the factors of the four offsets, (4,), and slope and intercept of the log odds, (2,)."""
        self.interval_factors.copy_(interval_factors.clamp(min=_FACTOR_MIN))
        self.confidence_line.copy_(confidence_line)

    def _sequence(self, history: Tensor, planned: Tensor) -> Tensor:
        """Each post relative to the channel's median and to the plan, (B, 24, columns)."""
        level = history[:, :, _LEVEL : _LEVEL + 1]
        missing = history[:, :, _MISSING]
        shares = (history[:, :, _COUNTS] - level) * (1 - missing)
        hour = history[:, :, _HISTORY["hour_of_day"]] * (math.tau / 24)
        day = history[:, :, _HISTORY["day_of_week"]] * (math.tau / 7)
        length = history[:, :, _HISTORY["log_content_length"]]
        media = history[:, :, _HISTORY["has_media"]]
        age = history[:, :, _HISTORY["log_age_hours"]]
        plan = {name: planned[:, k : k + 1] for name, k in _PLANNED.items()}
        alike = [
            torch.cos(hour - plan["hour_of_day"] * (math.tau / 24)),
            (length - plan["log_content_length"]).abs(),
            1 - (media - plan["has_media"]).abs(),
        ]
        clock = [torch.sin(hour), torch.cos(hour), torch.sin(day), torch.cos(day)]
        rest = torch.stack([*clock, length, media, age, *alike, torch.ones_like(age)], dim=2)
        return torch.cat([level - planned[:, None, _MEDIAN : _MEDIAN + 1], shares, missing, rest], dim=2)

    def _plan(self, planned: Tensor) -> Tensor:
        """The plan and the channel's summaries, levels relative to the median, (B, columns)."""
        hour = planned[:, _CLOCK[0] : _CLOCK[0] + 1] * (math.tau / 24)
        day = planned[:, _CLOCK[1] : _CLOCK[1] + 1] * (math.tau / 7)
        relative = planned - planned[:, _MEDIAN : _MEDIAN + 1] * self.level_columns
        clock = [torch.sin(hour), torch.cos(hour), torch.sin(2 * hour), torch.cos(2 * hour)]
        return torch.cat([*clock, torch.sin(day), torch.cos(day), relative[:, _AFTER_CLOCK:]], dim=1)


def example_inputs(rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the right shapes for an export; at least two rows, since one would freeze the batch at 1."""
    generator = torch.Generator().manual_seed(0)
    history = torch.rand(rows, STEPS, len(HISTORY_FEATURES), generator=generator)
    return history, torch.ones(rows, STEPS), torch.rand(rows, len(PLANNED_FEATURES), generator=generator)
