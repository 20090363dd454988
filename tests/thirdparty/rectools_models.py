"""rectools: transformers over sessions, with the item nets, positions and similarities of its models."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from corpus import BuiltModel, Inputs, ModelCase, ids, padded_history
from shims import absent
from torch import Tensor, nn

ITEMS, DIM, HEADS, LENGTH, CANDIDATES = 40, 16, 2, 8, 5


def _of(module: str, name: str) -> Any:
    check = {"check_type": lambda value, _kind: value, "TypeCheckError": TypeError}
    with absent("implicit", "lightfm", typeguard=check, pytorch_lightning={"LightningModule": nn.Module}):
        return getattr(importlib.import_module(f"rectools.models.nn.{module}"), name)


def _items(categories: bool) -> nn.Module:
    """Ids alone, or ids and bags of category values with a fixed number of them for each item."""
    blocks = [_of("item_net", "IdEmbeddingsItemNet")(DIM, ITEMS, 0.1)]
    if categories:
        rng = torch.Generator().manual_seed(3)
        lengths = torch.randint(0, 4, (ITEMS,), generator=rng)
        values = torch.randint(0, 12, (int(lengths.sum()),), generator=rng)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)[:-1]])
        blocks.append(_of("item_net", "CatFeaturesItemNet")(values, lengths, offsets, 12, DIM, 0.1))
    net: nn.Module = _of("item_net", "SumOfEmbeddingsConstructor")(ITEMS, blocks)
    return net


class Scores(nn.Module):
    """The logits of the last position over the catalogue, or of every position over candidates."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """`[batch, ITEMS]`, or `[batch, LENGTH, CANDIDATES]`."""
        candidates = batch.get("candidates")
        logits: Tensor = self.backbone(batch, candidates)
        return logits[:, -1] if candidates is None else logits


def _backbone(layers: nn.Module, categories: bool = False, distance: str = "dot", **options: Any) -> nn.Module:
    positions = _of("transformers.net_blocks", "LearnableInversePositionalEncoding")(True, LENGTH, DIM)
    similarity = _of("transformers.similarity", "DistanceSimilarityModule")(distance)
    make = _of("transformers.torch_backbone", "TransformerTorchBackbone")
    model = make(HEADS, 0.1, _items(categories), positions, layers, similarity, **options)
    for weight in model.parameters():  # initialised as in the library's trainer; some are uninitialised memory before
        if weight.ndim > 1:
            nn.init.xavier_normal_(weight)
    return Scores(model)


def _layers(module: str, name: str, **options: Any) -> nn.Module:
    layers: nn.Module = _of(f"transformers.{module}", name)(
        n_blocks=2, n_factors=DIM, n_heads=HEADS, dropout_rate=0.1, **options
    )
    return layers


def _hstu(time: bool) -> nn.Module:
    return _backbone(
        _layers(
            *("hstu", "STULayers"),
            linear_hidden_dim=8,
            attention_dim=8,
            session_max_len=LENGTH,
            relative_time_attention=time,
            relative_pos_attention=True,
        )
    )


def _dssm() -> nn.Module:
    model: nn.Module = _of("dssm", "DSSM")(DIM, DIM, 12, 9, ITEMS)
    return model


def _sessions(batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    return {"x": padded_history(batch, LENGTH, ITEMS, rng)[0].flip(1)}


def _with_candidates(batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    found = torch.randint(1, ITEMS, (batch, LENGTH, CANDIDATES), generator=rng)
    return _sessions(batch, rng) | {"candidates": found}


def _with_times(batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    steps = torch.randint(0, 9000, (batch, LENGTH + 1), generator=rng)
    return _sessions(batch, rng) | {"unix_ts": steps.cumsum(1) + 1_700_000_000}


def _towers(batch: int, rng: torch.Generator) -> tuple[Tensor, ...]:
    """One-hot features of a positive and a negative item and of the user, and the user's interactions."""
    hot = [nn.functional.one_hot(ids(batch, width, rng), width).float() for width in (9, 9, 12)]
    return (*hot, (torch.rand(batch, ITEMS, generator=rng) < 0.2).float())


def _case(name: str, make: Callable[[], nn.Module], inputs: Callable[[int, torch.Generator], Any]) -> ModelCase:
    def given(batch: int, rng: torch.Generator) -> Inputs:
        found = inputs(batch, rng)
        return (found if isinstance(found, tuple) else (found,)), {}

    return ModelCase(name, "rectools", "rectools", lambda: BuiltModel(make(), given))


_sasrec = partial(_layers, "sasrec", "SASRecTransformerLayers")
_pre_norm = partial(_layers, "net_blocks", "PreLNTransformerLayers")

CASES = [
    _case("SASRec", lambda: _backbone(_sasrec()), _sessions),
    _case("SASRec-padding-mask", lambda: _backbone(_sasrec(), use_key_padding_mask=True), _sessions),
    _case("SASRec-categories", lambda: _backbone(_sasrec(), categories=True), _sessions),
    _case("SASRec-candidates-cosine", lambda: _backbone(_sasrec(), distance="cosine"), _with_candidates),
    _case("BERT4Rec", lambda: _backbone(_pre_norm(), use_causal_attn=False, use_key_padding_mask=True), _sessions),
    _case("LiGR", lambda: _backbone(_layers("ligr", "LiGRLayers")), _sessions),
    _case("HSTU-positions", lambda: _hstu(False), _sessions),
    _case("HSTU-times", lambda: _hstu(True), _with_times),
    _case("DSSM", _dssm, _towers),
]
