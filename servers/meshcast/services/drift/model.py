"""Autoencoder of rows: a row goes in, how badly it is rebuilt from a code of eight numbers, and the code, come out.

It is trained on one reference and rebuilds what is usual there; where columns no longer go together as they did, the
error rises or the code moves, though no column by itself has changed. Scaling, nulls and clipping are inside the graph.
"""

import torch
from torch import Tensor, nn

from meshcast.services.drift.signature import CODES

__all__ = ["CLIP", "AutoEncoder", "example_inputs"]

CLIP = 8.0
"""Standard deviations beyond which a value counts as this far, infinities too."""


class AutoEncoder(nn.Module):
    """Rebuilds the rows of a reference from eight numbers each: straight lines, and a network for what is bent.

    Args:
        columns: that the reference has.
        hidden: width of the layer on either side of the code.
    """

    centre: Tensor
    scale: Tensor
    weight: Tensor
    used: Tensor
    code_mean: Tensor
    code_scale: Tensor
    beyond: Tensor

    def __init__(self, columns: int = 64, hidden: int = 96) -> None:
        super().__init__()
        self.columns = columns
        self.line_in = nn.Linear(columns, CODES, bias=False)
        self.line_out = nn.Linear(CODES, columns)
        self.bend_in = nn.Sequential(nn.Linear(columns, hidden), nn.SiLU(), nn.Linear(hidden, CODES, bias=False))
        self.bend_out = nn.Sequential(nn.Linear(CODES, hidden), nn.SiLU(), nn.Linear(hidden, columns, bias=False))
        self.register_buffer("centre", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.register_buffer("weight", torch.ones(columns))
        self.register_buffer("used", torch.ones(CODES))
        self.register_buffer("code_mean", torch.zeros(CODES))
        self.register_buffer("code_scale", torch.ones(CODES))
        self.register_buffer("beyond", torch.zeros(1, columns))

    def forward(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Error and code.

        Args:
            row: shape (B, n), float32, NaN for null; columns beyond those of the reference are not looked at, missing
                ones are 0.

        Returns:
            `error` (B,), weighted mean of squares over the columns that are not null (0 where all are), and `code`
            (B, 8).
        """
        x, present = self.scaled(row)
        code = self.encode(x)
        weight = self.weight * present
        square = (self.decode(code) - x) ** 2 * weight
        error = square.sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)
        return error, (code - self.code_mean) * self.code_scale

    def encode(self, x: Tensor) -> Tensor:
        """Codes (B, 8) of scaled rows (B, columns), not scaled yet; a number that is not used is 0."""
        code: Tensor = (self.line_in(x) + self.bend_in(x)) * self.used
        return code

    def decode(self, code: Tensor) -> Tensor:
        """Scaled rows (B, columns) rebuilt from the codes of `encode`."""
        x: Tensor = self.line_out(code) + self.bend_out(code)
        return x

    def scaled(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """The reference's columns in its standard deviations, 0 where null, and 1 where not null; each (B, columns).

        Args:
            row: as `forward`.
        """
        x = torch.cat([row, self.beyond.expand(row.shape[0], -1)], dim=1)[:, : self.columns]
        scaled = (x - self.centre) * self.scale
        # A null, and an infinity in a column that is switched off: infinity times 0.
        scaled = torch.where(torch.isnan(scaled), torch.zeros_like(scaled), scaled)
        return scaled.clamp(-CLIP, CLIP), (~torch.isnan(x)).float()

    @torch.no_grad()
    def set_scaling(self, centre: Tensor, scale: Tensor, weight: Tensor) -> None:
        """Sets what is taken off each column, what the rest is multiplied by, and what the column's error counts for.

        Args:
            centre: shape (columns,), in the column's unit.
            scale: shape (columns,), one over its unit; 0 switches a column off.
            weight: shape (columns,).
        """
        self.centre.copy_(centre)
        self.scale.copy_(scale)
        self.weight.copy_(weight)

    @torch.no_grad()
    def set_lines(self, axes: Tensor, mean: Tensor) -> None:
        """Begins at straight lines alone: principal components, whose number is how many of the eight are used.

        Args:
            axes: shape (k, columns), unit length, k from 1 to 8, of the scaled rows times the root of their weight.
            mean: shape (columns,), of the scaled rows.
        """
        root = self.weight.sqrt()
        self.used.copy_((torch.arange(CODES) < len(axes)).float())
        for weight in (self.line_in.weight, self.line_out.weight, *self.bend_in[-1].parameters()):
            weight.zero_()
        for weight in self.bend_out[-1].parameters():
            weight.zero_()
        self.line_in.weight[: len(axes)] = axes * root
        self.line_out.weight[:, : len(axes)] = (axes / root.clamp(min=1e-3)).T * (root > 0)[:, None]
        self.line_out.bias.zero_()
        self.line_out.bias.copy_(mean - self.line_out(self.line_in(mean)))

    @torch.no_grad()
    def set_code_scaling(self, codes: Tensor) -> None:
        """Makes the numbers of the code have mean 0 and variance 1 over the codes (rows, 8) that `encode` gives."""
        spread, mean = torch.std_mean(codes, dim=0)
        self.code_mean.copy_(mean)
        self.code_scale.copy_(1 / spread.clamp(min=1e-3))


def example_inputs(rows: int = 2, columns: int = 64) -> tuple[Tensor]:
    """Inputs of the right shape for an export; at least two rows, since one would freeze the batch at 1."""
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)),)
