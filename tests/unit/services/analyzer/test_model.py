"""The module's answers are probabilities; padding and neighbours change nothing, and eight bits next to nothing."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from meshcast.contents import Contents
from meshcast.services.analyzer.features import INPUTS, padded, rows
from meshcast.services.analyzer.grams import KIND_IDS
from meshcast.services.analyzer.model import (
    OUTPUTS,
    PLAN_COLUMNS,
    ContentModel,
    GramBag,
    PackedEmbedding,
    example_inputs,
    plan_columns,
)


@pytest.fixture
def module() -> ContentModel:
    torch.manual_seed(0)
    module = ContentModel(buckets=1 << 12)
    module.bag.set_weights(
        torch.rand(1 << 13) * 8, torch.randn(1 << 13, 4), torch.randn(PLAN_COLUMNS, 4) * 0.1, torch.tensor([0.1, -1.0])
    )
    torch.nn.init.normal_(module.answer.weight, std=0.1)
    module.set_calibration(torch.tensor([[0.9, 0.8, 0.1], [1.1, 0.7, -0.2]]))
    return module.eval()


def tensors(*texts: str) -> list[torch.Tensor]:
    found = padded(rows(Contents.of(texts, hour_of_day=[5] * len(texts))))
    return [torch.from_numpy(found[name]) for name in INPUTS]


def test_a_module_without_arguments_takes_the_examples() -> None:
    answers = ContentModel().eval()(*example_inputs(3))
    assert len(answers) == len(OUTPUTS) and {answer.shape for answer in answers} == {(3,)}


def test_answers_are_probabilities_that_depend_on_the_text(module: ContentModel) -> None:
    for answer in module(*tensors("We won the final", "Nobody came", "")):
        assert bool(((answer > 0) & (answer < 1)).all())
        assert len(set(answer.tolist())) == 3


@pytest.mark.parametrize("more", [(0, 1), (1, 0), (32, 256), (100, 1_000)])
def test_zeros_at_the_end_change_nothing(module: ContentModel, more: tuple[int, int]) -> None:
    tokens, grams, extras = tensors("We won the final 😀", "", "a much longer text about nothing in particular")
    wider = (torch.nn.functional.pad(tokens, (0, more[0])), torch.nn.functional.pad(grams, (0, more[1])), extras)
    for a, b in zip(module(tokens, grams, extras), module(*wider), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_the_order_of_n_grams_does_not_matter(module: ContentModel) -> None:
    tokens, grams, extras = tensors("We won the final")
    for a, b in zip(module(tokens, grams, extras), module(tokens, grams.flip(1), extras), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_the_order_of_words_does(module: ContentModel) -> None:
    tokens, grams, extras = tensors("We won the final")
    real = int((tokens > 0).sum())
    turned = torch.cat([tokens[:, :real].flip(1), tokens[:, real:]], dim=1)
    assert float((module(tokens, grams, extras)[0] - module(turned, grams, extras)[0]).detach().abs()) > 1e-5


def test_a_row_is_the_same_alone_as_in_a_batch(module: ContentModel) -> None:
    inputs = tensors("one", "two words", "three more words", "")
    together = module(*inputs)
    for row in range(4):
        for a, b in zip(module(*(column[row : row + 1] for column in inputs)), together, strict=True):
            torch.testing.assert_close(a[0], b[row], atol=1e-6, rtol=0)


def test_rows_of_padding_alone_have_finite_answers(module: ContentModel) -> None:
    tokens, grams, extras = tensors("one")
    for answer in module(torch.zeros_like(tokens), torch.zeros_like(grams), torch.zeros_like(extras)):
        assert bool(torch.isfinite(answer).all())


def test_the_bag_is_what_tf_idf_and_a_linear_model_say() -> None:
    rng = np.random.default_rng(0)
    bag = GramBag(buckets=8)
    rarity = torch.from_numpy(rng.integers(1, 128, 16).astype(np.float32))
    weights = torch.from_numpy(rng.integers(-127, 128, (16, 4)).astype(np.float32))
    rarity[0], weights[0] = 127, 127  # so that eight bits hold these numbers exactly
    bag.set_weights(rarity, weights, torch.zeros(PLAN_COLUMNS, 4), torch.tensor([0.5, -0.5]))
    grams = np.array([3, 9, KIND_IDS + 2, KIND_IDS + 7, KIND_IDS + 13, 0])
    words, pieces = np.array([3, 1]), np.array([8 + 2, 8 + 7, 8 + 5])
    halves = np.zeros(4)
    for kind in (words, pieces):
        value = rarity.numpy()[kind].astype(np.float64)
        halves = halves + (value / np.linalg.norm(value)) @ weights.numpy()[kind]
    for has_media, side in ((True, 1), (False, -1)):
        contents = Contents.of(["any"], has_media=[has_media])
        plan = plan_columns(torch.from_numpy(rows(contents).extras))
        found = bag(torch.from_numpy(grams.astype(np.int32))[None], plan)
        np.testing.assert_allclose(found[0].numpy(), [0.5, -0.5] + halves[:2] + side * halves[2:], rtol=1e-5)


def test_plan_columns_hold_the_hour_where_it_is_known() -> None:
    extras = torch.tensor([[10.0, 1, hour, 10, 0] for hour in (-1, 0, 23)])
    hours = plan_columns(extras)[:, -24:]
    assert hours.sum(dim=1).tolist() == [0, 1, 1]
    assert hours.argmax(dim=1)[1:].tolist() == [0, 23]
    assert plan_columns(extras).shape == (3, PLAN_COLUMNS)


def test_packed_embeddings_differ_by_half_a_step_at_most() -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 16)
    weight[0] = 0
    packed = PackedEmbedding(weight)(torch.arange(50, dtype=torch.int32)[None])[0]
    assert bool(((packed - weight).abs() <= weight.abs().amax(dim=1, keepdim=True) / 127 * 0.501).all())
    assert not packed[0].any()


def test_packing_hardly_moves_answers(module: ContentModel) -> None:
    inputs = tensors("We won the final", "Nobody came")
    before = module(*inputs)
    module.reader.pack()
    module.reader.pack()  # a second time changes nothing
    for a, b in zip(before, module(*inputs), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)
