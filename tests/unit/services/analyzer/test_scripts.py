"""Characters are counted by what they are."""

from meshcast.services.analyzer.scripts import characters_of


def test_letters_of_several_scripts_and_directions() -> None:
    found = characters_of("Hello МИР שלום 你好 42 ٣")
    assert found.scripts == {"Latin": 5, "Hebrew": 4, "Cyrillic": 3, "Han": 2}
    assert (found.letters, found.right_to_left, found.upper, found.lower, found.digits) == (14, 4, 4, 4, 3)


def test_control_and_invisible_characters_but_not_those_of_lines_and_emoji() -> None:
    found = characters_of("a\r\n\tb\x00\x7f\u200b\u200e\ufeff👨\u200d👩\u200d👧❤\ufe0f")
    assert (found.control, found.invisible) == (2, 3)


def test_letters_of_dead_scripts_are_other_and_those_of_mathematics_of_none() -> None:
    found = characters_of("𓀀𝓗")
    assert found.scripts == {"Other": 1}
    assert found.letters == 2
