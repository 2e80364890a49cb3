"""Content model: tokens, n-grams and what else is known of a post go in, two calibrated probabilities come out.

A bag of hashed n-grams, normalised as TF-IDF is, answers both questions linearly. A convolution over the tokens and a
transformer encoder read what a bag cannot, order and context, and correct the bag's answer together with lengths, media
and hour. Weights of n-grams, their damping by frequency, every normalisation and the calibration are tables and buffers
of the module, so its exported graph needs no code beside it. Zeros at the end of tokens or n-grams change nothing.
"""

import torch
from torch import Tensor, nn

from meshcast.services.analyzer.features import EXTRAS, GRAMS_UNIT, TITLE_TOKEN, TOKENS_MAX, TOKENS_UNIT
from meshcast.services.analyzer.grams import GRAM_IDS, KIND_IDS
from meshcast.services.analyzer.signature import TOKEN_IDS

__all__ = [
    "OUTPUTS",
    "PLAN_COLUMNS",
    "ContentModel",
    "GramBag",
    "TextReader",
    "example_inputs",
    "plan_columns",
]

OUTPUTS = ("above_median", "viral")
"""Names of the graph's outputs, in its order: the questions."""

_EXTRA = {name: k for k, name in enumerate(EXTRAS)}
_LENGTHS = ("content_length", "text_length", "title_length")
_KNEES = (3.0, 4.0, 5.0)  # log1p of 19, 54 and 147 code points: short, middling and long texts
_HOURS = 24
PLAN_COLUMNS = len(_LENGTHS) * (1 + len(_KNEES)) + 4 + _HOURS
"""Columns of `plan_columns`."""
_MEDIA = 0  # which of them says whether media are attached

_TINY = 1e-6  # a text without n-grams has length 0
_CODE_MAX = 127  # of int8
_FAR = -1e4  # in place of minus infinity: a row of padding alone must stay finite


class GramBag(nn.Module):
    """Linear answers from a bag of hashed n-grams, each kind weighed by rarity and normalised to length 1.

    Each n-gram, and each column of the plan, has two weights to a question: what it adds, and what it adds times the
    row's side, which is 1 with media attached and -1 without.

    Args:
        buckets: rows of the tables of each kind, a power of two up to `KIND_IDS`; ids that agree in their lowest bits
            share one.
    """

    rarity: Tensor
    rarity_scale: Tensor
    weights: Tensor
    weight_scale: Tensor
    plan: Tensor
    bias: Tensor

    def __init__(self, *, buckets: int = 1 << 17) -> None:
        super().__init__()
        self.buckets = buckets
        self.register_buffer("rarity", torch.zeros(2 * buckets, 1, dtype=torch.int8))
        self.register_buffer("rarity_scale", torch.ones(()))
        self.register_buffer("weights", torch.zeros(2 * buckets, 2 * len(OUTPUTS), dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(2 * len(OUTPUTS)))
        self.register_buffer("plan", torch.zeros(PLAN_COLUMNS, 2 * len(OUTPUTS)))
        self.register_buffer("bias", torch.zeros(len(OUTPUTS)))

    def forward(self, grams: Tensor, plan: Tensor) -> Tensor:
        """Log odds of both questions, (B, 2), of n-grams (B, G), int32, 0 = padding, and `plan_columns`."""
        real = grams > 0
        piece = grams >= KIND_IDS
        bucket = (grams % self.buckets + piece.to(torch.int32) * self.buckets).long()
        rarity = nn.functional.embedding(bucket, self.rarity)[:, :, 0].float() * self.rarity_scale * real
        square = rarity * rarity
        pieces = (square * piece).sum(dim=1, keepdim=True)
        words = (square * ~piece).sum(dim=1, keepdim=True)
        value = rarity * torch.rsqrt(torch.where(piece, pieces, words) + _TINY)
        weights = nn.functional.embedding(bucket, self.weights).float() * self.weight_scale
        either, with_media = ((weights * value[:, :, None]).sum(dim=1) + plan @ self.plan).chunk(2, dim=1)
        answer: Tensor = either + with_media * (2 * plan[:, _MEDIA : _MEDIA + 1] - 1) + self.bias
        return answer

    @torch.no_grad()
    def set_weights(self, rarity: Tensor, weights: Tensor, plan: Tensor, bias: Tensor) -> None:
        """Takes fitted weights; those of n-grams are kept in eight bits, which moves no answer by more than noise.

        Args:
            rarity: shape (2 * buckets,), what a bucket counts for before normalisation.
            weights: shape (2 * buckets, 4), what a bucket adds to the log odds, and what it adds times the side.
            plan: shape (`PLAN_COLUMNS`, 4), the same of the columns beside the words.
            bias: shape (2,).
        """
        self.rarity_scale.copy_(rarity.abs().max().clamp(min=_TINY) / _CODE_MAX)
        self.rarity.copy_((rarity[:, None] / self.rarity_scale).round().to(torch.int8))
        self.weight_scale.copy_(weights.abs().amax(dim=0).clamp(min=_TINY) / _CODE_MAX)
        self.weights.copy_((weights / self.weight_scale).round().to(torch.int8))
        self.plan.copy_(plan)
        self.bias.copy_(bias)


class PackedEmbedding(nn.Module):
    """An embedding whose rows are kept in eight bits, each with a scale of its own; not for training.

    Args:
        weight: shape (ids, width), float32.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scales = weight.detach().abs().amax(dim=1, keepdim=True).clamp(min=_TINY) / _CODE_MAX
        self.register_buffer("scales", scales)
        self.register_buffer("codes", (weight.detach() / scales).round().to(torch.int8))

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the ids (B, T), (B, T, width), float32."""
        at = ids.long()
        answer: Tensor = nn.functional.embedding(at, self.codes).float() * nn.functional.embedding(at, self.scales)
        return answer


class TextReader(nn.Module):
    """Reads tokens in order: a convolution over neighbours, a transformer encoder layer, means and maxima of the row.

    Args:
        width: of a token's embedding.
        heads: of the attention.
        dropout: share of units left out while training.
    """

    def __init__(self, *, width: int = 64, heads: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self._heads = heads
        words = nn.Embedding(TOKEN_IDS, width, padding_idx=0)
        self.token: nn.Embedding | PackedEmbedding = words
        self.place = nn.Parameter(torch.zeros(TOKENS_MAX, width))
        self.in_title = nn.Parameter(torch.zeros(width))
        self.near = nn.Conv1d(width, width, 3, padding=1)
        self.near_norm = nn.LayerNorm(width)
        self.attend_norm = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.think_norm = nn.LayerNorm(width)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(words.weight, std=0.1)
        with torch.no_grad():
            words.weight[0].zero_()

    def pack(self) -> None:
        """Keeps the tokens' embeddings in eight bits from here on, a quarter of the file; training is over then."""
        if isinstance(self.token, nn.Embedding):
            self.token = PackedEmbedding(self.token.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """What was read, (B, 2 * width), of tokens (B, T), int32, 0 = padding."""
        real = (tokens > 0)[:, :, None].float()
        length = tokens.shape[1]
        title = ((tokens == TITLE_TOKEN).to(torch.int32).cumsum(dim=1) > 0)[:, :, None].float()
        x = (self.token(tokens) + self.place[:length] + title * self.in_title) * real
        x = self.dropout(x)
        near = self.near(x.transpose(1, 2)).transpose(1, 2)
        x = self.near_norm(x + nn.functional.silu(near)) * real
        x = x + self.dropout(self._attended(self.attend_norm(x), real))
        x = (x + self.dropout(self.think(self.think_norm(x)))) * real
        mean = x.sum(dim=1) / real.sum(dim=1).clamp(min=1.0)
        top = (x + (1 - real) * _FAR).amax(dim=1).clamp(min=_FAR / 2)
        return torch.cat([mean, top * (real.sum(dim=1) > 0)], dim=1)

    def _attended(self, x: Tensor, real: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (
            part.reshape(batch, length, self._heads, -1).transpose(1, 2) for part in self.attend(x).chunk(3, dim=2)
        )
        scores = query @ key.transpose(2, 3) * (width // self._heads) ** -0.5
        scores = scores + (1 - real).reshape(batch, 1, 1, length) * _FAR
        found = (torch.softmax(scores, dim=3) @ value).transpose(1, 2).reshape(batch, length, width)
        answer: Tensor = self.attended(found)
        return answer


class ContentModel(nn.Module):
    """What a text will do: calibrated probabilities of both questions.

    Args:
        buckets: of the bag; see `GramBag`.
        width: of the reader; see `TextReader`.
        hidden: width of the network that joins everything.
        dropout: share of units left out while training.
    """

    calibration: Tensor

    def __init__(self, *, buckets: int = 1 << 17, width: int = 64, hidden: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.bag = GramBag(buckets=buckets)
        self.reader = TextReader(width=width, dropout=dropout)
        self.plan = nn.Sequential(nn.Linear(PLAN_COLUMNS, hidden), nn.SiLU())
        self.join = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * width + hidden + 2, hidden), nn.SiLU(), nn.Dropout(dropout)
        )
        self.answer = nn.Linear(hidden, len(OUTPUTS) + 1)
        nn.init.zeros_(self.answer.weight)  # start as the bag alone
        nn.init.zeros_(self.answer.bias)
        self.register_buffer("calibration", torch.tensor([[1.0, 1.0, 0.0]] * len(OUTPUTS)))

    def forward(self, tokens: Tensor, grams: Tensor, extras: Tensor) -> tuple[Tensor, Tensor]:
        """Calibrated probabilities.

        Args:
            tokens: shape (B, T), int32, 0 = padding.
            grams: shape (B, G), int32, 0 = padding.
            extras: shape (B, E), float32, columns `EXTRAS`.

        Returns:
            `above_median` (B,) and `viral` (B,).
        """
        plan = plan_columns(extras)
        bag = self.bag(grams, plan)
        correction, _ = self.correction(tokens, bag, plan)
        odds = bag * self.calibration[:, 0] + correction * self.calibration[:, 1] + self.calibration[:, 2]
        above_median, viral = torch.sigmoid(odds).unbind(dim=1)
        return above_median, viral

    def correction(self, tokens: Tensor, bag: Tensor, plan: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be added to the bag's log odds, (B, 2), and what training also asks for, the rank, (B,).

        Args:
            tokens: as `forward`.
            bag: shape (B, 2), the bag's log odds.
            plan: shape (B, `PLAN_COLUMNS`).
        """
        answer = self.answer(self.join(torch.cat([self.reader(tokens), self.plan(plan), bag], dim=1)))
        return answer[:, : len(OUTPUTS)], answer[:, -1]

    @torch.no_grad()
    def set_calibration(self, lines: Tensor) -> None:
        """Sets, for both questions, what the bag counts for, what the correction does, and the intercept: (2, 3)."""
        self.calibration.copy_(lines)


def plan_columns(extras: Tensor) -> Tensor:
    """What is known beside the words, (B, `PLAN_COLUMNS`), of about unit size, from columns `EXTRAS`."""
    known = {name: extras[:, k : k + 1] for name, k in _EXTRA.items()}
    media, titled = known["has_media"], (known["title_length"] > 0).float()
    cut = (known["content_length"] > known["text_length"]).float()
    columns = [media, titled, media * titled, cut]
    for name in _LENGTHS:
        length = torch.log1p(known[name])
        columns += [length * 0.25, *(torch.relu(length - knee) for knee in _KNEES)]
    hours = (known["hour_of_day"] == torch.arange(_HOURS, device=extras.device)).float()
    return torch.cat([*columns, hours], dim=1)


def example_inputs(rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the right shapes for an export; at least two rows, since one would freeze the batch at 1."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, TOKEN_IDS, (rows, 2 * TOKENS_UNIT), generator=generator, dtype=torch.int32)
    grams = torch.randint(1, GRAM_IDS, (rows, 2 * GRAMS_UNIT), generator=generator, dtype=torch.int32)
    return tokens, grams, torch.full((rows, len(EXTRAS)), 10.0)
