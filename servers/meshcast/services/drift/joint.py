"""The joint test: one p-value for a single window from everything that can move, alone or together.

The rows of both sides are pooled and dealt out anew many times. Every statistic is standardised over the deals, and the
largest of them is compared with what it is in the other deals: the p-value is exact at any number of rows, whatever the
columns have to do with each other. What it looks at: single columns (distribution functions and single shares), all
columns together (energy distance; a Gaussian kernel for what only close rows show; second moments for spreads and
correlations), a model's outputs, and what the autoencoder says of each row.

Source: permutation p-values as in Phipson and Smyth, Permutation p-values should never be zero (SAGMB 9, 2010); kernels
as in Gretton et al., A kernel two-sample test (JMLR 13, 2012).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from meshcast.observations import Observations
from meshcast.services.drift.energy import Space, distances, energy_of_labels, sample_rows
from meshcast.services.drift.shares import Shares, shares_of

__all__ = ["DEALS", "ROWS_MAX", "JointDrift", "JointFinding", "Role", "joint_drift"]

Matrix = NDArray[np.float32]
Role = Literal["input", "output", "derived"]

ROWS_MAX = 500
"""Most rows of either side that are looked at; more are drawn from, always the same ones."""

DEALS = 299
"""Deals beside the real one, so that the smallest p-value is 1 / 300."""

_FEATURES_AT_ONCE = 256  # bounds the memory at thousands of columns
_ERROR, _CODE = "autoencoder.error", "autoencoder.code."
_WHAT = {
    "kolmogorov_smirnov_max": "the largest distance between two distribution functions of a single column",
    "share_max": "the largest standardised difference of a share: of rows up to a value, of a category, or of nulls",
    "energy": "all columns together: distances between rows of the window and of the reference",
    "nearness": "all columns together, among rows that are close to each other",
    "second_moments": "spreads and correlations of all columns",
    "outputs": "the distributions of a model's outputs",
    "autoencoder_error": "how unusual rows are to the autoencoder",
    "autoencoder_code": "where rows lie in the autoencoder's code",
}


class JointFinding(NamedTuple):
    """One statistic of the joint test.

    Attributes:
        name: as in `kolmogorov_smirnov_max`, `energy`.
        statistic: its value.
        p_value: its p-value alone, not corrected for the others.
        what: what it looks at, in words.
    """

    name: str
    statistic: float
    p_value: float
    what: str


class JointDrift(NamedTuple):
    """What the joint test found.

    Attributes:
        p_value: chance, under no drift, of a largest standardised statistic as large as this.
        findings: the statistics, those with the smallest p-value first.
        reference_rows: rows of the reference that were looked at.
        window_rows: likewise of the window.
        deals: deals beside the real one.
    """

    p_value: float
    findings: tuple[JointFinding, ...]
    reference_rows: int
    window_rows: int
    deals: int


def joint_drift(
    reference: Observations,
    window: Observations,
    roles: Mapping[str, Role] | None = None,
    *,
    deals: int = DEALS,
    seed: int = 0,
) -> JointDrift:
    """Tests a window against a reference in all columns together.

    Args:
        reference: one row or more.
        window: one row or more, of the same columns.
        roles: what a column is, by name; `input` where it is not named. Of derived columns only the autoencoder's are
            looked at.
        deals: deals beside the real one, at least 1.
        seed: of the deals and of the rows that are drawn.

    Returns:
        What was found; the same rows and seed give the same.

    Raises:
        InvalidInput: the columns differ.
    """
    kept = (
        reference.take(sample_rows(reference.rows, ROWS_MAX, seed)),
        window.take(sample_rows(window.rows, ROWS_MAX, seed + 1)),
    )
    pooled = Observations.concat(kept)
    rows = (kept[0].rows, kept[1].rows)
    labels = _deals(*rows, deals, seed)
    statistics = _statistics(pooled, roles or {}, labels, rows[1])
    values = np.stack(list(statistics.values()))
    spread = values.std(axis=1, keepdims=True)
    standard = np.where(
        spread > 0, (values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1), 0.0
    )
    findings = [
        JointFinding(name, float(values[at, 0]), _p_value(standard[at]), _WHAT[name])
        for at, name in enumerate(statistics)
    ]
    findings.sort(key=lambda finding: (finding.p_value, finding.name))
    return JointDrift(_p_value(standard.max(axis=0)), tuple(findings), *rows, deals)


def _statistics(
    pooled: Observations, roles: Mapping[str, Role], labels: Matrix, window_rows: int
) -> dict[str, NDArray[np.float64]]:
    """Each statistic under each deal, the real one first; those that the columns do not allow are left out."""
    names: dict[Role, list[str]] = {"input": [], "output": [], "derived": []}
    for name in pooled.names:
        names[roles.get(name, "input")].append(name)
    main = names["input"] or names["output"]
    found: dict[str, NDArray[np.float64]] = {}
    if main:
        found |= _single_columns(pooled, main, labels, window_rows)
        found |= _all_columns(_only(pooled, main), labels, window_rows)
    if names["output"] and names["input"]:
        shares = shares_of(pooled, names["output"])
        if shares.matrix.shape[1]:
            found["outputs"] = (_standardised(shares, labels, window_rows) ** 2).mean(axis=1, dtype=np.float64)
    for statistic, wanted in (
        ("autoencoder_error", [name for name in names["derived"] if name == _ERROR]),
        ("autoencoder_code", [name for name in names["derived"] if name.startswith(_CODE)]),
    ):
        shares = shares_of(pooled, wanted)
        if shares.matrix.shape[1]:
            found[statistic] = shares.distances(shares.differences(labels, window_rows)).max(axis=1).astype(np.float64)
    return found


def _single_columns(
    pooled: Observations, names: list[str], labels: Matrix, window_rows: int
) -> dict[str, NDArray[np.float64]]:
    """The largest distance between distribution functions, and the largest standardised difference of a share."""
    farthest, sharpest = np.zeros(len(labels)), np.zeros(len(labels))
    for at in range(0, len(names), _FEATURES_AT_ONCE):
        shares = shares_of(pooled, names[at : at + _FEATURES_AT_ONCE], features=len(names))
        if not shares.matrix.shape[1]:
            continue
        differences = shares.differences(labels, window_rows)
        np.maximum(farthest, shares.distances(differences).max(axis=1), out=farthest)
        differences *= shares.weights
        np.maximum(sharpest, differences.max(axis=1), out=sharpest)
    return {"kolmogorov_smirnov_max": farthest, "share_max": sharpest}


def _standardised(shares: Shares, labels: Matrix, window_rows: int) -> Matrix:
    differences = shares.differences(labels, window_rows)
    differences *= shares.weights
    return differences


def _all_columns(pooled: Observations, labels: Matrix, window_rows: int) -> dict[str, NDArray[np.float64]]:
    """Statistics of all columns together, each a quadratic form of the labels."""
    matrix = Space.of(pooled).matrix(pooled)
    matrix = matrix[:, matrix.std(axis=0) > 0]
    if not matrix.shape[1]:
        return {}
    between = distances(matrix, matrix)
    np.fill_diagonal(between, 0.0)
    found = {"energy": energy_of_labels(labels, between, window_rows)}
    width = float(between.mean(dtype=np.float64)) / 2
    if width > 0:  # half the usual distance: rows farther apart hardly count
        np.square(between, out=between)
        between *= np.float32(-0.5 / width**2)
        np.exp(between, out=between)
        found["nearness"] = energy_of_labels(labels, np.negative(between, out=between), window_rows)
    products = matrix @ (matrix.T / np.float32(matrix.shape[1]))
    np.square(products, out=products)
    found["second_moments"] = energy_of_labels(labels, np.negative(products, out=products), window_rows)
    return found


def _only(observations: Observations, names: list[str]) -> Observations:
    """Some of the columns."""
    wanted = set(names)
    return Observations(
        rows=observations.rows,
        numeric={name: values for name, values in observations.numeric.items() if name in wanted},
        categorical={name: column for name, column in observations.categorical.items() if name in wanted},
    )


def _p_value(statistics: NDArray[np.float64]) -> float:
    """Share of deals whose statistic is at least the real one's, which comes first and counts too."""
    real = statistics[0]
    return float((statistics >= real - 1e-5 * abs(real)).mean())  # float32 sums of equal deals differ by rounding


@lru_cache(maxsize=4)
def _deals(reference_rows: int, window_rows: int, deals: int, seed: int) -> Matrix:
    """Shape (1 + deals, rows): 1 for rows of the window; the real one first. The same for the same numbers."""
    real = np.zeros(reference_rows + window_rows, np.uint8)
    real[reference_rows:] = 1
    dealt = np.random.default_rng([seed, reference_rows, window_rows]).permuted(np.tile(real, (deals, 1)), axis=1)
    labels = np.concatenate([real[None], dealt]).astype(np.float32)
    labels.flags.writeable = False
    return labels
