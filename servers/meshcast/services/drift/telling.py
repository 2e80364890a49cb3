"""What a report tells of both sides besides its figures: facts that words are made of, and notes for a reader."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.services.drift import words
from meshcast.services.drift.comparison import Comparison
from meshcast.services.drift.effects import Effects
from meshcast.services.drift.joint import JointDrift
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally
from meshcast.services.drift.verdicts import ROWS_MIN

__all__ = ["Told", "known", "moved_of", "notes_of"]

_FEW_WINDOW, _FEW_REFERENCE = 100, 1_000
_NAMED_MAX = 5


class Told(NamedTuple):
    """Both sides and how far apart they are. F features.

    Attributes:
        layout: of both.
        reference: tally of the reference's rows.
        window: likewise of the window.
        effects: of the window.
        spreads: standard deviations, shape (F, 2): of the reference and of the window.
        middles: slots in which the middle values lie, shape (F, 2), int64.
    """

    layout: Layout
    reference: Tally
    window: Tally
    effects: Effects
    spreads: NDArray[np.float64]
    middles: NDArray[np.int64]

    @classmethod
    def of(cls, layout: Layout, reference: Tally, window: Tally, effects: Effects) -> "Told":
        """What there is to be told."""
        sides = (reference, window)
        spreads = np.stack([side.deviations for side in sides], axis=1)
        upto = [np.cumsum(side.counts[:, :-2], axis=1) for side in sides]
        middles = [(2 * counts >= counts[:, -1:]).argmax(axis=1) for counts in upto]
        return cls(layout, reference, window, effects, spreads, np.stack(middles, axis=1))


def moved_of(at: int, told: Told) -> words.Moved:
    """What words are made of."""
    layout, before, after = told.layout, told.reference, told.window
    feature = layout.features[at]
    is_number = feature.kind == "numeric"
    has = (before.moments[at, 0] > 0, after.moments[at, 0] > 0)
    unseen = after.unseen.get(feature.name)
    return words.Moved(
        name=feature.name,
        is_number=is_number,
        is_output=feature.role == "output",
        mean=_pair(before.moments[at, 1], after.moments[at, 1], has),
        spread=_pair(told.spreads[at, 0], told.spreads[at, 1], (has[0], after.moments[at, 0] > 1)),
        median=_medians(at, told) if is_number else words.Change(None, None),
        nulls=words.Change(_share(before.nulls[at], before), _share(after.nulls[at], after)),
        infinite=words.Change(_share(before.infinities[at], before), _share(after.infinities[at], after)),
        unseen=_share(after.unseen_rows[at], after),
        unseen_names=tuple(name for name, _ in unseen.most_common(3)) if unseen else (),
        categories=() if is_number else _categories(at, told),
        mean_shift_sd=known(told.effects.mean_shift_sd[at]),
        wasserstein_sd=known(told.effects.wasserstein_sd[at]),
    )


def _categories(at: int, told: Told) -> tuple[tuple[str, words.Change], ...]:
    """Categories with their shares of the rows that are not null, the largest change first, at most three."""
    names = told.layout.categories[at - len(told.layout.cuts)]
    sides = []
    for tally in (told.reference, told.window):
        sides.append(tally.counts[at, : len(names)] / max(tally.rows - int(tally.nulls[at]), 1))
    order = np.argsort(-np.abs(sides[1] - sides[0]), kind="stable")[:3]
    return tuple((names[place], words.Change(float(sides[0][place]), float(sides[1][place]))) for place in order)


def _medians(at: int, told: Told) -> words.Change:
    """Medians to the bin: the edges that the middle rows lie above."""
    cut = told.layout.cuts[at]
    found: list[float | None] = []
    for side, tally in enumerate((told.reference, told.window)):
        if not tally.moments[at, 0]:
            found.append(None)
        elif not len(cut.bins):
            found.append(float(tally.moments[at, 1]))
        else:
            edge = float(cut.bins[max(int(told.middles[at, side]) - 1, 0)])
            found.append(edge * float(cut.unit) + float(cut.origin))
    return words.Change(*found)


def notes_of(
    comparison: Comparison, told: Told, joint: JointDrift | None, chance: float, *, is_alone: bool
) -> list[str]:
    """What a reader should know."""
    notes = []
    window, reference = told.window, told.reference
    if window.rows == 0:
        notes.append("The window has no rows: there is nothing to compare.")
    elif is_alone and window.rows < ROWS_MIN:
        notes.append(f"Windows of fewer than {ROWS_MIN} rows are described, not judged: send more rows at once.")
    elif is_alone and window.rows < _FEW_WINDOW:
        notes.append(f"The window has {words.counted(window.rows, 'row')}: only large shifts show in so few.")
    if reference.rows < _FEW_REFERENCE:
        notes.append(f"The reference has {words.counted(reference.rows, 'row')}: small shifts stay hidden behind it.")
    names = told.layout.names
    void = reference.nulls >= reference.rows
    if void.any():
        notes.append(f"Nothing but nulls in the reference: {_named(names, void)}.")
    one_number = told.layout.ordered & (reference.extremes[:, 0] == reference.extremes[:, 1])
    one_category = ~told.layout.ordered & (reference.counts[:, 0] + reference.nulls == reference.rows)
    is_constant = (one_number | one_category) & ~void
    if is_constant.any():
        notes.append(f"Constant in the reference, so that any other value is a change: {_named(names, is_constant)}.")
    gone = (window.nulls >= window.rows) & ~void
    if window.rows and gone.any():
        notes.append(f"Nothing but nulls in the window: {_named(names, gone)}.")
    if joint is not None:
        if (joint.reference_rows, joint.window_rows) != (reference.rows, window.rows):
            notes.append(
                f"All columns together were tested on {joint.reference_rows} rows of the reference and "
                f"{joint.window_rows} of the window, drawn at random."
            )
        if 2 / (joint.deals + 1) > chance:
            notes.append(
                f"The test of all columns together never gives less than {words.number(1 / (joint.deals + 1))}: at "
                "this chance of a false alarm only single features can call drift."
            )
    if comparison.standing and comparison.log_value is not None and comparison.log_value < comparison.log_threshold:
        notes.append("The alarm still stands; the evidence is below its threshold again.")
    return notes


def _named(names: tuple[str, ...], which: NDArray[np.bool_]) -> str:
    found = [names[at] for at in np.flatnonzero(which)[: _NAMED_MAX + 1]]
    rest = int(which.sum()) - _NAMED_MAX
    return ", ".join(found[:_NAMED_MAX]) + (f" and {rest:,} more" if rest > 0 else "")


def _pair(before: float, after: float, has: tuple[bool, bool]) -> words.Change:
    return words.Change(float(before) if has[0] else None, float(after) if has[1] else None)


def _share(rows: int, tally: Tally) -> float:
    return float(rows) / max(tally.rows, 1)


def known(value: float) -> float | None:
    """A number, or None for NaN."""
    return None if value != value else float(value)
