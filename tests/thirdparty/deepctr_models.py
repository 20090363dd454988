"""deepctr-torch: click-through and multi-task models over one float matrix of ids and numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from corpus import BuiltModel, Inputs, ModelCase, ids, padded_history
from shims import silent_requests, stand_ins

VOCABULARIES = (40, 25, 60, 12, 33, 90)
DENSE = 3
DIM = 8
TAGS, TAG_LENGTH = 20, 5
ITEMS, CATEGORIES, HISTORY = 50, 9, 6
UNITS = (32, 16)


def library() -> tuple[Any, Any]:
    """Imports `deepctr_torch.models` and `deepctr_torch.inputs`, without the version check over the network."""
    with stand_ins({"requests": silent_requests()}):
        return importlib.import_module("deepctr_torch.models"), importlib.import_module("deepctr_torch.inputs")


def _sparse_columns(inputs: Any) -> list[Any]:
    return [inputs.SparseFeat(f"c{i}", size, embedding_dim=DIM) for i, size in enumerate(VOCABULARIES)]


def _columns(inputs: Any) -> list[Any]:
    """Six sparse fields, three numbers, and a padded bag of tags."""
    dense = [inputs.DenseFeat(f"n{i}", 1) for i in range(DENSE)]
    tags = inputs.VarLenSparseFeat(inputs.SparseFeat("tags", TAGS, embedding_dim=DIM), TAG_LENGTH, "mean")
    return [*_sparse_columns(inputs), *dense, tags]


def _matrix(parts: Sequence[torch.Tensor]) -> Inputs:
    return (torch.cat([part.float().reshape(len(part), -1) for part in parts], dim=1),), {}


def _sparse_inputs(batch: int, rng: torch.Generator) -> Inputs:
    return _matrix([ids(batch, size, rng) for size in VOCABULARIES])


def _inputs(batch: int, rng: torch.Generator) -> Inputs:
    categories = [ids(batch, size, rng) for size in VOCABULARIES]
    dense = torch.randn(batch, DENSE, generator=rng)
    tags, _ = padded_history(batch, TAG_LENGTH, TAGS, rng)
    return _matrix([*categories, dense, tags])


def _two_sided(name: str, **options: Any) -> BuiltModel:
    """Models with a linear part and a deep part over the same columns."""
    models, inputs = library()
    columns = _columns(inputs)
    return BuiltModel(getattr(models, name)(columns, columns, **options), _inputs)


def _one_sided(name: str, **options: Any) -> BuiltModel:
    """Models of one list of columns."""
    models, inputs = library()
    return BuiltModel(getattr(models, name)(_columns(inputs), **options), _inputs)


def _without_numbers(name: str, **options: Any) -> BuiltModel:
    """Models that read only ids, including a bag of tags."""
    models, inputs = library()
    columns = [column for column in _columns(inputs) if not isinstance(column, inputs.DenseFeat)]

    def make(batch: int, rng: torch.Generator) -> Inputs:
        tags, _ = padded_history(batch, TAG_LENGTH, TAGS, rng)
        return _matrix([*[ids(batch, size, rng) for size in VOCABULARIES], tags])

    return BuiltModel(getattr(models, name)(columns, columns, **options), make)


def _sparse_only(name: str, **options: Any) -> BuiltModel:
    """Models whose layers read only sparse fields."""
    models, inputs = library()
    columns = _sparse_columns(inputs)
    return BuiltModel(getattr(models, name)(columns, columns, **options), _sparse_inputs)


def _behaviour(name: str, **options: Any) -> BuiltModel:
    """Models that weight a history of items by the candidate: DIN and DIEN."""
    models, inputs = library()

    def history(feature: str, size: int) -> Any:
        sparse = inputs.SparseFeat(f"hist_{feature}", size, embedding_dim=DIM, embedding_name=feature)
        return inputs.VarLenSparseFeat(sparse, HISTORY, length_name="length")

    columns = [
        inputs.SparseFeat("user", 30, embedding_dim=DIM),
        inputs.SparseFeat("item", ITEMS, embedding_dim=DIM),
        inputs.SparseFeat("cate", CATEGORIES, embedding_dim=DIM),
        inputs.DenseFeat("score", 1),
        history("item", ITEMS),
        history("cate", CATEGORIES),
    ]
    model = getattr(models, name)(columns, ["item", "cate"], **options)

    def make(batch: int, rng: torch.Generator) -> Inputs:
        items, lengths = padded_history(batch, HISTORY, ITEMS, rng)
        categories = torch.randint(1, CATEGORIES, items.shape, generator=rng) * (items != 0)
        return _matrix(
            [
                ids(batch, 30, rng),
                ids(batch, ITEMS, rng, low=1),
                ids(batch, CATEGORIES, rng, low=1),
                torch.rand(batch, generator=rng),
                items,
                lengths,
                categories,
            ]
        )

    return BuiltModel(model, make)


def _case(label: str, build: Callable[..., BuiltModel], name: str, **options: Any) -> ModelCase:
    return ModelCase(label, "deepctr-torch", "deepctr_torch", partial(build, name, **options))


def _listed() -> list[ModelCase]:
    deep: dict[str, Any] = {"dnn_hidden_units": UNITS}
    experts: dict[str, Any] = {"expert_dnn_hidden_units": UNITS}
    return [
        _case("WDL", _two_sided, "WDL", dnn_use_bn=True, **deep),
        _case("DeepFM", _two_sided, "DeepFM", dnn_use_bn=True, **deep),
        _case("xDeepFM", _two_sided, "xDeepFM", cin_layer_size=(16, 16), **deep),
        _case("DCN-vector", _two_sided, "DCN", cross_parameterization="vector", **deep),
        _case("DCN-matrix", _two_sided, "DCN", cross_parameterization="matrix", dnn_use_bn=True, **deep),
        _case("DCNMix", _two_sided, "DCNMix", low_rank=4, num_experts=3, **deep),
        _case("AutoInt", _two_sided, "AutoInt", att_layer_num=2, dnn_use_bn=True, **deep),
        _case("NFM", _two_sided, "NFM", **deep),
        _case("AFM", _without_numbers, "AFM", attention_factor=8),
        _case("FiBiNET-interaction", _two_sided, "FiBiNET", bilinear_type="interaction", **deep),
        _case("FiBiNET-each", _two_sided, "FiBiNET", bilinear_type="each", **deep),
        _case("ONN", _sparse_only, "ONN", dnn_use_bn=True, **deep),
        _case("IFM", _two_sided, "IFM", **deep),
        _case("DIFM", _two_sided, "DIFM", dnn_use_bn=True, **deep),
        _case("CCPM", _sparse_only, "CCPM", conv_filters=(4, 4), **deep),
        _case("AFN", _two_sided, "AFN", ltl_hidden_size=32, afn_dnn_hidden_units=UNITS),
        _case("MLR", _one_sided, "MLR", region_num=3),
        _case("PNN-inner", _one_sided, "PNN", use_inner=True, use_outter=False, **deep),
        _case("PNN-outer", _one_sided, "PNN", use_inner=False, use_outter=True, **deep),
        _case("DIN", _behaviour, "DIN", dnn_use_bn=True, **deep),
        _case("DIN-softmax", _behaviour, "DIN", att_weight_normalization=True, att_activation="prelu", **deep),
        _case("DIEN-GRU", _behaviour, "DIEN", gru_type="GRU", **deep),
        _case("DIEN-AUGRU", _behaviour, "DIEN", gru_type="AUGRU", **deep),
        _case("SharedBottom", _one_sided, "SharedBottom", bottom_dnn_hidden_units=UNITS),
        _case("ESMM", _one_sided, "ESMM", tower_dnn_hidden_units=UNITS, dnn_use_bn=True),
        _case("MMOE", _one_sided, "MMOE", **experts),
        _case("PLE", _one_sided, "PLE", **experts),
    ]


CASES = _listed()
