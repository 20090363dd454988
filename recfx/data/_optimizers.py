"""Adam that stays fast with large embedding tables.

Dense Adam updates every row of every table at every step, even if the batch looks up few rows. Tables of at least
`SPARSE_ROWS` rows therefore get sparse gradients in training, and `SparseAdam` updates only the looked-up rows. For
smaller tables, fused dense Adam is faster: sparse gradients cost a sort and many small tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

SPARSE_ROWS = 200_000


@contextmanager
def sparse_gradients(model: nn.Module, min_rows: int = SPARSE_ROWS) -> Iterator[None]:
    """A context in which tables of at least `min_rows` rows get sparse gradients.

    Tables that several modules share, tables with `scale_grad_by_freq`, and bags of mode "max" keep dense gradients.
    """
    owners = Counter(
        id(weight) for module in model.modules() for weight in module._parameters.values() if weight is not None
    )
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    before = [table.sparse for table in tables]
    for table in tables:
        shared = owners[id(table.weight)] > 1
        dense_only = table.scale_grad_by_freq or getattr(table, "mode", None) == "max"
        table.sparse |= table.num_embeddings >= min_rows and not shared and not dense_only
    try:
        yield
    finally:
        for table, sparse in zip(tables, before, strict=True):
            table.sparse = sparse


class TableAdam:
    """Fused Adam for parameters with dense gradients, and SparseAdam for parameters with sparse gradients.

    The gradients of the first step decide. A large table that the model also uses as a whole, for instance as a tied
    output layer, has a dense gradient. A parameter without a gradient in the first step gets dense gradients later.

    Args:
        model: The model, whose trainable parameters are optimised.
        lr: Learning rate.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        self._model = model
        self._lr = lr
        self._optimizers: list[torch.optim.Optimizer] | None = None

    def zero_grad(self) -> None:
        """Sets all gradients to None."""
        self._model.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Takes one step along the gradients."""
        if self._optimizers is None:
            self._optimizers = self._build()
        for optimizer in self._optimizers:
            optimizer.step()

    def _build(self) -> list[torch.optim.Optimizer]:
        trainable = [p for p in self._model.parameters() if p.requires_grad]
        sparse = [p for p in trainable if p.grad is not None and p.grad.is_sparse]
        chosen = {id(p) for p in sparse}
        for module in self._model.modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and id(module.weight) not in chosen:
                module.sparse = False
        dense = [p for p in trainable if id(p) not in chosen]
        optimizers: list[torch.optim.Optimizer] = []
        if dense:
            optimizers.append(torch.optim.Adam(dense, lr=self._lr, fused=True))
        if sparse:
            optimizers.append(torch.optim.SparseAdam(sparse, lr=self._lr))
        return optimizers
