"""Languages are told where a text tells them, and nowhere else."""

import pytest

from meshcast.services.analyzer.languages import language_of


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The mayor opens the new bridge over the river today", "en"),
        ("Bonjour tout le monde, comment allez-vous aujourd'hui ?", "fr"),
        ("O prefeito inaugura hoje a nova ponte sobre o rio", "pt"),
        ("שלום עולם, מה שלומך היום", "he"),
        ("افتتح العمدة اليوم الجسر الجديد فوق النهر", "ar"),
        ("你好世界今天天气很好", "zh"),
        ("こんにちは世界", "ja"),
    ],
)
def test_a_sentence_tells_its_language(text: str, code: str) -> None:
    found = language_of(text)
    assert found.code == code
    assert 0.5 <= found.confidence <= 1


@pytest.mark.parametrize(
    "text", ["", " ", "😀😀", "123 456", "ok", "love " * 1_000, "\x00\x01\x02", "\ud800", "\uffff"]
)
def test_what_tells_no_language_is_und(text: str) -> None:
    assert language_of(text).code == "und"
    assert language_of(text).confidence == 0


def test_many_languages_together_are_none() -> None:
    sentences = [
        "The mayor opens the new bridge over the river today.",
        "O prefeito inaugura hoje a nova ponte sobre o rio.",
        "Der Bürgermeister eröffnet heute die neue Brücke über den Fluss.",
        "Мэр сегодня открывает новый мост через реку.",
        "Il sindaco inaugura oggi il nuovo ponte sul fiume.",
    ]
    assert language_of(" ".join(sentences * 2)).code == "und"


def test_control_characters_and_broken_surrogates_do_not_hide_the_language() -> None:
    assert language_of("\x00The mayor \x01opens the\ud800 new bridge \uffffover the river today").code == "en"
