"""torchrec: models over a KeyedJaggedTensor, whose features have any number of ids per row."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from corpus import BuiltModel, Inputs, ModelCase
from torch import Tensor, nn

KEYS = ("f0", "f1", "f2", "f3")
ROWS, DIM, DENSE = 20, 8, 5


def keyed_tables(weighted: bool = False) -> Any:
    """An `EmbeddingBagCollection` of four tables, one pooled by the mean and one shared by two features."""
    modules = importlib.import_module("torchrec.modules.embedding_modules")
    configs = importlib.import_module("torchrec.modules.embedding_configs")

    def table(name: str, *features: str, mean: bool = False) -> Any:
        pooling = configs.PoolingType.MEAN if mean else configs.PoolingType.SUM
        return configs.EmbeddingBagConfig(
            name=name,
            embedding_dim=DIM,
            num_embeddings=ROWS,
            feature_names=list(features),
            pooling=pooling,
        )

    tables = [table("t0", "f0", "f3"), table("t1", "f1", mean=not weighted), table("t2", "f2")]
    return modules.EmbeddingBagCollection(tables=tables, is_weighted=weighted)


class Pooled(nn.Module):
    """A linear layer over numbers and the pooled embeddings: the smallest model of this kind."""

    def __init__(self, tables: nn.Module) -> None:
        super().__init__()
        self.tables = tables
        self.linear = nn.Linear(DENSE + len(KEYS) * DIM, 1)

    def forward(self, dense: Tensor, sparse: Any) -> Tensor:
        """Scores `[batch, 1]` of `dense` `[batch, 5]` and a KeyedJaggedTensor of the same batch."""
        scores: Tensor = self.linear(torch.cat([dense, self.tables(sparse).values()], dim=1))
        return scores


def jagged(batch: int, rng: torch.Generator, weighted: bool = False) -> Any:
    """A KeyedJaggedTensor of `KEYS` with bags of 0 to 3 ids."""
    container = importlib.import_module("torchrec.sparse.jagged_tensor").KeyedJaggedTensor
    lengths = torch.randint(0, 4, (len(KEYS) * batch,), generator=rng)
    total = int(lengths.sum())
    values = torch.randint(0, ROWS, (total,), generator=rng)
    weights = torch.rand(total, generator=rng) if weighted else None
    return container(keys=list(KEYS), values=values, lengths=lengths, weights=weights)


def _inputs(weighted: bool, batch: int, rng: torch.Generator) -> Inputs:
    sparse = jagged(batch, rng, weighted)
    return (torch.randn(batch, DENSE, generator=rng), sparse), {}


def _build(make: Callable[[Any], nn.Module], weighted: bool) -> BuiltModel:
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    return BuiltModel(make(keyed_tables(weighted)), partial(_inputs, weighted))


def _case(name: str, make: Callable[[Any], nn.Module], weighted: bool = False) -> ModelCase:
    return ModelCase(name, "torchrec", "torchrec", partial(_build, make, weighted))


def _dlrm(kind: str, *sizes: Any) -> Callable[[Any], nn.Module]:
    def make(tables: Any) -> nn.Module:
        models = importlib.import_module("torchrec.models.dlrm")
        model: nn.Module = getattr(models, kind)(tables, DENSE, [16, DIM], [16, 1], *sizes)
        return model

    return make


def _deepfm(tables: Any) -> nn.Module:
    model: nn.Module = importlib.import_module("torchrec.models.deepfm").SimpleDeepFMNN(DENSE, tables, 16, 4)
    return model


def _transformer(tables: Any) -> nn.Module:
    models = importlib.import_module("torchrec.models.experimental.transformerdlrm")
    model: nn.Module = models.DLRM_Transformer(tables, DENSE, [16, DIM], [16, 1], nhead=2, ntransformer_layers=1)
    return model


CASES = [
    _case("EmbeddingBagCollection", Pooled),
    _case("EmbeddingBagCollection-weighted", Pooled, weighted=True),
    _case("DLRM", _dlrm("DLRM")),
    _case("DLRM_DCN", _dlrm("DLRM_DCN", 2, 4)),
    _case("DLRM_Projection", _dlrm("DLRM_Projection", [16, 8], [16, 8])),
    _case("SimpleDeepFMNN", _deepfm),
    _case("DLRM_Transformer", _transformer),
]
