"""Resume tokens: where a stream of rows goes on after a crash, as a value, a message and a text."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from meshcast.api.type.v1 import error_reason_pb2, resume_token_pb2
from meshcast.rpc import InvalidInput

__all__ = ["STREAM_ID_MAX", "ResumeToken", "check_stream_id", "source_digest"]

STREAM_ID_MAX = 96
"""Characters of a stream's id at most: request ids, which follow from it, have 128."""

_CHUNK_ROWS_MAX = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeToken:
    """Where a stream goes on. Nothing else is kept anywhere, on no server.

    >>> token = ResumeToken(stream_id="nightly", next_row=512, model_version=3)
    >>> token.text, ResumeToken.parse(token.text) == token
    ('CgduaWdodGx5EIAEGAMogAI', True)

    Attributes:
        stream_id: chosen by the caller; request ids of chunks follow from it and from their first row.
        next_row: first row, from 0 in the source, that is not stored yet.
        model_version: version that answered the rows so far and must answer the others; 0 before the first answer.
        source_digest: of the source, see `source_digest`; empty where nothing is known of it.
        chunk_rows: rows of a chunk at most.
    """

    stream_id: str
    next_row: int = 0
    model_version: int = 0
    source_digest: bytes = b""
    chunk_rows: int = 256

    @property
    def text(self) -> str:
        """The token as text: base64url of its message, without padding."""
        message = resume_token_pb2.ResumeToken(
            stream_id=self.stream_id,
            next_row=self.next_row,
            model_version=self.model_version,
            source_digest=self.source_digest,
            chunk_rows=self.chunk_rows,
        )
        return base64.urlsafe_b64encode(message.SerializeToString(deterministic=True)).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str, where: str = "the resume token") -> ResumeToken:
        """The token of a text.

        Args:
            text: as `text` gives it.
            where: what errors call it.

        Raises:
            InvalidInput: TOKEN_INVALID, it is damaged, or no token at all.
        """
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            message = resume_token_pb2.ResumeToken.FromString(data)
        except (binascii.Error, ValueError, DecodeError) as error:
            raise _invalid(f"{where} is damaged: it is not the text of a token") from error
        token = cls(
            stream_id=message.stream_id,
            next_row=message.next_row,
            model_version=message.model_version,
            source_digest=message.source_digest,
            chunk_rows=message.chunk_rows,
        )
        is_sound = (
            1 <= len(token.stream_id) <= STREAM_ID_MAX
            and token.next_row >= 0
            and token.model_version >= 0
            and 1 <= token.chunk_rows <= _CHUNK_ROWS_MAX
            and token.text == text.rstrip("=")
        )
        if not is_sound:
            raise _invalid(f"{where} is damaged: it holds {token}")
        return token

    def after(self, rows: int, model_version: int) -> ResumeToken:
        """The token once so many more rows are stored, the last of them answered by this version."""
        return replace(self, next_row=self.next_row + rows, model_version=model_version)

    def checked(
        self, *, stream_id: str | None, source: bytes, chunk_rows: int | None, rows_total: int, where: str
    ) -> ResumeToken:
        """The token itself, once it is known to be of this stream over this source.

        Args:
            stream_id: of the stream that is to go on; None takes the token's.
            source: digest of its source; empty where nothing is known of it.
            chunk_rows: rows of a chunk that the caller asks for; None takes the token's.
            rows_total: rows of the source.
            where: what holds the token, for the error.

        Raises:
            InvalidInput: TOKEN_INVALID, with what differs and the way out.
        """
        differs = []
        if stream_id is not None and stream_id != self.stream_id:
            differs.append(f"it is of the stream {self.stream_id!r}, not of {stream_id!r}")
        if source and self.source_digest and source != self.source_digest:
            differs.append("its rows are of another source, or were asked with other options")
        elif self.next_row > rows_total:
            differs.append(f"it has {self.next_row:,} rows, the source {rows_total:,}")
        if chunk_rows is not None and chunk_rows != self.chunk_rows:
            differs.append(f"its chunks have {self.chunk_rows} rows, not {chunk_rows}")
        if differs:
            raise _invalid(
                f"{where} belongs to another stream: {'; '.join(differs)}. Give the same source and options as "
                "then, or another sink"
            )
        return self


def source_digest(parts: Iterable[Any]) -> bytes:
    """What is said of a source, so that a stream does not go on over another one: 16 bytes.

    Args:
        parts: arrays, bytes, texts and numbers that tell it from others; their order and their ends count.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data: Any
        if isinstance(part, np.ndarray):
            head = f"{part.dtype.str}{part.shape}"
            data = np.ascontiguousarray(part).reshape(-1).view(np.uint8) if part.nbytes else b""  # no copy of a column
        else:
            head = type(part).__name__
            data = part if isinstance(part, bytes) else str(part).encode(errors="surrogatepass")
        digest.update(f"{len(head)}:{head}{len(data)}:".encode())
        digest.update(data)
    return digest.digest()


def check_stream_id(stream_id: str) -> None:
    """Refuses an id that is none.

    Raises:
        InvalidInput: it is empty or too long.
    """
    if not 1 <= len(stream_id) <= STREAM_ID_MAX:
        text = f"stream_id must have 1 to {STREAM_ID_MAX} characters, has {len(stream_id)}"
        raise InvalidInput(text, field="stream_id")


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, field="resume_token", reason=error_reason_pb2.ERROR_REASON_TOKEN_INVALID)
