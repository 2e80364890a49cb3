"""Texts of strangers as a terminal or a page may show them: nothing in them moves the cursor or turns a line round."""

import re

__all__ = ["excerpt", "shown"]

_BREAKS = {0x09: 0x20, 0x0A: 0x0A}
# Control pictures stand for C0 controls; what else would steer a terminal or the direction of what follows is marked.
_CONTROLS = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421} | _BREAKS
_CONTROLS |= dict.fromkeys(
    [
        *range(0x80, 0xA0),
        0x061C,
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        0x2028,
        0x2029,
        0xFEFF,
        0xFFFE,
        0xFFFF,
    ],
    0xFFFD,
)
_CONTROLS |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)
_SPACE = re.compile(r"\s+")


def shown(text: str) -> str:
    """A text of the same length in which control characters, also those of direction, are pictures of themselves; the
    line ends of Windows are a space and a line end.

    >>> shown("red \\x1b[31m, left \\u202e!")
    'red ␛[31m, left \ufffd!'
    """
    return text.replace("\r\n", " \n").translate(_CONTROLS)


def excerpt(text: str, most: int) -> str:
    """The beginning of a text on one line, of at most so many characters.

    >>> excerpt("a  long\\nstory of a fox", 12)
    'a long stor…'
    """
    line = _SPACE.sub(" ", text[: 8 * most]).strip()
    return shown(line if len(line) <= most and len(text) <= 8 * most else line[: most - 1].rstrip() + "…")
