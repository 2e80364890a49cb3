"""The layout: a reference's features, bins and categories, in which every later row is counted. It never changes."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import CategoryColumn, Observations
from meshcast.rpc.errors import CorruptData, InvalidInput
from meshcast.services.drift.category_slots import CATEGORIES_MAX, is_known, slots_of
from meshcast.services.drift.counting import Numbers, count_categories, count_numbers, places_of
from meshcast.services.drift.cuts import Cuts, cuts_of, ranks_of
from meshcast.services.drift.dependence import inflations
from meshcast.services.drift.packing import pack, unpack
from meshcast.services.drift.sketches import Sketches
from meshcast.services.drift.tally import Tally

__all__ = ["BINS_MAX", "FEATURES_MAX", "Feature", "Layout", "Role"]

Role = Literal["input", "output", "derived"]

FEATURES_MAX = 4_096
"""Features of a reference: at 20 bins each, the fewest that ten groups can be made of, the time buckets of a subject
then hold 40 MiB, an eighth of what a service may."""

BINS_MAX = 250
"""Bins of about equal mass: a difference of distribution functions is then told to .004, and tenths are whole bins."""

_BINS_IN_ALL = 16_000  # BINS_MAX times 64 features
_BINS_MIN = 20
_SKETCH_K, _SKETCH_K_MIN = 800, 100  # rank errors of .35 % and 2.7 %; KLL's state grows with k
_BLOCK_VALUES, _BLOCK_ROWS_MIN, _BLOCK_ROWS_MAX = 1 << 20, 256, 16_384  # 4 MiB of float32: what a core's cache holds
_RANK_POINTS, _RANK_POINTS_FEW = 200, 80
_CUT_ARRAYS = Cuts._fields[2:]
_KIND = b"DLY1"


class Feature(NamedTuple):
    """A column that is watched."""

    name: str
    kind: Literal["numeric", "categorical"]
    role: Role
    importance: float


class Layout:
    """Features of a reference, numeric ones first, and where their values are counted.

    Attributes:
        features: in order.
        rows: rows of the reference.
        cuts: of each numeric feature.
        categories: of each categorical feature the categories with a slot of their own, most frequent first.
        known: of each categorical feature the hashes of the reference's other categories, ascending, uint64.
        singletons: shape (features,), int64, categories that the reference has once; 0 for numeric features.
        others: shape (features,), int64, categories without a slot of their own, which share the last one in use.
        inflation: shape (features,), float64, rows of the reference to an independent one, as `inflations` has it.
        ranks: shape (r,), float64, where the reference's quantile functions are held; widths: what each stands for.
        bins: shape (features,), int32, value slots in use of each feature.
        slots: value slots of the widest feature + 2: nulls are counted in slot -2, unseen categories in slot -1.
        groups: shape (features, slots), int32, of each value slot the group that the stability index puts it in:
            tenths of the reference, each category its own, unseen ones theirs; -1: none.
        sketch_k: accuracy of sketches.
        fingerprint: hash of all that decides where a row is counted.
    """

    def __init__(
        self,
        *,
        features: tuple[Feature, ...],
        rows: int,
        cuts: tuple[Cuts, ...],
        categories: tuple[tuple[str, ...], ...],
        known: tuple[NDArray[np.uint64], ...],
        singletons: NDArray[np.int64],
        inflation: NDArray[np.float64],
        rank_points: int,
    ) -> None:
        self.features, self.rows, self.cuts, self.categories, self.known = features, rows, cuts, categories, known
        self.singletons, self.inflation = singletons, inflation
        self.others: NDArray[np.int64] = np.array([0] * len(cuts) + [len(rest) for rest in known], dtype=np.int64)
        self.rank_points = rank_points
        self.ranks, self.widths = ranks_of(rank_points)
        self.bins: NDArray[np.int32] = np.array(
            [len(cut.bins) + 1 for cut in cuts]
            + [max(len(names) + (len(rest) > 0), 1) for names, rest in zip(categories, known, strict=True)],
            dtype=np.int32,
        )
        self.slots = int(self.bins.max()) + 2
        self.groups = self._groups()
        self.sketch_k = max(_SKETCH_K_MIN, min(_SKETCH_K, _SKETCH_K * _BINS_IN_ALL // (BINS_MAX * max(len(cuts), 1))))
        self._units = np.array([cut.unit for cut in cuts], dtype=np.float64)[:, None]
        self._origins = np.array([cut.origin for cut in cuts], dtype=np.float64)[:, None]
        self._ends = [places_of(cut) for cut in cuts]
        self._places = [{name: at for at, name in enumerate(names)} for names in categories]
        digest = hashlib.sha256()
        for raw in (
            *(cut.fine.tobytes() for cut in cuts),
            *(cut.bins.tobytes() for cut in cuts),
            *(rest.tobytes() for rest in known),
        ):
            digest.update(len(raw).to_bytes(4, "little") + raw)
        digest.update(repr(([f[:2] for f in features], categories, [c[:2] for c in cuts])).encode())
        self.fingerprint = digest.hexdigest()[:32]

    @staticmethod
    def of(
        observations: Observations,
        *,
        roles: Mapping[str, Role] | None = None,
        importances: Mapping[str, float] | None = None,
    ) -> "Layout":
        """Layout of a reference.

        Args:
            observations: one row or more, one column or more; columns that are constant or all null are fine.
            roles: of features by name; `input` by default.
            importances: of features by name; 1 by default.

        Raises:
            InvalidInput: there is no row or no column, or more than `FEATURES_MAX`; a column has more than `KNOWN_MAX`
                categories; a role or an importance is of no column.
        """
        names = observations.names
        odd = {**(roles or {}), **(importances or {})}.keys() - set(names)
        if odd:
            raise InvalidInput(f"not a column of the reference: {', '.join(sorted(odd)[:10])}", field="features")
        if observations.rows == 0 or not names:
            raise InvalidInput("a reference has one row and one column or more", field="observations")
        if len(names) > FEATURES_MAX:
            raise InvalidInput(
                f"a reference has at most {FEATURES_MAX} columns, not {len(names)}; watch those that matter, or split "
                "them over several subjects",
                field="observations",
            )
        bins = max(_BINS_MIN, min(BINS_MAX, _BINS_IN_ALL // len(names) // 10 * 10))
        rank_points = _RANK_POINTS if len(names) * BINS_MAX <= 4 * _BINS_IN_ALL else _RANK_POINTS_FEW
        ranks, _ = ranks_of(rank_points)
        sorts = [slots_of(name, column, min(CATEGORIES_MAX, bins)) for name, column in observations.categorical.items()]

        def feature(name: str, kind: Literal["numeric", "categorical"]) -> Feature:
            return Feature(name, kind, (roles or {}).get(name, "input"), float((importances or {}).get(name, 1.0)))

        return Layout(
            features=(
                *(feature(name, "numeric") for name in observations.numeric),
                *(feature(name, "categorical") for name in observations.categorical),
            ),
            rows=observations.rows,
            cuts=tuple(cuts_of(column, bins=bins, ranks=ranks) for column in observations.numeric.values()),
            categories=tuple(one[0] for one in sorts),
            known=tuple(one[1] for one in sorts),
            singletons=np.array([0] * len(observations.numeric) + [one[2] for one in sorts], dtype=np.int64),
            inflation=inflations(observations),
            rank_points=rank_points,
        )

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def kinds(self) -> dict[str, Literal["numeric", "categorical"]]:
        """Kinds of the features, by their names."""
        return {feature.name: feature.kind for feature in self.features}

    @cached_property
    def ordered(self) -> NDArray[np.bool_]:
        """Shape (features,): True for numeric features, whose slots ascend with the values."""
        return np.arange(len(self.features)) < len(self.cuts)

    @cached_property
    def few(self) -> NDArray[np.bool_]:
        """Shape (numeric features,): True where the reference has so few values that a bin begins at each."""
        return np.array([_begin_at(cut.bins, cut.quantiles) for cut in self.cuts], dtype=np.bool_)

    def edges(self, feature: int) -> NDArray[np.float64]:
        """Where the bins of a numeric feature begin but for the first, ascending, in the feature's own unit.

        Args:
            feature: position among the features.
        """
        cut = self.cuts[feature]
        return cut.bins.astype(np.float64) * cut.unit + cut.origin

    def quantiles(self, tally: Tally, ranks: NDArray[np.float64]) -> NDArray[np.float64]:
        """Quantiles of the finite values, in the features' own units: exact in a tally of few rows, else of sketches.

        Args:
            tally: in this layout.
            ranks: shape (r,), float64, from 0 to 1.

        Returns:
            Shape (features, r), float64; NaN for categories, where there is no value, and in tallies without sketches.
        """
        found = np.full((len(self.features), len(ranks)), np.nan)
        if tally.sketches is not None and self.cuts:
            with np.errstate(over="ignore"):
                found[: len(self.cuts)] = tally.sketches.quantiles(ranks) * self._units + self._origins
        return found

    def violations(self, observations: Observations, path: str = "observations") -> dict[str, str]:
        """Columns that are missing, that the reference does not have, or of another kind: path and rule of each.

        A column of nulls alone may be of either kind.

        Args:
            observations: any rows.
            path: of the rows, in front of each column's name.
        """
        found: dict[str, str] = {}
        for name, kind, *_ in self.features:
            if name in (observations.numeric if kind == "numeric" else observations.categorical):
                continue
            other = observations.categorical if kind == "numeric" else observations.numeric
            if name not in other:
                found[f"{path}.{name}"] = "the reference has this column, the rows do not"
            elif not _is_void(other[name]):
                had, given = ("numbers", "categories") if kind == "numeric" else ("categories", "numbers")
                found[f"{path}.{name}"] = f"the reference has {had} in this column, the rows have {given}"
        known = set(self.names)
        found |= {
            f"{path}.{n}": "the reference does not have this column" for n in observations.names if n not in known
        }
        return found

    def tally(self, observations: Observations, *, sketches: bool = True) -> Tally:
        """Rows, counted.

        Args:
            observations: no rows or more, of the reference's columns.
            sketches: whether to keep quantiles, too.

        Raises:
            InvalidInput: the rows break `violations`.
        """
        wrong = self.violations(observations)
        if wrong:
            raise InvalidInput(
                "the rows have other columns than the reference", violations=[(p, r) for p, r in wrong.items()]
            )
        step = max(_BLOCK_ROWS_MIN, min(_BLOCK_ROWS_MAX, _BLOCK_VALUES // len(self.features)))
        whole = self._block(observations[:step], sketches)
        for start in range(step, observations.rows, step):
            whole.add(self._block(observations[start : start + step], sketches))
        return whole

    def _block(self, block: Observations, sketches: bool) -> Tally:
        voids = np.full(block.rows, np.nan, dtype=np.float32)
        numbers: Numbers = count_numbers(
            [block.numeric.get(feature.name, voids) for feature in self.features[: len(self.cuts)]],
            self.cuts,
            self._ends,
            self.slots,
        )
        features, numeric = len(self.features), len(self.cuts)
        counts = np.zeros((features, self.slots), dtype=np.int64)
        counts[:numeric] = numbers.counts
        unseen: dict[str, Counter[str]] = {}
        for at, feature in enumerate(self.features[numeric:]):
            column = block.categorical.get(feature.name)
            if column is None:
                counts[numeric + at, -2] = block.rows
                continue
            counts[numeric + at], odd = count_categories(
                column,
                self._places[at],
                lambda name, at=at: is_known(name, self.known[at]),  # type: ignore[misc]  # bound now, not at the call
                len(self.categories[at]),
                self.slots,
            )
            if odd:
                unseen[feature.name] = odd
        moments, infinite = np.zeros((features, 3)), np.zeros((features, 2), dtype=np.int64)
        extremes = np.tile([np.inf, -np.inf], (features, 1))
        moments[:numeric], extremes[:numeric], infinite[:numeric] = numbers.moments, numbers.extremes, numbers.infinite
        return Tally(
            fingerprint=self.fingerprint,
            rows=block.rows,
            counts=counts,
            moments=moments,
            extremes=extremes,
            infinite=infinite,
            unseen=unseen,
            fine=numbers.fine,
            sketches=Sketches(self.sketch_k, numbers.runs) if sketches else None,
        )

    def _groups(self) -> NDArray[np.int32]:
        groups = np.full((len(self.features), self.slots), -1, dtype=np.int32)
        for row, cut in zip(groups, self.cuts, strict=False):
            row[0] = 0
            row[1 : len(cut.bins) + 1] = np.searchsorted(cut.groups, cut.bins, "right")
        for row, bins in zip(groups[len(self.cuts) :], self.bins[len(self.cuts) :], strict=True):
            row[:bins] = np.arange(bins)
            row[-1] = bins
        return groups

    def to_bytes(self) -> bytes:
        """Packed state."""
        head = {
            "features": [list(feature) for feature in self.features],
            "rows": self.rows,
            "forms": [[cut.origin, cut.unit] for cut in self.cuts],
            "categories": self.categories,
            "rank_points": self.rank_points,
            "fingerprint": self.fingerprint,
        }
        arrays: dict[str, NDArray[Any]] = {"singletons": self.singletons, "inflation": self.inflation}
        for at, cut in enumerate(self.cuts):
            arrays |= {f"{name}.{at}": getattr(cut, name) for name in _CUT_ARRAYS}
        arrays |= {f"known.{at}": known for at, known in enumerate(self.known)}
        return pack(_KIND, head, arrays)

    @staticmethod
    def from_bytes(data: bytes) -> "Layout":
        """Layout of packed state.

        Raises:
            CorruptData: it is truncated, altered, or no layout.
        """
        head, arrays = unpack(_KIND, data)
        try:
            features = tuple(Feature(*one) for one in head["features"])
            forms, categories = head["forms"], tuple(tuple(names) for names in head["categories"])
            layout = Layout(
                features=features,
                rows=int(head["rows"]),
                cuts=tuple(
                    Cuts(origin, unit, *(arrays[f"{name}.{at}"] for name in _CUT_ARRAYS))
                    for at, (origin, unit) in enumerate(forms)
                ),
                categories=categories,
                known=tuple(arrays[f"known.{at}"] for at in range(len(categories))),
                singletons=arrays["singletons"],
                inflation=arrays["inflation"],
                rank_points=int(head["rank_points"]),
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise CorruptData(f"the layout cannot be read: {wrong}") from wrong
        if layout.fingerprint != head["fingerprint"] or len(features) != len(forms) + len(categories):
            raise CorruptData("the layout does not hold together")
        return layout


def _begin_at(bins: NDArray[np.float32], values: NDArray[np.float32]) -> bool:
    if len(bins) == 0:
        return False
    return bool((bins[np.maximum(np.searchsorted(bins, values, "right") - 1, 0)] == values).all())


def _is_void(column: CategoryColumn | NDArray[np.floating]) -> bool:
    """True where every value is null."""
    if isinstance(column, CategoryColumn):
        return bool((column.codes < 0).all())
    return bool(np.isnan(cast("NDArray[np.float64]", column)).all())
