"""Adam that stays fast with large embedding tables.

Dense Adam touches every row of every table at every step, however few the batch looked up. Tables above
`SPARSE_ROWS` rows therefore get sparse gradients while training, and `SparseAdam`, which updates the rows
looked up. Below it, fused dense Adam is the faster one: sparse gradients cost a sort and many small tensors.
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
    """Gives large tables sparse gradients inside the block; afterwards all tables are as before.

    Tables that several modules share, and bags that take the maximum, keep dense gradients.
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
    """Fused Adam for dense gradients and SparseAdam for sparse ones, whichever each parameter has.

    Which one that is shows at the first step: a large table that is also used whole (as a tied output layer,
    say) has a dense gradient after all. A parameter that has none at the first step gets dense gradients from
    then on.

    Args:
        model: Its trainable parameters are optimised.
        lr: Learning rate.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        self._model = model
        self._lr = lr
        self._optimizers: list[torch.optim.Optimizer] | None = None

    def zero_grad(self) -> None:
        """Drops all gradients."""
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
