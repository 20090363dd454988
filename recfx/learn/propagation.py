"""Fast propagation for graph encoders: the same modules, with products through the recfx operator.

The zoo's encoders are plain torch. `accelerate_propagation(model)` replaces their adjacency matrices by matrices whose
products and gradients run in the native kernels, or in plain torch if the kernels were not built. Parameters and state
dicts stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

import recfx.ops.graph_kernels  # noqa: F401 - registers the kernels
from recfx.ops.propagation import propagate
from recfx.zoo import NormalizedAdjacency

Model = TypeVar("Model", bound=nn.Module)


class FastAdjacency(NormalizedAdjacency):
    """An adjacency matrix whose products run in the kernels for graphs.

    Attributes:
        halved: Whether rows that further layers gather are rounded to bfloat16.

    Args:
        plain: The matrix; its buffers are shared.
        halved: The attribute of that name.
    """

    scale: Tensor
    narrow: Tensor

    def __init__(self, plain: NormalizedAdjacency, halved: bool = False) -> None:
        nn.Module.__init__(self)
        self.halved = halved
        for name, buffer in plain.named_buffers():
            self.register_buffer(name, buffer)
        degrees = plain.offsets.diff()
        scale = torch.where(degrees > 0, degrees.clamp(min=1).double().rsqrt(), 0)
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("narrow", plain.neighbours.int(), persistent=False)
        self.train(plain.training)

    def forward(self, x: Tensor) -> Tensor:
        """[users + items, D] -> the product, of the same shape."""
        return self.combine(x, [0.0, 1.0])

    def combine(self, x: Tensor, weights: Sequence[float]) -> Tensor:
        """The sum of weights[k] times the k-th power of the matrix times x; see `NormalizedAdjacency.combine`."""
        product: Tensor = propagate(x, self.offsets, self.narrow, self.scale, list(weights), self.halved)
        return product


def accelerate_propagation(model: Model, halved: bool = False) -> Model:
    """Replaces, in place, every `NormalizedAdjacency` of a model by a `FastAdjacency`; returns the model.

    Args:
        model: A graph encoder, such as `recfx.zoo.LightGCN`, or a module that contains a graph encoder.
        halved: Round the rows that further layers gather to bfloat16: about a third less time, with relative errors of
            about 2^-9 in each layer, forward and backward. If False, results are exact up to the order of sums.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, FastAdjacency):
                child.halved = halved
            elif isinstance(child, NormalizedAdjacency):
                setattr(module, name, FastAdjacency(child, halved))
    return model
