"""Embedder: the torch module of all-MiniLM-L6-v2, from tokens to a direction, with its published weights.

Six layers of the encoder of Devlin et al., BERT (NAACL 2019), 384 wide with 12 heads; the mean over the text's tokens
and the norm are part of the graph, after Reimers and Gurevych, Sentence-BERT (EMNLP 2019).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from meshcast.services.analyzer.embedder.signature import TOKENS_MAX, WIDTH, WORDS

__all__ = ["EmbedderModel"]

_LAYERS, _HEADS, _INNER = 6, 12, 1_536
_NORM_EPS = 1e-12
_MASKED = -1e4  # exp gives 0 for it, and a row of padding alone stays finite


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.attended_norm = nn.LayerNorm(WIDTH, eps=_NORM_EPS)
        self.widen = nn.Linear(WIDTH, _INNER)
        self.narrow = nn.Linear(_INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=_NORM_EPS)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        rows, length, _ = hidden.shape
        parts = self.query_key_value(hidden).view(rows, length, 3, _HEADS, WIDTH // _HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = torch.softmax(query @ key.transpose(-1, -2) * (WIDTH // _HEADS) ** -0.5 + bias, dim=-1)
        attended = (weights @ value).transpose(1, 2).reshape(rows, length, WIDTH)
        hidden = self.attended_norm(hidden + self.attended(attended))
        inner: Tensor = self.norm(hidden + self.narrow(functional.gelu(self.widen(hidden))))
        return inner


class EmbedderModel(nn.Module):
    """The graph of the signature. Made without arguments it holds random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.randn(WORDS, WIDTH))
        self.places = nn.Parameter(torch.zeros(TOKENS_MAX, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=_NORM_EPS)
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings, float32, shape (rows, 384), each of length 1; a row of padding alone gives zeros.

        Args:
            tokens: int32, shape (rows, length), 0 where there is no token.
        """
        mask = (tokens != 0).to(self.places.dtype)
        bias = ((1.0 - mask) * _MASKED)[:, None, None, :]
        rows, length = tokens.shape
        # Not nn.Embedding: the exporter would call its result `embedding`, which is the output's name.
        words = self.words.index_select(0, tokens.reshape(-1)).view(rows, length, WIDTH)
        hidden = self.norm(words + self.places[:length])
        for layer in self.layers:
            hidden = layer(hidden, bias)
        mean = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        return functional.normalize(mean, dim=1)

    @classmethod
    def of(cls, weights: Mapping[str, Any]) -> "EmbedderModel":
        """The module with the published weights.

        Args:
            weights: float32 tensors by the names of the published file; its pooler is not used.

        Raises:
            KeyError: a tensor is missing.
            RuntimeError: a tensor has another shape.
        """
        model = cls()
        rest = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in weights.items()}
        state = {
            "words": rest["embeddings.word_embeddings.weight"],
            # Every text is of the first kind, so what is added for the kind is added here.
            "places": rest["embeddings.position_embeddings.weight"][:TOKENS_MAX]
            + rest["embeddings.token_type_embeddings.weight"][0],
            **_named("norm", rest, "embeddings.LayerNorm"),
        }
        for at in range(_LAYERS):
            ours, theirs = f"layers.{at}", f"encoder.layer.{at}"
            for kind in ("weight", "bias"):
                state[f"{ours}.query_key_value.{kind}"] = torch.cat(
                    [rest[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
                )
            state |= _named(f"{ours}.attended", rest, f"{theirs}.attention.output.dense")
            state |= _named(f"{ours}.attended_norm", rest, f"{theirs}.attention.output.LayerNorm")
            state |= _named(f"{ours}.widen", rest, f"{theirs}.intermediate.dense")
            state |= _named(f"{ours}.narrow", rest, f"{theirs}.output.dense")
            state |= _named(f"{ours}.norm", rest, f"{theirs}.output.LayerNorm")
        model.load_state_dict(state)
        return model


def _named(ours: str, rest: Mapping[str, Tensor], theirs: str) -> dict[str, Tensor]:
    return {f"{ours}.{kind}": rest[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
