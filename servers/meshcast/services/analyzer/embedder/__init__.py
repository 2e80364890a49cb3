"""The embedder: all-MiniLM-L6-v2, a text's meaning as a direction of 384 numbers. A build fetches its weights."""

from meshcast.runtime import ModelSpec
from meshcast.services.analyzer.embedder.signature import SIGNATURE, TOKENS_MAX, WIDTH

__all__ = ["EMBEDDER", "SIGNATURE", "TOKENS_MAX", "WIDTH"]

EMBEDDER = ModelSpec(
    name="embedder",
    model="meshcast.services.analyzer.embedder.model:EmbedderModel",
    signature=SIGNATURE,
    is_optional=True,
    build_command="meshcast models build embedder",
    build="meshcast.services.analyzer.embedder.build:build",
)
