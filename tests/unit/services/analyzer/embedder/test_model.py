import numpy as np
import pytest
import torch

from meshcast.services.analyzer.embedder.model import EmbedderModel
from meshcast.services.analyzer.embedder.signature import TOKENS_MAX, WIDTH


@pytest.fixture(scope="module")
def model() -> EmbedderModel:
    torch.manual_seed(0)
    return EmbedderModel()


def embed(model: EmbedderModel, rows: list[list[int]]) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(torch.tensor(rows, dtype=torch.int32)))


def test_embeddings_have_length_one(model: EmbedderModel) -> None:
    found = embed(model, [[101, 2023, 102], [101, 7592, 102]])
    assert found.shape == (2, WIDTH) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def test_padding_changes_nothing(model: EmbedderModel) -> None:
    row = [101, 2023, 2003, 1037, 3231, 102]
    alone = embed(model, [row])
    for length in (16, 48, TOKENS_MAX):
        np.testing.assert_allclose(embed(model, [row + [0] * (length - len(row))]), alone, atol=2e-6)


def test_texts_of_a_batch_do_not_see_each_other(model: EmbedderModel) -> None:
    rows = np.random.default_rng(0).integers(1_000, 30_000, (5, 32)).tolist()
    together = embed(model, rows)
    np.testing.assert_allclose(embed(model, rows[3:4]), together[3:4], atol=2e-6)


def test_a_row_of_padding_alone_is_zero_and_not_nan(model: EmbedderModel) -> None:
    assert (embed(model, [[0] * 16, [101, 102] + [0] * 14])[0] == 0.0).all()


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(KeyError):
        EmbedderModel.of({"embeddings.word_embeddings.weight": np.zeros((30_522, WIDTH), np.float32)})
