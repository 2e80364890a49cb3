"""Performance drift: a Shiryaev-Roberts e-detector of losses that have risen, with a proven time to a false alarm.

With m the mean while all is well, each bet k multiplies its money by 1 + bet_k (x - m), which does not grow on average
where each loss x, given those before it, is m at most on average. Money is put in at every loss, M <- (M + 1) * factor,
and an alarm is raised when the weighted mean of M over the bets reaches the number of losses that are to pass before a
false alarm: M less the count of losses is a supermartingale, so the mean time to it is that number at least (Shin,
Ramdas and Rinaldo, E-detectors, arXiv 2203.03532). For losses of 0 and 1 the factor is the likelihood ratio.

Where m is not given it is learnt from a warm-up, as an upper bound that fails with chance `LEARN_CHANCE` at most; the
number that M has to reach is that much higher. Later losses make the bound tighter, at each doubling, but never raise
it: what a drift adds to the mean cannot leak in.

Losses that come in bursts break the condition above: neighbours tell of each other. The warm-up also tells whether the
sums of its blocks vary more than those of independent losses would; if so, all gains are divided by how much more, and
a bound counts that many fewer losses. Where a baseline is given nothing is known of bursts, and alarms come sooner;
`bench/drift_losses.py` has by how much.
"""

import json
import math
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from meshcast.rpc.errors import CorruptData
from meshcast.services.drift.baseline import upper_mean

__all__ = ["LEARN_CHANCE", "RECENT", "LossAlarm", "LossWatch"]

Floats = NDArray[np.float64]

LEARN_CHANCE = 0.1
"""Chance that a learnt upper bound of the mean is ever below it."""

RECENT = 1_000
"""Losses behind `LossWatch.recent`, and quiet ones after which an alarm no longer stands."""

_BLOCKS = 40  # of the warm-up, to see bursts by
_BLOCK_MIN = 5
_BURSTS_CHANCE = 0.05  # of seeing bursts where there are none
_RISES = (0.12, 0.2, 0.33, 0.6, 1.2)  # in standard deviations of the loss: each is seen by a bet of its own
_WEIGHTS = (0.3, 0.25, 0.2, 0.15, 0.1)
_ALL_IN = 0.9  # most of the money of a bet that a loss of 0 may take
_MEAN_MIN = 1e-9
_SEGMENT_MIN, _SEGMENT_MAX = 256, 4_096
_ANCHOR = 1 << 16  # positions at which sums begin anew, so that they stay exact; the same however a stream is cut
_FORMAT = 3
_HEAD = struct.Struct("<4sI")
_MAGIC = b"MCLW"
_PLAIN = (
    "loss_max", "warm_up", "losses_to_false_alarm", "is_learnt", "losses", "is_raised", "onset", "_mean", "_upper",
    "_checks", "_bursts", "_raised_at",
)  # fmt: skip


class LossAlarm(NamedTuple):
    """An alarm.

    Attributes:
        position: of the loss that raised it, from 0.
        onset: of the first loss of the rise, estimated: where the bet that won most would best have begun.
    """

    position: int
    onset: int


class LossWatch:
    """Watches losses, oldest first; the same losses give the same alarms and the same state however they are cut.

    Args:
        loss_max: largest loss that can be.
        baseline: mean loss while all is well, 0 to `loss_max`; None: learnt.
        warm_up: losses that it is learnt from at first; no alarm is raised before.
        losses_to_false_alarm: mean number of losses to a false alarm, at least.
    """

    def __init__(
        self,
        *,
        loss_max: float = 1.0,
        baseline: float | None = None,
        warm_up: int = 2_000,
        losses_to_false_alarm: float = 1e5,
    ) -> None:
        self.loss_max = loss_max
        self.warm_up = warm_up
        self.losses_to_false_alarm = losses_to_false_alarm
        self.is_learnt = baseline is None
        self.losses = 0
        self.is_raised = False
        """Whether an alarm stands: until the last `RECENT` losses are back."""
        self.onset = -1
        """First loss of the rise of the last alarm, estimated; -1 before the first."""
        self._mean: float | None = None if baseline is None else baseline / loss_max
        self._upper: float | None = self._mean
        self._checks = 0
        self._sums: Floats = np.zeros(4)  # of losses, of their squares, before this block, of squares of blocks' sums
        self._bursts = 1.0
        self._recent: Floats = np.zeros(0)
        self._raised_at = -1
        bets = len(_RISES)
        self._sum: Floats = np.zeros(bets)
        self._money: Floats = np.full(bets, -np.inf)
        self._lowest: Floats = np.full(bets, np.inf)
        self._start: NDArray[np.int64] = np.zeros(bets, dtype=np.int64)

    @property
    def baseline(self) -> float | None:
        """Mean loss that is taken as normal; None while it is being learnt."""
        return None if self._mean is None else self._mean * self.loss_max

    @property
    def baseline_upper(self) -> float | None:
        """What the evidence is against: an upper bound of the mean, or the baseline that was given."""
        return None if self._upper is None else self._upper * self.loss_max

    @property
    def recent(self) -> float | None:
        """Mean of the last `RECENT` losses; None before the first."""
        return float(self._recent.mean()) * self.loss_max if len(self._recent) else None

    @property
    def bursts(self) -> float:
        """How many losses tell as much as one would that came by itself; 1 where the warm-up showed no bursts."""
        return self._bursts

    @property
    def log_value(self) -> float:
        """Natural logarithm of the evidence; minus infinity while nothing speaks for a rise."""
        values = self._sum + self._money + np.log(_WEIGHTS)
        return float(np.logaddexp.reduce(values))

    @property
    def log_threshold(self) -> float:
        """What `log_value` has to reach for an alarm."""
        return math.log(self.losses_to_false_alarm) - (math.log1p(-LEARN_CHANCE) if self.is_learnt else 0.0)

    def update(self, losses: Floats) -> list[LossAlarm]:
        """Takes the next losses.

        Args:
            losses: shape (n,), 0 to `loss_max`, oldest first.

        Returns:
            The alarms that they raised, in order. The evidence begins anew whenever it is enough; while an alarm stands
            that is the same rise, seen again, and no further alarm.
        """
        scaled = np.asarray(losses, dtype=np.float64) / self.loss_max
        alarms: list[LossAlarm] = []
        done, length = 0, _SEGMENT_MAX
        while done < len(scaled):
            part = scaled[done : done + min(length, self._to_next_stop())]
            taken, alarm = (len(part), None) if self._upper is None else self._bet(part)
            self._count(part[:taken])
            done += taken
            length = min(2 * length, _SEGMENT_MAX)
            if alarm is not None:
                if not self.is_raised:
                    alarms.append(alarm)
                    self.onset = alarm.onset
                self.is_raised, self._raised_at = True, self.losses
                length = _SEGMENT_MIN  # the next alarm may be near, and the rest of a segment is worked for nothing
        return alarms

    def _to_next_stop(self) -> int:
        """Losses until something is to be done at a fixed position."""
        stops = [_ANCHOR - self.losses % _ANCHOR]
        if self.is_learnt:
            stops.append((self.warm_up << self._checks) - self.losses)
            if not self._checks:
                stops.append(self._block - self.losses % self._block)
        if self.is_raised:
            stops.append(RECENT - (self.losses - self._raised_at) % RECENT)
        return min(stops)

    def _bet(self, part: Floats) -> tuple[int, LossAlarm | None]:
        """Plays the losses up to an alarm; how many that were, and the alarm."""
        assert self._upper is not None
        bets = _bets(self._upper)
        gains = np.log1p(bets[:, None] * (part - max(self._upper, _MEAN_MIN))) / self._bursts
        # Sums and money in the form that depends on the losses alone, one after the other, not on where they are cut.
        sums = np.cumsum(np.concatenate([self._sum[:, None], gains], axis=1), axis=1)
        money = np.concatenate([self._money[:, None], -sums[:, :-1]], axis=1)
        money = np.logaddexp.accumulate(money, axis=1)
        values = sums[:, 1:] + money[:, 1:] + np.log(_WEIGHTS)[:, None]
        best = values.max(axis=0)
        far = np.flatnonzero(best + math.log(len(bets)) >= self.log_threshold)  # few: only there is the sum worth it
        crossed = far[np.logaddexp.reduce(values[:, far], axis=0) >= self.log_threshold] if len(far) else far
        taken = int(crossed[0]) + 1 if len(crossed) else len(part)
        before = sums[:, :taken]
        low = taken - 1 - before[:, ::-1].argmin(axis=1)  # the last of the lowest
        lowest = before[np.arange(len(bets)), low]
        self._start = np.where(lowest <= self._lowest, self.losses + low, self._start)
        self._lowest = np.minimum(self._lowest, lowest)
        if not len(crossed):
            self._sum, self._money = sums[:, -1], money[:, -1]
            return taken, None
        winner = int((sums[:, taken] - self._lowest).argmax())
        alarm = LossAlarm(position=self.losses + taken - 1, onset=int(self._start[winner]))
        self._clear()
        return taken, alarm

    def _count(self, part: Floats) -> None:
        self.losses += len(part)
        self._recent = np.concatenate([self._recent, part])[-RECENT:]
        if self.is_learnt:
            # One after the other, so that the sums do not hang on how the stream is cut.
            self._sums[0] = np.cumsum(np.concatenate([self._sums[:1], part]))[-1]
            self._sums[1] = np.cumsum(np.concatenate([self._sums[1:2], part * part]))[-1]
            if not self._checks and self.losses % self._block == 0:
                self._sums[3] += (self._sums[0] - self._sums[2]) ** 2
                self._sums[2] = self._sums[0]
            if self.losses == self.warm_up << self._checks:
                self._learn()
        if self.losses % _ANCHOR == 0:
            self._money += self._sum
            self._lowest -= self._sum
            self._sum = np.zeros_like(self._sum)
        if self.is_raised and self.losses > self._raised_at and (self.losses - self._raised_at) % RECENT == 0:
            assert self._upper is not None
            self.is_raised = float(self._recent.mean()) > self._upper

    def _learn(self) -> None:
        if not self._checks:
            self._bursts = self._seen_bursts()
        self._checks += 1
        total, squares = self._sums[:2]
        chance = LEARN_CHANCE / 2**self._checks
        upper = upper_mean(self.losses / self._bursts, total / self._bursts, squares / self._bursts, chance=chance)
        if self._upper is None or upper < self._upper:
            self._mean, self._upper = float(total / self.losses), upper

    def _seen_bursts(self) -> float:
        """How much more the sums of the warm-up's blocks vary than those of independent losses; 1 where that is chance.

        From the warm-up alone: later on a drift would look the same.
        """
        blocks = self.losses // self._block
        total, squares, before, blocks_squares = self._sums
        variance = squares - total * total / self.losses
        if variance <= 0:
            return 1.0
        more = (blocks_squares - before * before / blocks) / (blocks - 1) / (self._block * variance / self.losses)
        return float(more) if more * (blocks - 1) > chdtri(blocks - 1, _BURSTS_CHANCE) else 1.0

    @property
    def _block(self) -> int:
        return max(_BLOCK_MIN, self.warm_up // _BLOCKS)

    def _clear(self) -> None:
        self._sum = np.zeros_like(self._sum)
        self._money = np.full_like(self._money, -np.inf)
        self._lowest = np.full_like(self._lowest, np.inf)

    def to_bytes(self) -> bytes:
        """The whole state."""
        head = {name: getattr(self, name) for name in _PLAIN} | {"format": _FORMAT}
        text = json.dumps(head).encode()
        arrays = (self._sums, self._sum, self._money, self._lowest, self._start.astype(np.float64), self._recent)
        return _HEAD.pack(_MAGIC, len(text)) + text + b"".join(array.astype("<f8").tobytes() for array in arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "LossWatch":
        """The watch that `to_bytes` wrote.

        Raises:
            CorruptData: these are no such bytes, or of a format that is not known here.
        """
        try:
            magic, size = _HEAD.unpack_from(data)
            head: dict[str, Any] = json.loads(data[_HEAD.size : _HEAD.size + size])
            values = np.frombuffer(data, dtype="<f8", offset=_HEAD.size + size).astype(np.float64)
            if (
                magic != _MAGIC
                or head.pop("format") != _FORMAT
                or len(values) != 4 + 4 * len(_RISES) + min(head["losses"], RECENT)
            ):
                raise ValueError("of another format")
            watch = cls(loss_max=head["loss_max"])
            for name in _PLAIN:
                setattr(watch, name, head[name])
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise CorruptData(f"The state of watched losses cannot be read: {error}") from error
        cuts = np.cumsum([4, *[len(_RISES)] * 4])
        parts: list[Floats] = np.split(values, cuts)
        watch._sums, watch._sum, watch._money, watch._lowest, _, watch._recent = parts
        watch._start = parts[4].astype(np.int64)
        return watch


def _bets(mean: float) -> Floats:
    """How much each bet stakes on a loss above the mean, for losses of 0 and 1 the likelihood ratios of its rise."""
    mean = max(mean, _MEAN_MIN)
    deviation = math.sqrt(max(mean * (1 - mean), _MEAN_MIN))
    return np.minimum(np.array(_RISES) / deviation, _ALL_IN / mean)
