"""Accuracy gate of the INT8 embedder: how alike its embeddings are to those of the f32 model."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["GATE", "NEIGHBOURS", "compare", "judge"]

NEIGHBOURS = 10

_COSINE_MEAN, _COSINE_MIN, _OVERLAP, _ERROR = 0.99, 0.97, 0.85, 0.1

GATE = (
    f"the mean cosine to the f32 embedding is at least {_COSINE_MEAN}, the least {_COSINE_MIN}, at least "
    f"{_OVERLAP:.0%} of a text's {NEIGHBOURS} nearest neighbours are the same, and no number is off by more "
    f"than {_ERROR}"
)
"""What `judge` asks, in words."""


def judge(wanted: NDArray[np.float32], given: NDArray[np.float32]) -> tuple[dict[str, float], str]:
    """Figures of INT8 embeddings beside those of torch, and why they are not good enough; empty where they are.

    Args:
        wanted: float32, shape (texts, 384), of torch, each of length 1.
        given: float32, shape (texts, 384), of the INT8 graph.
    """
    figures = compare(wanted, given)
    faults = [
        f"{name} is {figures[name]:.4f}, {word} {bound}"
        for name, word, bound, is_fault in (
            ("cosine_mean", "under", _COSINE_MEAN, figures["cosine_mean"] < _COSINE_MEAN),
            ("cosine_min", "under", _COSINE_MIN, figures["cosine_min"] < _COSINE_MIN),
            ("neighbours_same", "under", _OVERLAP, figures["neighbours_same"] < _OVERLAP),
            ("error_max", "over", _ERROR, not figures["error_max"] <= _ERROR),
        )
        if is_fault
    ]
    return figures, "; ".join(faults)


def compare(wanted: NDArray[np.float32], given: NDArray[np.float32]) -> dict[str, float]:
    """How alike two embeddings of the same texts are.

    Args:
        wanted: float32, shape (texts, 384), each of length 1.
        given: likewise.

    Returns:
        `texts`; `cosine_mean` and `cosine_min` of a text's two embeddings; `neighbours_same`: the mean share of the
        ten nearest other texts that are the same ones; `error_max`: the largest difference of a number.
    """
    cosine = (wanted * given).sum(axis=1) / np.linalg.norm(given, axis=1)
    near = min(NEIGHBOURS, len(wanted) - 1)
    same = [
        len(set(ours) & set(theirs)) for ours, theirs in zip(_nearest(wanted, near), _nearest(given, near), strict=True)
    ]
    return {
        "texts": float(len(wanted)),
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "neighbours_same": float(np.mean(same)) / max(1, near),
        "error_max": float(np.abs(wanted - given).max()),
    }


def _nearest(embeddings: NDArray[np.float32], near: int) -> list[list[int]]:
    alike = embeddings @ embeddings.T
    np.fill_diagonal(alike, -np.inf)
    found: list[list[int]] = np.argsort(-alike, axis=1, kind="stable")[:, :near].tolist()
    return found
