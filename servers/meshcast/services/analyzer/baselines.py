"""Plain answers that a content model must beat: TF-IDF with logistic regression, and one answer for all.

scikit-learn is imported only where they are asked for: when training and in benchmarks.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshcast.contents import Contents

__all__ = ["answer_of_shares", "tfidf_answers"]

Floats = NDArray[np.float32]
Labels = NDArray[np.bool_]

_WORDS = {"ngram_range": (1, 2)}
_PIECES = {"analyzer": "char_wb", "ngram_range": (2, 4)}
_FEATURES_MAX = 200_000  # of words and of pieces each
_INVERSE_PENALTY = 0.5
_ITERATIONS_MAX = 200


def tfidf_answers(learn: Contents, labels: Labels, test: Contents) -> Floats:
    """Probabilities by TF-IDF of words, pairs and pieces of words, three plain columns and logistic regression.

    Args:
        learn: m contents to learn from.
        labels: shape (m, k), a column a question.
        test: n contents to answer for.

    Returns:
        Shape (n, k), float32.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    makers = [TfidfVectorizer(**kind, max_features=_FEATURES_MAX, sublinear_tf=True) for kind in (_WORDS, _PIECES)]
    known, asked = _joined(learn), _joined(test)
    seen = [maker.fit_transform(known) for maker in makers]
    unseen = [maker.transform(asked) for maker in makers]
    x: Any = sparse.hstack([*seen, sparse.csr_matrix(_columns(learn))]).tocsr().astype(np.float32)
    z: Any = sparse.hstack([*unseen, sparse.csr_matrix(_columns(test))]).tocsr().astype(np.float32)
    found = [
        LogisticRegression(C=_INVERSE_PENALTY, max_iter=_ITERATIONS_MAX).fit(x, column).predict_proba(z)[:, 1]
        for column in labels.T
    ]
    return np.stack(found, axis=1).astype(np.float32)


def answer_of_shares(labels: Labels, rows: int) -> Floats:
    """How often each question held among the training rows, as the answer for every row; shape (rows, k), float32."""
    return np.repeat(labels.mean(axis=0, dtype=np.float32)[None], rows, axis=0)


def _joined(contents: Contents) -> list[str]:
    return [f"{text} | {title}" for text, title in zip(contents.text, contents.title, strict=True)]


def _columns(contents: Contents) -> NDArray[np.float64]:
    """Length, media and hour, each from 0 to about 1."""
    length = np.log1p(contents.content_length) / np.log1p(2_000)
    return np.stack([length, contents.has_media, np.maximum(contents.hour_of_day, 0) / 23], axis=1).astype(np.float64)
