"""MMoE: Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from recfx.zoo.base import CRITEO_ROWS, SMALL_ROWS, CtrModel
from recfx.zoo.errors import require
from recfx.zoo.layers import MLP, FieldEmbeddings


class MMoE(CtrModel):
    """Experts shared by all tasks, mixed by one softmax gate per task, and one tower per task; returns logits [B, tasks].

    f_k(x) = sum_i softmax(W_k x)_i expert_i(x), y_k = tower_k(f_k(x)) (equations 6 and 7).

    Args:
        tables: Rows of each sparse field's table.
        dense: Number of dense features.
        dim: Columns of the tables.
        tasks: Number of tasks.
        experts: Number of experts; the paper's 8.
        expert: Hidden widths of each expert.
        tower: Hidden widths of each task's tower.

    Raises:
        ZooError: There is no task or no expert, or the experts have no layers.
    """

    def __init__(
        self,
        tables: Sequence[int] = CRITEO_ROWS,
        dense: int = 13,
        dim: int = 16,
        *,
        tasks: int = 2,
        experts: int = 8,
        expert: Sequence[int] = (256, 128),
        tower: Sequence[int] = (64,),
    ) -> None:
        super().__init__(tables, dense, dim)
        require(
            tasks >= 1 and experts >= 1 and len(expert) >= 1,
            f"needs a task, an expert and a layer, got {tasks} tasks and {experts} experts of widths {list(expert)}",
            where="MMoE",
        )
        width = dense + len(tables) * dim
        self.embeddings = FieldEmbeddings(tables, dim)
        self.experts = nn.ModuleList(MLP(width, expert) for _ in range(experts))
        self.gates = nn.ModuleList(nn.Linear(width, experts, bias=False) for _ in range(tasks))
        self.towers = nn.ModuleList(MLP(expert[-1], tower, 1) for _ in range(tasks))

    @classmethod
    def small(cls, **overrides: Any) -> Self:
        """Five tables, three experts, two tasks; see `ZooModel.small`."""
        defaults = {"tables": SMALL_ROWS, "dense": 4, "dim": 4, "experts": 3, "expert": (8, 6), "tower": (4,)}
        return cls(**{**defaults, **overrides})

    @classmethod
    def for_criteo(cls, cardinalities: Sequence[int], dense: int = 13, dim: int = 16, **overrides: Any) -> Self:
        """See `CtrModel.for_criteo`. The click is the only task, so the logits are [B, 1]."""
        return super().for_criteo(cardinalities, dense, dim, **{"tasks": 1, **overrides})

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """float [B, dense], int64 [B, F] -> logits [B, tasks]."""
        x = torch.cat([dense, self.embeddings(sparse).flatten(1)], dim=1)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)  # [B, experts, width]
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = torch.softmax(gate(x), dim=1)
            mixed = torch.bmm(weights[:, None], experts).squeeze(1)
            logits.append(tower(mixed))
        return torch.cat(logits, dim=1)
