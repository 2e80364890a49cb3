"""Texts that the embedder is quantised and judged with: sentences of our own, so that every build sees the same."""

from pathlib import Path

from meshcast.services.analyzer.embedder.tokens import embedded_text

__all__ = ["calibration_texts", "held_out_texts"]

_SENTENCES = Path(__file__).parent / "texts.txt"


def calibration_texts() -> list[str]:
    """Texts that the quantisation sees: two of three sentences, alone and together."""
    return _mixed([sentence for at, sentence in enumerate(_sentences()) if at % 3])


def held_out_texts() -> list[str]:
    """Texts that it does not see: the third of the sentences that `calibration_texts` leaves out."""
    return _mixed(_sentences()[::3])


def _sentences() -> list[str]:
    return _SENTENCES.read_text("utf-8").splitlines()


def _mixed(sentences: list[str]) -> list[str]:
    """The sentences, as many pairs, as in a text with its title, and some texts of eight: every length."""
    count = len(sentences)
    pairs = [embedded_text(sentence, sentences[(7 * at + 3) % count]) for at, sentence in enumerate(sentences)]
    long = [" ".join(sentences[(at + 11 * step) % count] for step in range(8)) for at in range(0, count, 8)]
    return [*sentences, *pairs, *long]
