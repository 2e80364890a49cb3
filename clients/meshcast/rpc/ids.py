"""Ids of predictions: derived from the caller's request id, so that a retry or a hedge is stored once."""

import hashlib
import secrets

__all__ = ["prediction_id", "row_id"]


def prediction_id(request_id: str) -> str:
    """Id of a question's prediction, 32 hex digits; of a chunk, the common part of its rows' ids.

    Args:
        request_id: chosen by the caller; the same gives the same id. Empty: the id is random.
    """
    if not request_id:
        return secrets.token_hex(16)
    return hashlib.blake2b(request_id.encode(), digest_size=16).hexdigest()


def row_id(base: str, row: int) -> str:
    """Id of one row of a chunk."""
    return f"{base}.{row}"
