"""Facts of features: what a tally tells of each column, in the words of the contract."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meshcast.api.drift.v1 import drift_pb2 as pb
from meshcast.services.drift.layout import Layout
from meshcast.services.drift.tally import Tally

__all__ = ["CATEGORIES_SHOWN_MAX", "RANKS", "feature_facts"]

RANKS = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
"""Quantiles that are told, of the contract."""

CATEGORIES_SHOWN_MAX = 20
"""Categories that are told, of the contract."""


def feature_facts(layout: Layout, tally: Tally, features: Sequence[int] | None = None) -> list[pb.FeatureFacts]:
    """Facts of features, in the order of their positions.

    Args:
        layout: of the reference.
        tally: in this layout, of the reference or of a window.
        features: their positions in the layout; None for all.
    """
    quantiles = layout.quantiles(tally, np.array(RANKS))
    return [_facts(layout, tally, quantiles, at) for at in (range(len(layout)) if features is None else features)]


def _facts(layout: Layout, tally: Tally, quantiles: NDArray[np.float64], at: int) -> pb.FeatureFacts:
    facts = pb.FeatureFacts(
        rows=tally.rows,
        nulls=int(tally.nulls[at]),
        infinities=int(tally.infinities[at]),
        unseen=int(tally.unseen_rows[at]),
    )
    if layout.ordered[at]:
        count, mean, squares = tally.moments[at].tolist()
        if count:
            facts.mean = mean
            facts.standard_deviation = float(np.sqrt(squares / count))
            facts.minimum, facts.maximum = tally.extremes[at].tolist()
        if not np.isnan(quantiles[at]).any():
            facts.quantiles.extend(quantiles[at].tolist())
        return facts
    names = layout.categories[at - len(layout.cuts)]
    counts = tally.counts[at, : len(names)]
    for place in np.argsort(-counts, kind="stable")[:CATEGORIES_SHOWN_MAX].tolist():
        if counts[place]:
            facts.categories.add(category=names[place], rows=int(counts[place]))
    unseen = tally.unseen.get(layout.features[at].name)
    if unseen is not None:
        for category, rows in unseen.most_common(CATEGORIES_SHOWN_MAX):
            facts.unseen_categories.add(category=category, rows=rows)
    return facts
