"""Model of the ranker: raw features in, the probability of a click out, with the scaling inside the graph."""

import torch
from torch import Tensor, nn

from acme_ranker.features import COLUMNS

__all__ = ["ClickModel"]


class ClickModel(nn.Module):
    """One hidden layer over standardised features.

    Args:
        hidden: its width.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, *, hidden: int = 16) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(COLUMNS)))
        self.register_buffer("scale", torch.ones(len(COLUMNS)))
        self.network = nn.Sequential(nn.Linear(len(COLUMNS), hidden), nn.SiLU(), nn.Linear(hidden, 1))

    def forward(self, offer: Tensor) -> Tensor:
        """Probabilities, (B,), of offers, (B, 3), columns `COLUMNS`."""
        return torch.sigmoid(self.logit(offer))

    def logit(self, offer: Tensor) -> Tensor:
        """The same as log odds: what training works on."""
        scaled: Tensor = self.network(((torch.log1p(offer) - self.mean) * self.scale).clamp(-6, 6))
        return scaled[:, 0]

    @torch.no_grad()
    def fit_scaling(self, offer: Tensor) -> None:
        """Sets the standardisation from training rows."""
        spread, mean = torch.std_mean(torch.log1p(offer), dim=0)
        self.mean.copy_(mean)
        self.scale.copy_(1 / spread.clamp(min=1e-3))
