"""Session over torch: the oracle that other back-ends are compared with. Never imported by a serving process.

With `export.py`, the only module of the runtime that imports torch.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from meshcast.runtime.session import powers
from meshcast.runtime.signature import Arrays, Signature

__all__ = ["TorchSession", "open_session"]


class TorchSession:
    """A torch module in evaluation mode."""

    def __init__(self, module: torch.nn.Module, signature: Signature) -> None:
        self._module = module.eval()
        self._signature = signature

    @property
    def backend(self) -> str:
        """Runtime, device and precision."""
        return "torch/cpu/f32"

    def run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name."""
        inputs = [torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in self._signature.input_names]
        with torch.inference_mode():
            outputs = self._module(*inputs)
        tensors = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
        named = zip(self._signature.output_names, tensors, strict=True)
        return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in named}

    def buckets(self, rows_max: int) -> tuple[int, ...]:
        """Powers of two."""
        return powers(rows_max)

    @property
    def is_shaped(self) -> bool:
        """False: nothing is kept per shape."""
        return False

    def worth(self, rows: int, cells: int) -> int:
        """All of them."""
        return rows

    def warm(self, arrays: Arrays) -> None:
        """Runs the rows once."""
        self.run(arrays)

    def close(self) -> None:
        """Nothing to free: the module belongs to the caller."""


def open_session(module: torch.nn.Module, signature: Signature) -> TorchSession:
    """A session over a module that takes the signature's inputs in order and gives its outputs in order."""
    return TorchSession(module, signature)
