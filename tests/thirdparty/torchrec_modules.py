"""Every module of torchrec, small and randomly initialised, in models as its users write them. torchrec is imported
only when a case is built.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

KEYS = ("f0", "f1", "f2", "f3")
ROWS, DIM, WIDTH = 20, 8, 16

Make = Callable[[], nn.Module]
Inputs = Callable[[int, torch.Generator, "Bags"], tuple[Any, ...]]


@dataclass(frozen=True)
class Bags:
    """The smallest and the largest number of ids of a bag."""

    low: int = 0
    high: int = 3


@dataclass(frozen=True)
class Case:
    """A model around one module.

    Attributes:
        name: Its name in the table.
        make: Builds the model.
        inputs: `(batch, generator, bags)` -> positional inputs.
        refused: A part of the message of the refusal; empty if the model is captured.
        mend: The next step for a user of a refused model.
        least: The least number of ids of a bag that the model itself accepts.
    """

    name: str
    make: Make
    inputs: Inputs
    refused: str = ""
    mend: str = ""
    least: int = 0


class Around(nn.Module):
    """A module and the function that applies it."""

    def __init__(self, module: nn.Module, use: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.use = use

    def forward(self, *inputs: Any) -> Any:
        """The result of `use` on the module and the inputs."""
        return self.use(self.module, *inputs)


def _of(module: str, name: str) -> Any:
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    return getattr(import_module(f"torchrec.{module}"), name)


def _tables(config: str, **changes: Any) -> list[Any]:
    make = _of("modules.embedding_configs", config)
    features = {"t0": ["f0", "f3"], "t1": ["f1"], "t2": ["f2"]}
    return [
        make(name=name, embedding_dim=DIM, num_embeddings=ROWS, feature_names=list(keys), **changes)
        for name, keys in features.items()
    ]


def bags(weighted: bool = False, **changes: Any) -> nn.Module:
    """An EmbeddingBagCollection of three tables, one shared by two features."""
    module: nn.Module = _of("modules.embedding_modules", "EmbeddingBagCollection")(
        tables=_tables("EmbeddingBagConfig", **changes), is_weighted=weighted
    )
    return module


def sequences() -> nn.Module:
    """An EmbeddingCollection of three tables, one shared by two features."""
    module: nn.Module = _of("modules.embedding_modules", "EmbeddingCollection")(_tables("EmbeddingConfig"))
    return module


def _lengths(number: int, rng: torch.Generator, sizes: Bags) -> Tensor:
    return torch.randint(sizes.low, sizes.high + 1, (number,), generator=rng)


def keyed(batch: int, rng: torch.Generator, sizes: Bags, weighted: bool = False) -> Any:
    """A KeyedJaggedTensor of `KEYS`."""
    lengths = _lengths(len(KEYS) * batch, rng, sizes)
    total = int(lengths.sum())
    values = torch.randint(0, ROWS, (total,), generator=rng)
    weights = torch.rand(total, generator=rng) if weighted else None
    return _of("sparse.jagged_tensor", "KeyedJaggedTensor")(list(KEYS), values, lengths=lengths, weights=weights)


def _sparse(batch: int, rng: torch.Generator, sizes: Bags) -> tuple[Any, ...]:
    return (keyed(batch, rng, sizes),)


def _weighted(batch: int, rng: torch.Generator, sizes: Bags) -> tuple[Any, ...]:
    return (keyed(batch, rng, sizes, weighted=True),)


def _both(batch: int, rng: torch.Generator, sizes: Bags) -> tuple[Any, ...]:
    return torch.randn(batch, 5, generator=rng), keyed(batch, rng, sizes)


def _dense(batch: int, rng: torch.Generator, _: Bags) -> tuple[Any, ...]:
    return (torch.randn(batch, WIDTH, generator=rng),)


def _jagged_dict(batch: int, rng: torch.Generator, sizes: Bags) -> tuple[Any, ...]:
    jagged = _of("sparse.jagged_tensor", "JaggedTensor")
    lengths = {key: _lengths(batch, rng, sizes) for key in KEYS}
    return (
        {key: jagged(torch.randint(0, ROWS, (int(n.sum()),), generator=rng), lengths=n) for key, n in lengths.items()},
    )


def _pooled(batch: int, rng: torch.Generator, _: Bags) -> tuple[Any, ...]:
    values = torch.randn(batch, len(KEYS) * DIM, generator=rng)
    return (_of("sparse.jagged_tensor", "KeyedTensor")(list(KEYS), [DIM] * len(KEYS), values),)


def _halves(x: Tensor) -> list[Tensor]:
    return [part.unsqueeze(1) for part in x.chunk(2, 1)]


def _cross(name: str, *sizes: int) -> Make:
    return lambda: _of("modules.crossnet", name)(WIDTH, *sizes)  # type: ignore[no-any-return]


def _dlrm(name: str, *sizes: Any) -> Make:
    return lambda: _of("models.dlrm", name)(bags(), 5, [16, DIM], [16, 1], *sizes)  # type: ignore[no-any-return]


class TwoTower(nn.Module):
    """Two MLPs, over the user's and over the item's features, whose results are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = bags()
        mlp = _of("modules.mlp", "MLP")
        self.query, self.candidate = mlp(2 * DIM, [16, 8]), mlp(2 * DIM, [16, 8])

    def forward(self, sparse: Any) -> Tensor:
        """Scores [batch]."""
        pooled = self.tables(sparse)
        query = self.query(torch.cat([pooled["f0"], pooled["f1"]], 1))
        return (query * self.candidate(torch.cat([pooled["f2"], pooled["f3"]], 1))).sum(1)


class Retrieval(TwoTower):
    """The two-tower model that scores each query against a fixed list of candidates, and keeps the best."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("items", torch.randn(50, 8))

    def forward(self, sparse: Any) -> Any:
        """Scores and positions of the best five, [batch, 5] each."""
        pooled = self.tables(sparse)
        query = self.query(torch.cat([pooled["f0"], pooled["f1"]], 1))
        return torch.topk(query @ self.items.t(), 5)


class Encoder(nn.Module):
    """A bidirectional transformer over padded item histories (BERT4Rec)."""

    def __init__(self, length: int = 6) -> None:
        super().__init__()
        self.length = length
        self.tables = sequences()
        self.positions = nn.Parameter(torch.randn(length, DIM))
        layer = nn.TransformerEncoderLayer(DIM, 2, 16, batch_first=True, dropout=0.0)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.scores = nn.Linear(DIM, ROWS)

    def forward(self, sparse: Any) -> Tensor:
        """Scores of all items at the first position, [batch, items]."""
        history = self.tables(sparse)["f1"]
        padded = history.to_padded_dense(self.length)
        hidden = self.layers(padded + self.positions)
        scores: Tensor = self.scores(hidden[:, 0])
        return scores


def _tower(features: list[str], width: int) -> nn.Module:
    config = _of("modules.embedding_configs", "EmbeddingBagConfig")
    tables = [config(name=f"t_{f}", embedding_dim=DIM, num_embeddings=ROWS, feature_names=[f]) for f in features]
    collection = _of("modules.embedding_modules", "EmbeddingBagCollection")(tables)
    interaction = Around(nn.Linear(len(features) * DIM, width), lambda linear, pooled: linear(pooled.values()))
    module: nn.Module = _of("modules.embedding_tower", "EmbeddingTower")(collection, interaction)
    return module


def _position_weighted() -> nn.Module:
    weights = _of("modules.feature_processor_", "PositionWeightedModuleCollection")(dict.fromkeys(KEYS, 6))
    wrapped = _of("modules.fp_embedding_modules", "FeatureProcessedEmbeddingBagCollection")(bags(True), weights)
    return Around(wrapped, lambda module, sparse: module(sparse).values())


def _managed(hashed: bool) -> Make:
    def make() -> nn.Module:
        tables = _tables("EmbeddingBagConfig")
        modules = {}
        for table in tables:
            if hashed:
                kind = _of("modules.hash_mc_modules", "HashZchManagedCollisionModule")
                modules[table.name] = kind(zch_size=ROWS, device=torch.device("cpu"), total_num_buckets=1)
            else:
                policy = _of("modules.mc_modules", "DistanceLFU_EvictionPolicy")()
                kind = _of("modules.mc_modules", "MCHManagedCollisionModule")
                modules[table.name] = kind(ROWS, torch.device("cpu"), eviction_policy=policy, eviction_interval=2)
        collection = _of("modules.mc_modules", "ManagedCollisionCollection")(modules, tables)
        pooled = _of("modules.embedding_modules", "EmbeddingBagCollection")(tables)
        whole = _of("modules.mc_embedding_modules", "ManagedCollisionEmbeddingBagCollection")(pooled, collection)
        return Around(whole, lambda module, sparse: module(sparse)[0].values())

    return make


def _fused() -> nn.Module:
    module = _of("modules.fused_embedding_modules", "FusedEmbeddingBagCollection")(
        tables=_tables("EmbeddingBagConfig"), optimizer_type=torch.optim.SGD, optimizer_kwargs={"lr": 0.1}
    )
    return Around(module, lambda tables, sparse: tables(sparse).values())


def quantized(dtype: torch.dtype, pooled: bool) -> Make:
    """A model whose tables torchrec has quantised."""

    def make() -> nn.Module:
        model = Around(bags(), lambda tables, sparse: tables(sparse).values()) if pooled else _rows_of(sequences())
        plain = _of("modules.embedding_modules", "EmbeddingCollection")
        packed = _of("quant.embedding_modules", "EmbeddingCollection")
        model = _of("inference.modules", "quantize_embeddings")(
            model.eval(), dtype, False, additional_qconfig_spec_keys=[plain], additional_mapping={plain: packed}
        )
        return model

    return make


def _rows_of(tables: nn.Module) -> nn.Module:
    return Around(tables, lambda module, sparse: {key: rows.values() for key, rows in module(sparse).items()})


def _regroup(kind: str) -> Make:
    groups = [["f0", "f2", "f1"], ["f1", "f3"]] if kind != "once" else [["f0", "f2"], ["f1", "f3"]]

    def make() -> nn.Module:
        if kind == "module":
            module = nn.ModuleList([bags(), _of("modules.regroup", "KTRegroupAsDict")(groups, ["a", "b"])])
            return Around(module, lambda both, sparse: both[1]([both[0](sparse)]))
        regroup = _of("sparse.jagged_tensor", "KeyedTensor").regroup
        return Around(bags(), lambda tables, sparse: regroup([tables(sparse)], groups))

    return make


def _use(module: Callable[[], nn.Module], use: Callable[..., Any]) -> Make:
    return lambda: Around(module(), use)


def _bag_table() -> nn.Module:
    return nn.EmbeddingBag(ROWS, DIM, mode="sum", include_last_offset=True)


CASES = [
    Case("EmbeddingBagCollection", _use(bags, lambda m, k: m(k)), _sparse),
    Case("EmbeddingBagCollection, weighted", _use(lambda: bags(True), lambda m, k: m(k).values()), _weighted),
    Case("EmbeddingCollection", lambda: _rows_of(sequences()), _sparse),
    Case("EmbeddingCollection, JaggedTensors returned", _use(sequences, lambda m, k: m(k)), _sparse),
    Case("EmbeddingCollection, to_padded_dense", Encoder, _sparse),
    Case(
        "JaggedTensor.to_padded_dense of the longest bag",
        _use(sequences, lambda m, k: m(k)["f1"].to_padded_dense().sum(1)),
        _sparse,
        least=1,
    ),
    Case(
        "JaggedTensor.to_dense",
        _use(sequences, lambda m, k: m(k)["f1"].to_dense()),
        _sparse,
        "on reshuffled inputs",
        "return the JaggedTensor, or to_padded_dense(length): a list of one tensor a row fixes the batch",
    ),
    Case("JaggedTensors in a dict as inputs", _use(_bag_table, lambda m, d: m(d["f1"].values(), d["f1"].offsets())), _jagged_dict),
    Case("KeyedTensor as an input", _use(lambda: nn.Linear(2 * DIM, 1), lambda m, t: m(torch.cat([t["f2"], t["f0"]], 1))), _pooled),
    Case("KeyedTensor.to_dict", _use(bags, lambda m, k: m(k).to_dict()), _sparse),
    Case("KeyedTensor.regroup, every key once", _regroup("once"), _sparse),
    Case("KeyedTensor.regroup, a key twice", _regroup("twice"), _sparse),
    Case("KTRegroupAsDict", _regroup("module"), _sparse),
    Case("KeyedJaggedTensor.permute", _use(bags, lambda m, k: m(k.permute([3, 2, 1, 0])).values()), _sparse),
    Case("KeyedJaggedTensor[key]", _use(_bag_table, lambda m, k: m(k["f1"].values(), k["f1"].offsets())), _sparse),
    Case("KeyedJaggedTensor returned", _use(bags, lambda m, k: (m(k), k)), _sparse),
    Case("quantized EmbeddingBagCollection, int8", quantized(torch.qint8, pooled=True), _sparse),
    Case("quantized EmbeddingBagCollection, int4", quantized(torch.quint4x2, pooled=True), _sparse),
    Case("quantized EmbeddingCollection, int8", quantized(torch.qint8, pooled=False), _sparse),
    Case("quantized EmbeddingCollection, int4", quantized(torch.quint4x2, pooled=False), _sparse),
    Case("FeatureProcessedEmbeddingBagCollection, PositionWeightedModuleCollection", _position_weighted, _sparse),
    Case("ManagedCollisionEmbeddingBagCollection, MCHManagedCollisionModule", _managed(hashed=False), _sparse),
    Case("ManagedCollisionEmbeddingBagCollection, HashZchManagedCollisionModule", _managed(hashed=True), _sparse),
    Case(
        "FusedEmbeddingBagCollection",
        _fused,
        _sparse,
        "split_embedding_codegen_forward",
        "load its state into an EmbeddingBagCollection, which has the same tables without the optimizer",
    ),
    Case("EmbeddingTower", lambda: _tower(["f0", "f2"], 7), _sparse),
    Case(
        "EmbeddingTowerCollection",
        lambda: _of("modules.embedding_tower", "EmbeddingTowerCollection")([_tower(["f0"], 7), _tower(["f2"], 5)]),
        _sparse,
    ),
    Case("SparseArch", lambda: _of("models.dlrm", "SparseArch")(bags()), _sparse),
    Case("DLRM", _dlrm("DLRM"), _both),
    Case("DLRM_DCN", _dlrm("DLRM_DCN", 2, 4), _both),
    Case("DLRM_Projection", _dlrm("DLRM_Projection", [16, 8], [16, 8]), _both),
    Case("SimpleDeepFMNN", lambda: _of("models.deepfm", "SimpleDeepFMNN")(5, bags(), 16, 4), _both),
    Case("DeepFM", _use(lambda: _of("modules.deepfm", "DeepFM")(nn.Linear(WIDTH, 4)), lambda m, x: m(_halves(x))), _dense),
    Case("FactorizationMachine", _use(lambda: _of("modules.deepfm", "FactorizationMachine")(), lambda m, x: m(_halves(x))), _dense),
    Case("CrossNet", _cross("CrossNet", 2), _dense),
    Case("LowRankCrossNet", _cross("LowRankCrossNet", 2, 4), _dense),
    Case("VectorCrossNet", _cross("VectorCrossNet", 2), _dense),
    Case("LowRankMixtureCrossNet", _cross("LowRankMixtureCrossNet", 2, 3, 4), _dense),
    Case("MLP", lambda: _of("modules.mlp", "MLP")(WIDTH, [8, 4]), _dense),
    Case("MLP, swish_layernorm", lambda: _of("modules.mlp", "MLP")(WIDTH, [8, 4], activation="swish_layernorm"), _dense),
    Case("SwishLayerNorm", lambda: _of("modules.activation", "SwishLayerNorm")([WIDTH]), _dense),
    Case("two towers", TwoTower, _sparse),
    Case("two towers, retrieval", Retrieval, _sparse),
]  # fmt: skip
