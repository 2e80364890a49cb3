"""Model of the forecaster: past values go in, calibrated quantiles of every day of the horizon come out, in one pass.

The graph computes a few dozen plain forecasts (levels that forget at several speeds, seasons over one to many cycles,
damped trends, last year's course). A GRU reads the history a season a step, every day of the horizon attends over what
it read, and a head mixes the plain forecasts, adds a bounded correction and puts quantiles around it. All of it works
in units of the series' own level and spread, on a logarithmic scale where a series cannot be negative, so a series a
thousand times larger gets the same forecast a thousand times larger. Days are the case at hand; the length of a season
is an argument, and with it months and quarters work alike.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from meshcast.services.forecaster.features import HISTORY, HORIZON, LAST_YEAR, REFERENCE
from meshcast.services.forecaster.signature import LEVELS

__all__ = ["MEDIAN", "OUTPUTS", "ForecastModel", "Units", "example_inputs"]

MEDIAN = LEVELS.index(0.5)

OUTPUTS = ("quantiles",)
"""Names of the graph's outputs, in its order."""

_FLOOR = 0.1  # share of the mean level that is added before the logarithm, so that a zero is not minus infinity
_SPREAD_MIN = 1e-4  # share of the level; a series that never varies still gets an interval
_CLIP = 6.0  # spreads; a freak value must not drive the networks into saturation
_CORRECTION_MAX = 2.0  # spreads that the head may move away from the mix of plain forecasts
_LOG_MAX = 9.0  # log of the largest multiple of the mean level that is ever forecast
_TINY = 1e-6

_CYCLES = (1, 2, 4, 8, 16)  # cycles behind each seasonal mean
_DECAYS = (0.8, 0.4, 0.2, 0.1, 0.05, 0.02)  # of the levels, a step
_TRENDS = (0.1, 0.04, 0.015)  # decays of the weights behind each slope
_DAMPING = (0.9, 0.98)
_SHAPE = (0.5, 1.0, 1.5, 2.0, 3.0, 4.5)  # mean deviations; the share beyond each tells heavy tails from light ones


class Units(NamedTuple):
    """What a row is measured in, (B, 1) each.

    Attributes:
        centre: middle of the history in units of `level`, after the logarithm where the series is non-negative.
        spread: its standard deviation there.
        level: mean absolute value, in the unit of the series.
    """

    centre: Tensor
    spread: Tensor
    level: Tensor


class Plain(NamedTuple):
    """What is computed of a row without any weights, in spreads around its centre.

    Attributes:
        flat: shape (B, history), the history without its season.
        deviation: shape (B, cycles, period), of each step from the level of its cycle.
        seasons: shape (B, 2, period), effects of the place in the season: over all cycles, and of the newest ones.
        means: shape (B, count, horizon), means of the same place over one to many cycles.
        fallback: shape (B, period), level and season.
        levels: shape (B, 6), of `flat`, forgetting fast to slowly.
        noise: shape (B, 1), mean distance of `flat` from its slow level.
        slope: shape (B, 3), a step, of lines through `flat` that forget fast to slowly.
        line: shape (B, 3), where those lines stand at the newest step.
        line_gap: shape (B, 3), mean distance of `flat` from them.
    """

    flat: Tensor
    deviation: Tensor
    seasons: Tensor
    means: Tensor
    fallback: Tensor
    levels: Tensor
    noise: Tensor
    slope: Tensor
    line: Tensor
    line_gap: Tensor

    @property
    def slow(self) -> Tensor:
        """Shape (B, 1), the level of the last weeks."""
        return self.levels[:, -2:-1]

    @property
    def quick(self) -> Tensor:
        """Shape (B, 1), the level of the last days."""
        return self.levels[:, 2:3]


class ForecastModel(nn.Module):
    """Quantiles of the days ahead.

    Args:
        history: steps of the history, a multiple of `period`.
        horizon: steps that are decoded.
        period: steps of a season; 1 where there is none.
        units: width of the GRU.
        hidden: width of the head.
        heads: heads of the attention.
        dropout: share of the head's units left out while training.
    """

    factors: Tensor
    ages: Tensor
    ahead: Tensor
    clock: Tensor
    damped: Tensor
    level_weights: Tensor
    mean_weights: Tensor
    season_weights: Tensor
    trend_weights: Tensor

    def __init__(
        self,
        *,
        history: int = HISTORY,
        horizon: int = HORIZON,
        period: int = 7,
        units: int = 96,
        hidden: int = 128,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if history % period:
            raise ValueError(f"history {history} is no multiple of the period {period}")
        self.history, self.horizon, self.period = history, horizon, period
        self.units, self.heads = units, heads
        cycles = history // period
        self.cycles = tuple(dict.fromkeys(min(count, cycles) for count in _CYCLES))
        ages = torch.arange(history - 1, -1, -1, dtype=torch.float32)
        decays = torch.tensor(_DECAYS)[:, None]
        ahead = torch.arange(1, horizon + 1, dtype=torch.float32)
        cycle_ages = torch.arange(cycles - 1, -1, -1, dtype=torch.float32)
        self._constant("ages", ages)
        self._constant("level_weights", decays * (1 - decays) ** ages)
        self._constant("trend_weights", (1 - torch.tensor(_TRENDS)[:, None]) ** ages)
        self._constant("mean_weights", torch.stack([(cycle_ages < count).float() for count in self.cycles]))
        self._constant("season_weights", torch.stack([torch.ones(cycles), 0.7**cycle_ages]))
        self._constant("ahead", ahead)
        # what a slope adds up to when each step keeps a share of the last
        self._constant("damped", torch.stack([(phi - phi ** (ahead + 1)) / (1 - phi) for phi in _DAMPING]))
        clock = [ahead / horizon, torch.log(ahead) / math.log(max(horizon, 2))]
        clock += [torch.exp(-ahead / span) for span in (2.0, 7.0, 30.0)]
        self._constant("clock", torch.stack(clock, dim=1))
        self.register_buffer("factors", torch.ones(horizon, len(LEVELS)))

        columns = 4 * period + 5
        facts = 4 * len(_TRENDS) + 11 + 2 * len(_SHAPE) + 4
        self.candidates = len(self.cycles) + 1 + 3 * len(_DECAYS) + 2 * len(_TRENDS) + 1 + 4
        beside = self.clock.shape[1] + 7 + 8 + 2
        self.gru = nn.GRU(columns, units, batch_first=True)
        self.summary = nn.Linear(units + facts, hidden)
        self.query = nn.Linear(beside, units)
        self.key = nn.Linear(units, units)
        self.value = nn.Linear(units, units)
        self.own = nn.Linear(self.candidates + beside, hidden)
        self.read = nn.Linear(units, hidden)
        last = nn.Linear(hidden, self.candidates + 1 + len(LEVELS) - 1)
        with torch.no_grad():  # start near an even mix of the plain forecasts
            last.weight.mul_(0.3)
            last.bias.zero_()
        self.head = nn.Sequential(
            nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.SiLU(), nn.Dropout(dropout), last
        )

    def forward(
        self,
        history: Tensor,
        mask: Tensor,
        last_year: Tensor,
        last_year_mask: Tensor,
        calendar: Tensor,
        nonnegative: Tensor,
    ) -> Tensor:
        """Calibrated quantiles.

        Args:
            history: shape (B, history), float32, in the unit of the series, newest last, 0 where missing.
            mask: shape (B, history), float32, 1 = a value.
            last_year: shape (B, 119), float32, the days from 393 to 275 before the first forecast day, 0 where missing.
            last_year_mask: shape (B, 119), float32, 1 = a value.
            calendar: shape (B, 2), float32, weekday (Monday 0) and day of the year (0 first) of the first forecast day.
            nonnegative: shape (B,), float32, 1 where the series is declared never to fall below 0.

        Returns:
            Shape (B, horizon, 9), float32, quantiles at `LEVELS` in the unit of the series, ascending; none below 0
            where the series is declared so.
        """
        inputs = (history, mask, last_year, last_year_mask, calendar, nonnegative)
        middle, offsets, units = self.scaled(inputs)
        return self.unscaled(middle[:, :, None] + self._calibrated(offsets), units, nonnegative)

    def scaled(self, inputs: tuple[Tensor, ...], ahead: Tensor | None = None) -> tuple[Tensor, Tensor, Units]:
        """The uncalibrated answer in spreads around the series' centre: what training works on.

        Args:
            inputs: those of `forward`, in order.
            ahead: shape (h,), int64, 0-based days of the horizon to decode; None decodes all.

        Returns:
            The median (B, h); distances of the quantiles from it (B, h, 9), 0 at the median; the row's units.
        """
        history, mask, last_year, last_year_mask, calendar, nonnegative = inputs
        flag = nonnegative[:, None]
        units = self._units(history, mask, flag)
        past = (self._compressed(history / units.level, flag) - units.centre) / units.spread * mask

        plain = self._plain(past, mask)
        year, year_known = self._year(last_year, last_year_mask, flag, units)
        # Where last year is unknown, the mean of four cycles stands in.
        stand_in = plain.means[:, min(2, len(self.cycles) - 1), None]
        candidates = torch.cat(
            [
                self._forecasts(plain, self._arithmetic_mean(history, mask, flag, units, plain)),
                torch.where(year_known > 0, plain.slow[:, None] + year, stand_in),
                torch.where(
                    year_known[:, 2:3] > 0,
                    plain.quick[:, None] + year[:, 2:3] + self._ahead(plain.seasons[:, :1]),
                    stand_in,
                ),
            ],
            dim=1,
        ).transpose(1, 2)  # (B, horizon, candidates)

        beside = self._beside(calendar, year_known, plain.noise)
        if ahead is not None:
            candidates, beside = candidates[:, ahead], beside[:, ahead]

        states, _ = self.gru(self._sequence(past, mask, plain.deviation, calendar, flag, units))
        summary = self.summary(torch.cat([states[:, -1], self._facts(past, mask, history, flag, units, plain)], dim=1))
        context = self._attended(beside, states)
        relative = (candidates - plain.levels[:, 3:4, None]).clamp(-_CLIP, _CLIP)
        out = self.head(self.own(torch.cat([relative, beside], dim=2)) + self.read(context) + summary[:, None])
        count = self.candidates
        mixed = (torch.softmax(out[:, :, :count], dim=2) * candidates).sum(dim=2)
        middle = mixed + _CORRECTION_MAX * torch.tanh(out[:, :, count] / _CORRECTION_MAX)
        widths = (nn.functional.softplus(out[:, :, count + 1 :]) + 1e-3) * plain.noise[:, None]
        return middle, _offsets(widths), units

    def unscaled(self, values: Tensor, units: Units, nonnegative: Tensor) -> Tensor:
        """Values in the unit of the series, from spreads around the centre; (B, h, k) both, `nonnegative` (B,)."""
        z = values * units.spread[:, :, None] + units.centre[:, :, None]
        raised = torch.relu(torch.exp(z.clamp(max=_LOG_MAX)) - _FLOOR)
        return torch.where(nonnegative[:, None, None] > 0, raised, z) * units.level[:, :, None]

    def rescaled(self, values: Tensor, units: Units, nonnegative: Tensor) -> Tensor:
        """What came, in spreads around the centre: the inverse of `unscaled`, (B, h) to (B, h)."""
        return (self._compressed(values / units.level, nonnegative[:, None]) - units.centre) / units.spread

    @torch.no_grad()
    def set_factors(self, factors: Tensor) -> None:
        """Sets what the distances from the median are multiplied with, (horizon, 9); at the median it has no effect."""
        self.factors.copy_(factors.clamp(min=0.05))

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def _calibrated(self, offsets: Tensor) -> Tensor:
        stretched = offsets * self.factors
        parts = list(stretched.unbind(dim=2))
        for k in range(MEDIAN - 1, -1, -1):
            parts[k] = torch.minimum(parts[k], parts[k + 1])
        for k in range(MEDIAN + 1, len(LEVELS)):
            parts[k] = torch.maximum(parts[k], parts[k - 1])
        return torch.stack(parts, dim=2)

    @staticmethod
    def _compressed(relative: Tensor, flag: Tensor) -> Tensor:
        return torch.where(flag > 0, torch.log(torch.relu(relative) + _FLOOR), relative)

    def _folded(self, values: Tensor) -> Tensor:
        return values.reshape(-1, self.history // self.period, self.period)

    def _ahead(self, season: Tensor) -> Tensor:
        """A value a step of the season, (B, ..., period), laid out over the horizon, (B, ..., horizon)."""
        times = -(-self.horizon // self.period)
        return season.repeat(*([1] * (season.dim() - 1)), times)[..., : self.horizon]

    def _units(self, history: Tensor, mask: Tensor, flag: Tensor) -> Units:
        """What the row is measured in."""
        level = _mean(history.abs(), mask)
        level = torch.where(level > 0, level, torch.ones_like(level))
        z = self._compressed(history / level, flag)
        # Newer days weigh more in the centre, so that a grown series is not read far off its scale.
        weights = mask * (0.1 + torch.exp(-self.ages * (4.0 / self.history)))
        total = weights.sum(dim=1, keepdim=True).clamp(min=_TINY)
        centre = (z * weights).sum(dim=1, keepdim=True) / total
        variance = ((z - centre) ** 2 * weights).sum(dim=1, keepdim=True) / total
        # Not `+ _SPREAD_MIN**2`: the exporter takes an addition of 1e-8 for one of 0 and leaves it out.
        return Units(centre, torch.sqrt(variance.clamp(min=_SPREAD_MIN**2)), level)

    def _plain(self, past: Tensor, mask: Tensor) -> Plain:
        """Levels, seasons and trends of a past that is in spreads around its centre, (B, history)."""
        weeks, known = self._folded(past), self._folded(mask)
        week_known = known.sum(dim=2, keepdim=True)
        week_level = (weeks * known).sum(dim=2, keepdim=True) / week_known.clamp(min=1.0)
        full = known * (week_known > self.period / 2).float()
        deviation = (weeks - week_level) * full

        # Effects of the place in the season, drawn to 0 where few cycles speak for them.
        season_sum = torch.einsum("sc,bcp->bsp", self.season_weights, deviation)
        season_weight = torch.einsum("sc,bcp->bsp", self.season_weights, full)
        seasons = season_sum / (season_weight + torch.tensor([[[1.0], [0.5]]]))
        flat = (past - seasons[:, 0].repeat(1, self.history // self.period)) * mask

        level_weights = self.level_weights[None] * mask[:, None]
        total = level_weights.sum(dim=2).clamp(min=_TINY)
        levels = (level_weights * flat[:, None]).sum(dim=2) / total
        noise = ((flat - levels[:, -2:-1]).abs() * level_weights[:, -1]).sum(dim=1, keepdim=True) / total[:, -1:] + 0.05

        # Weighted least squares of a line through the deseasonalised history, drawn to flat by a few steps' weight.
        weights = self.trend_weights[None] * mask[:, None]
        total = weights.sum(dim=2).clamp(min=_TINY)
        time = -self.ages / self.period
        time_mean, value_mean = (weights * time).sum(dim=2) / total, (weights * flat[:, None]).sum(dim=2) / total
        away = time - time_mean[:, :, None]
        slope = (weights * away * (flat[:, None] - value_mean[:, :, None])).sum(dim=2)
        slope = (slope / ((weights * away * away).sum(dim=2) + 0.5)).clamp(-2.0, 2.0) / self.period
        line = value_mean - slope * self.period * time_mean
        gaps = (flat[:, None] - line[:, :, None] - slope[:, :, None] * -self.ages).abs() * weights

        # Means of the same place in the season; what no cycle knows falls back to level and season.
        mean_sum = torch.einsum("kc,bcp->bkp", self.mean_weights, weeks * known)
        mean_weight = torch.einsum("kc,bcp->bkp", self.mean_weights, known)
        fallback = levels[:, 3:4] + seasons[:, 0]
        means = torch.where(mean_weight > 0, mean_sum / mean_weight.clamp(min=1.0), fallback[:, None])
        return Plain(
            flat=flat,
            deviation=deviation,
            seasons=seasons,
            means=self._ahead(means),
            fallback=fallback,
            levels=levels,
            noise=noise,
            slope=slope,
            line=line,
            line_gap=gaps.sum(dim=2) / total,
        )

    def _arithmetic_mean(self, history: Tensor, mask: Tensor, flag: Tensor, units: Units, plain: Plain) -> Tensor:
        """Mean of the same place in the last four cycles, taken before any logarithm, (B, horizon)."""
        recent = min(4, self.history // self.period)
        known = self._folded(mask)[:, -recent:]
        raw = (self._folded(history / units.level)[:, -recent:] * known).sum(dim=1)
        mean = self._compressed(raw / known.sum(dim=1).clamp(min=1.0), flag)
        mean = (mean - units.centre) / units.spread
        return self._ahead(torch.where(known.sum(dim=1) > 0, mean, plain.fallback))

    def _forecasts(self, plain: Plain, arithmetic_mean: Tensor) -> Tensor:
        """The plain forecasts that need nothing but the history, (B, count, horizon)."""
        season = self._ahead(plain.seasons)
        levels, slope, quick = plain.levels[:, :, None], plain.slope[:, :, None], plain.quick[:, :, None]
        damped = self.damped[None, :, None] * slope[:, None]  # (B, damping, trend, horizon)
        return torch.cat(
            [
                plain.means,
                arithmetic_mean[:, None],
                levels + season[:, :1],
                levels + season[:, 1:],
                levels + 0.0 * self.ahead,
                plain.line[:, :, None] + damped[:, 0] + season[:, :1],
                quick + damped[:, 1] + season[:, :1],
                quick + 0.5 * slope[:, -1:] * self.ahead + season[:, :1],  # theta
            ],
            dim=1,
        )

    def _facts(self, past: Tensor, mask: Tensor, history: Tensor, flag: Tensor, units: Units, plain: Plain) -> Tensor:
        """What is known of the row as a whole, (B, facts): its trend, noise, the shape of its errors, its gaps."""
        flat, levels = plain.flat, plain.levels
        # Smooth steps: at a hard one, rounding alone would tell one back-end from another.
        off = ((flat - plain.slow) / plain.noise)[:, None]
        bounds = torch.tensor(_SHAPE)[None, :, None]
        beyond = torch.cat([torch.sigmoid(6.0 * (side * off - bounds)) for side in (1.0, -1.0)], dim=1)
        shape = (beyond * mask[:, None]).sum(dim=2) / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        both = mask[:, 1:] * mask[:, :-1]
        facts = [
            4.0 * shape,
            *_backtests(self._folded(past), self._folded(mask)),
            plain.slope * self.period,
            plain.line - plain.slow,
            plain.line_gap,
            levels[:, :1] - levels[:, 1:4],
            plain.noise,
            _mean((flat[:, 1:] - flat[:, :-1]).abs(), both),
            plain.seasons[:, 0].abs().mean(dim=1, keepdim=True),
            _mean(flat.clamp(-_CLIP, _CLIP) ** 3, mask) / 10.0,
            torch.log(units.spread) / 3.0,
            _mean((history.abs() <= 0).float(), mask),
            mask.mean(dim=1, keepdim=True),
            mask[:, -4 * self.period :].mean(dim=1, keepdim=True),
            mask[:, -self.period :].mean(dim=1, keepdim=True),
            flag,
            (self.level_weights[3] * mask).sum(dim=1, keepdim=True),
        ]
        return torch.cat(facts, dim=1).clamp(-_CLIP, _CLIP)

    def _year(self, values: Tensor, mask: Tensor, flag: Tensor, units: Units) -> tuple[Tensor, Tensor]:
        """Last year's course over the horizon less its level opposite the newest days: by weekday, by date, smoothed.

        Returns:
            Shape (B, 3, horizon) each: spreads, and 1 where it is known.
        """
        if self.period != 7:
            nothing = (torch.zeros_like(values[:, :1, None]) * self.ahead).repeat(1, 3, 1)
            return nothing, nothing
        own = _mean(values.abs(), mask)
        own = torch.where((own > 0) & (flag > 0), own, units.level)  # in a logarithm last year's own level cancels
        z = self._compressed(values / own, flag) / units.spread * mask
        opposite = slice(1, 1 + REFERENCE)
        z = (z - _mean(z[:, opposite], mask[:, opposite])) * mask
        total = nn.functional.avg_pool1d(z[:, None], 7, stride=1, padding=3)[:, 0]
        share = nn.functional.avg_pool1d(mask[:, None], 7, stride=1, padding=3)[:, 0]
        smooth = total / share.clamp(min=0.1)
        enough = (mask[:, opposite].sum(dim=1, keepdim=True) >= 7).float()
        by_weekday = slice(1 + REFERENCE, 1 + REFERENCE + self.horizon)
        by_date = slice(REFERENCE, REFERENCE + self.horizon)
        year = torch.stack([z[:, by_weekday], z[:, by_date], smooth[:, by_weekday]], dim=1)
        known = [mask[:, by_weekday], mask[:, by_date], (share[:, by_weekday] > 0.5).float()]
        year_known = torch.stack(known, dim=1) * enough[:, :, None]
        return year.clamp(-4 * _CLIP, 4 * _CLIP) * year_known, year_known

    def _beside(self, calendar: Tensor, year_known: Tensor, noise: Tensor) -> Tensor:
        """What is known of each day ahead beside the plain forecasts, (B, horizon, columns)."""
        weekday = torch.remainder(calendar[:, :1] + self.ahead - 1, 7.0)
        weekdays = (weekday[:, :, None] - torch.arange(7.0)).abs() < 0.5
        angle = (calendar[:, 1:2] + self.ahead - 1) * (math.tau / 365.25)
        waves = torch.stack([f(k * angle) for k in (1, 2, 3, 6) for f in (torch.sin, torch.cos)], dim=2)
        clock = self.clock[None] + torch.zeros_like(waves[:, :, :1])
        known = year_known[:, 0:1].transpose(1, 2)
        size = torch.log(noise[:, :, None]) + torch.zeros_like(known)
        return torch.cat([clock, weekdays.float(), waves, known, size], dim=2)

    def _sequence(
        self, past: Tensor, mask: Tensor, deviation: Tensor, calendar: Tensor, flag: Tensor, units: Units
    ) -> Tensor:
        """The history a season a step, (B, cycles, columns)."""
        weeks, known = self._folded(past).clamp(-_CLIP, _CLIP), self._folded(mask)
        cycles = self.history // self.period
        place = torch.arange(float(self.period))
        weekday = torch.remainder(calendar[:, :1] + place, 7.0)
        weekend = (weekday > 4.5).float()[:, None].repeat(1, cycles, 1)
        back = (cycles - 1 - torch.arange(float(cycles)))[None, :, None] * 7.0
        angle = (calendar[:, 1:2, None] - back) * (math.tau / 365.25)
        level = (weeks * known).sum(dim=2, keepdim=True) / known.sum(dim=2, keepdim=True).clamp(min=1.0)
        flags = flag[:, :, None].repeat(1, cycles, 1)
        scale = (torch.log(units.spread) / 3.0)[:, :, None].repeat(1, cycles, 1)
        rest = [level, torch.sin(angle), torch.cos(angle), flags, scale]
        return torch.cat([weeks, known, deviation.clamp(-_CLIP, _CLIP), weekend, *rest], dim=2)

    def _attended(self, beside: Tensor, states: Tensor) -> Tensor:
        """What each day ahead reads in the states, (B, h, units)."""
        size = self.units // self.heads

        def split(x: Tensor, steps: int) -> Tensor:
            return x.reshape(-1, steps, self.heads, size).transpose(1, 2)

        steps, cycles = beside.shape[1], states.shape[1]
        query, key = split(self.query(beside), steps), split(self.key(states), cycles)
        weights = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(size), dim=3)
        read = weights @ split(self.value(states), cycles)
        return read.transpose(1, 2).reshape(-1, steps, self.units)


def example_inputs(rows: int = 2) -> tuple[Tensor, ...]:
    """Inputs of the right shapes for an export; at least two rows, since one would freeze the batch at 1."""
    generator = torch.Generator().manual_seed(0)
    history = torch.rand(rows, HISTORY, generator=generator) * 100
    last_year = torch.rand(rows, LAST_YEAR, generator=generator) * 100
    calendar = torch.tensor([[2.0, 100.0]]).repeat(rows, 1)
    return history, torch.ones_like(history), last_year, torch.ones_like(last_year), calendar, torch.ones(rows)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean of what is known of each row, (B, n) to (B, 1); 0 where nothing is."""
    return (values * known).sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp(min=1.0)


def _backtests(weeks: Tensor, known: Tensor) -> list[Tensor]:
    """How far the last cycle, and the mean of up to four before, were off in the past: by step and by cycle level."""
    if weeks.shape[1] < 2:
        nothing = torch.zeros_like(weeks[:, 0, :1])
        return [nothing] * 4
    count = known.sum(dim=2, keepdim=True)
    level = (weeks * known).sum(dim=2, keepdim=True) / count.clamp(min=1.0)
    found = []
    for values, there in ((weeks, known), (level, (count > 0).float())):
        last = (values[:, 1:] - values[:, :-1]).abs(), there[:, 1:] * there[:, :-1]
        total, held = _sum_of_four_before(values * there), _sum_of_four_before(there)
        mean = (values[:, 1:] - total / held.clamp(min=1.0)).abs(), there[:, 1:] * (held > 0).float()
        for miss, use in (last, mean):
            found.append((miss * use).sum(dim=(1, 2))[:, None] / use.sum(dim=(1, 2))[:, None].clamp(min=1.0))
    return found


def _sum_of_four_before(values: Tensor) -> Tensor:
    """Sums of up to four cycles before each but the first, (B, cycles, n) to (B, cycles - 1, n)."""
    sums = nn.functional.pad(torch.cumsum(values, dim=1), (0, 0, 4, 0))
    return sums[:, 4:-1] - sums[:, :-5]


def _offsets(widths: Tensor) -> Tensor:
    """Distances from the median, (B, h, 9), from the eight steps outwards, those below the median first."""
    below = torch.cumsum(widths[:, :, :MEDIAN], dim=2).flip(2)
    above = torch.cumsum(widths[:, :, MEDIAN:], dim=2)
    return torch.cat([-below, torch.zeros_like(widths[:, :, :1]), above], dim=2)
