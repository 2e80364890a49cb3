import pytest

from meshcast.services.analyzer.embedder.texts import calibration_texts, held_out_texts
from meshcast.services.analyzer.embedder.tokens import embedded_text, tokenize


@pytest.mark.parametrize("texts", [calibration_texts(), held_out_texts()], ids=["calibration", "held out"])
def test_the_texts_of_the_build_have_every_length(texts: list[str]) -> None:
    lengths = [len(row) for row in tokenize(texts).tokens]
    assert min(lengths) <= 5 and max(lengths) > 128 and len(texts) > 100


def test_no_text_is_both_seen_and_judged() -> None:
    assert not set(calibration_texts()) & set(held_out_texts())


def test_pairs_are_put_together_as_a_text_and_its_title_are_when_they_are_asked_for() -> None:
    for texts in (calibration_texts(), held_out_texts()):
        pairs = [text for text in texts if "\n" in text]
        assert len(pairs) > len(texts) // 3
        assert all(embedded_text(*pair.split("\n")) == pair and set(pair.split("\n")) <= set(texts) for pair in pairs)
