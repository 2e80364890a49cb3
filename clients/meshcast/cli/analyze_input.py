"""What `meshcast analyze` is given: one text, or the rows of a file; with every fault placed and the way out."""

import codecs
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from meshcast.cli.problem import ExitCode, Problem, translate
from meshcast.client import Content
from meshcast.columns import TABLE_FORMS, decoded, kind_of, read_bytes
from meshcast.contents import BYTES_MAX, ContentRows, read_contents
from meshcast.rpc import InvalidInput, MeshError

__all__ = ["Details", "Encoding", "TextInput", "as_input", "given"]

_TEXT_FORMS = (".txt", ".md")
_WAYS = "give a table (.csv, .jsonl or .parquet), a text (.txt or .md), - for standard input, or --text"
# They are no encoding of files, and what some of them make of bytes no encoding can write.
_NO_ENCODINGS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})
_READ_MAX = 4 * BYTES_MAX + 1  # no encoding that is in use takes more than 4 bytes where UTF-8 takes 1


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How bytes are to be read.

    Attributes:
        name: of the encoding.
        replace_invalid: take bytes that are none of it as U+FFFD.
    """

    name: str = "utf-8"
    replace_invalid: bool = False

    @property
    def codec(self) -> str:
        """Its codec, which leaves a byte order mark out.

        Raises:
            Problem: there is no such encoding of texts.
        """
        try:
            name = codecs.lookup(self.name).name
        except LookupError as error:
            way_out = "latin-1, cp1252 and utf-16 are frequent ones"
            raise Problem(f"--encoding {self.name}: is not known", way_out=way_out) from error
        try:
            if name not in _NO_ENCODINGS:
                b"x".decode(name, "replace")
                return "utf-8-sig" if name == "utf-8" else name
        except LookupError:  # of a codec of other things than texts, as base64
            pass
        raise Problem(f"--encoding {self.name}: is no encoding of texts", way_out="as in --encoding latin-1")


@dataclass(frozen=True, kw_only=True)
class Details:
    """What is said of one text beside the text."""

    title: str = ""
    has_media: bool = False
    hour_of_day: int | None = None


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """One text.

    Attributes:
        source: what to call it.
        content: the post.
    """

    source: str
    content: Content


def given(file: str | None, text: str | None, details: Details, encoding: Encoding) -> TextInput | ContentRows:
    """What is to be analysed: one text, or the rows of a file in their order.

    Args:
        file: path of a file, `-` for standard input, or None.
        text: a text, or None; one of the two must be given.
        details: of one text.
        encoding: of bytes.

    Raises:
        Problem: neither or both are given, or the file or text breaks a rule; its place is named.
    """
    if (file is None) == (text is None):
        wrong = "nothing to analyze" if file is None else "both a FILE and --text are given"
        raise Problem(wrong, way_out=_WAYS)
    try:
        details = replace(details, title=_unescaped(details.title, "--title", encoding))
        if text is not None:
            return _one("text", _unescaped(text, "--text", encoding), details)
        assert file is not None
        if file == "-":
            return _one(*_text_of(sys.stdin.buffer.read(_READ_MAX), "standard input", encoding), details)
        path = Path(file)
        form, packing = kind_of(path, (*TABLE_FORMS, *_TEXT_FORMS), _WAYS)
        if form in _TEXT_FORMS:
            return _one(*_text_of(read_bytes(path, packing, most=_READ_MAX), path.name, encoding), details)
        if details != Details():
            raise Problem("--title, --media and --hour belong to one text; a table has columns for them")
        return read_contents(path, encoding=encoding.codec, replace_invalid=encoding.replace_invalid)
    except MeshError as error:
        raise as_input(error) from error


def _one(source: str, text: str, details: Details) -> TextInput:
    if not (text.strip() or details.title.strip()):
        raise Problem(f"{source} holds no text")
    size = len(text.encode()) + len(details.title.encode())
    if size > BYTES_MAX:
        raise _too_long(source, f"{size:,} bytes of UTF-8")
    content = Content(text=text, title=details.title, has_media=details.has_media, hour_of_day=details.hour_of_day)
    return TextInput(source=source, content=content)


def _text_of(data: bytes, source: str, encoding: Encoding) -> tuple[str, str]:
    """A source and its text."""
    if len(data) >= _READ_MAX:
        raise _too_long(source, f"more than {_READ_MAX - 1:,} bytes")
    return source, _decoded(data, source, encoding)


def _too_long(source: str, size: str) -> Problem:
    way_out = "give its beginning: the model reads no more than that"
    return Problem(f"{source}: {size}, at most {BYTES_MAX:,} are taken", way_out=way_out)


def _decoded(data: bytes, source: str, encoding: Encoding) -> str:
    return decoded(data, source, encoding=encoding.codec, replace_invalid=encoding.replace_invalid)


def _unescaped(text: str, source: str, encoding: Encoding) -> str:
    """A word of the command line, in which bytes that are not UTF-8 stand as lone surrogates."""
    try:
        return decoded(text.encode("utf-8", "surrogateescape"), source, replace_invalid=encoding.replace_invalid)
    except InvalidInput as error:
        way_out = "--replace-invalid takes them as U+FFFD"
        raise Problem(f"{source} holds bytes that are not UTF-8", way_out=way_out) from error


def as_input(error: MeshError) -> Problem:
    """A fault of the file as bad input, whatever class the rule has elsewhere; of its bytes, with the ways out."""
    problem = translate(error)
    if problem.exit_code is ExitCode.REFUSED:
        problem.exit_code = ExitCode.USAGE
    if isinstance(error, InvalidInput) and ("byte" in error.facts or "lone surrogate" in error.message):
        name = "--encoding NAME reads another one, as in --encoding latin-1; " if "byte" in error.facts else ""
        problem.way_out = f"{name}--replace-invalid takes what is none as U+FFFD"
    return problem
