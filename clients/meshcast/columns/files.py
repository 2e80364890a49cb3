"""Files of rows: told by their names, opened packed or not, and written so that they appear only when whole."""

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from meshcast.api.type.v1 import error_reason_pb2
from meshcast.rpc.errors import InvalidInput, NotFound, Precondition

__all__ = ["FileKind", "decoded", "kind_of", "load_pyarrow", "open_text", "read_bytes", "written_whole"]

_OPEN: Mapping[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_CUT_OFF = (EOFError, lzma.LZMAError, zlib.error)


class FileKind(NamedTuple):
    """What a file is by its name."""

    form: str
    """The form, as in `.csv`; empty when the name tells none."""
    packing: str
    """How it is packed, as in `.gz`; empty when it is not."""


def kind_of(path: Path, forms: Sequence[str], way_out: str) -> FileKind:
    """The kind of a file by its name.

    Args:
        path: the file, which need not be there.
        forms: the forms that are taken, as in `.csv`; `.parquet` is never taken packed.
        way_out: said when it is of none of them.

    Raises:
        InvalidInput: it is of none of the forms.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in _OPEN else ""
    form = suffixes[-1] if suffixes else ""
    if form not in forms or (packing and form == ".parquet"):
        raise InvalidInput(f"{path.name}: the kind of file is not known by its name; {way_out}", file=path.name)
    return FileKind(form, packing)


def read_bytes(path: Path, packing: str = "", *, most: int = -1) -> bytes:
    """The bytes of a file, unpacked, at most so many of them; all where `most` is negative.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it cannot be read, or is cut off.
    """
    with _refused(path, packing), _open(path, packing) as file:
        data: bytes = file.read(most)
    return data


def decoded(data: bytes, source: str, *, encoding: str = "utf-8-sig", replace_invalid: bool = False) -> str:
    """The text that bytes are.

    Args:
        data: the bytes.
        source: what errors call them, as in `posts.csv`.
        encoding: theirs; a byte order mark at the beginning is left out.
        replace_invalid: take bytes that are none of the encoding as U+FFFD.

    Raises:
        InvalidInput: they are not in that encoding; line and byte are named.
    """
    try:
        return data.decode(encoding, "replace" if replace_invalid else "strict")
    except UnicodeDecodeError as error:
        given = bytes(error.object)  # not `data`: places are counted after a byte order mark that was left out
        line = given.count(b"\n", 0, error.start) + 1
        place = error.start - given.rfind(b"\n", 0, error.start)
        raise _not_decoded(source, line, place, given[error.start], encoding) from error


@contextmanager
def open_text(path: Path, packing: str = "") -> Iterator[io.TextIOWrapper]:
    """A UTF-8 file, unpacked as it is read, so that memory does not grow with it; line ends are left as they are.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it cannot be read, is cut off or is not UTF-8; line and byte are named.
    """
    with (
        _refused(path, packing),
        _open(path, packing) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
    ):
        yield text


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well and is removed when it does not."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_pyarrow() -> tuple[Any, Any]:
    """pyarrow and its Parquet module, imported only here, since they are an extra.

    Raises:
        Precondition: the extra `parquet` is not installed; the line that installs it is named.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        command = "pip install 'meshcast[parquet]'"
        raise Precondition(
            f"Parquet files need an optional part of Meshcast: {command}",
            reason=error_reason_pb2.ERROR_REASON_EXTRA_MISSING,
            extra="parquet",
            command=command,
        ) from error
    return pyarrow, pyarrow.parquet


def _open(path: Path, packing: str) -> IO[bytes]:
    return _OPEN[packing](path) if packing else path.open("rb")


@contextmanager
def _refused(path: Path, packing: str) -> Iterator[None]:
    """Turns what reading a file raises into the refusal that a person can act on."""
    name = path.name
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{path}: there is no such file", file=name) from error
    except UnicodeDecodeError as error:
        raise _not_decoded(name, *_place(path, packing), "utf-8") from error
    except OSError as error:
        if packing and error.errno is None:
            raise _cut_off(name, packing, error) from error
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}", file=name) from error
    except _CUT_OFF as error:
        if not packing:
            raise
        raise _cut_off(name, packing, error) from error


def _cut_off(name: str, packing: str, error: Exception) -> InvalidInput:
    text = f"{name}: is cut off or not a {packing} file ({error}); pack it again, or give it unpacked"
    return InvalidInput(text, file=name)


def _not_decoded(source: str, line: int, column: int, byte: int, encoding: str) -> InvalidInput:
    shown, way = encoding, "name another encoding"
    if encoding in ("utf-8", "utf-8-sig"):
        shown, way = "UTF-8", "save the file as UTF-8"
    return InvalidInput(
        f"{source}, line {line}, byte {column}: is not {shown}; {way}",
        violations=[(f"line {line}", f"byte 0x{byte:02x} is not {shown}")],
        file=source,
        line=line,
        byte=column,
    )


def _place(path: Path, packing: str) -> tuple[int, int, int]:
    """Line, byte in it (both from 1) and value of the first byte that is not UTF-8; reads the file again."""
    with _open(path, packing) as file:
        for line, data in enumerate(file, start=1):
            try:
                data.decode()
            except UnicodeDecodeError as error:
                return line, error.start + 1, data[error.start]
    return 1, 1, 0
