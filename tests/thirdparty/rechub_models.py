"""torch-rechub: ranking, matching and multi-task models over a dictionary of features."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from corpus import BuiltModel, Inputs, ModelCase, ids, padded_history
from torch import Tensor, nn

VOCABULARIES = {"a": 40, "b": 25, "c": 60, "d": 12}
DENSE = ("x", "y")
DIM = 8
ITEMS, CATEGORIES, USERS, LENGTH, NEGATIVES = 50, 9, 30, 6, 4

Build = Callable[[Any, Any], nn.Module]
Make = Callable[[int, torch.Generator], dict[str, Tensor]]


def _mlp(*dims: int) -> dict[str, Any]:
    return {"dims": list(dims), "dropout": 0.2, "activation": "relu"}


def _tabular(batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    features = {name: ids(batch, size, rng) for name, size in VOCABULARIES.items()}
    return features | {name: torch.randn(batch, generator=rng) for name in DENSE}


def _sequential(batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    """A user, a candidate item with its category, the history of both, and sampled negatives."""
    items, _ = padded_history(batch, LENGTH, ITEMS, rng)
    seen = items != 0
    return {
        "user": ids(batch, USERS, rng),
        "item": ids(batch, ITEMS, rng, low=1),
        "cate": ids(batch, CATEGORIES, rng, low=1),
        "hist_item": items,
        "hist_cate": torch.randint(1, CATEGORIES, items.shape, generator=rng) * seen,
        "neg_hist_item": torch.randint(1, ITEMS, items.shape, generator=rng) * seen,
        "neg_items": torch.randint(1, ITEMS, (batch, NEGATIVES), generator=rng),
    }


def _only(make: Make, *names: str) -> Make:
    """The same inputs reduced to these names, so that the model reads all inputs."""
    return lambda batch, rng: {name: value for name, value in make(batch, rng).items() if name in names}


class Features:
    """The feature objects of one model: they hold the embedding tables, so each model has its own."""

    def __init__(self, basic: Any) -> None:
        self._basic = basic

    def sparse(self, names: Iterable[str] = VOCABULARIES, dim: int = DIM) -> list[Any]:
        """One `SparseFeature` per name."""
        return [self._basic.SparseFeature(name, VOCABULARIES[name], dim) for name in names]

    def dense(self) -> list[Any]:
        """The numeric features."""
        return [self._basic.DenseFeature(name) for name in DENSE]

    def both(self) -> list[Any]:
        """Sparse and numeric features."""
        return self.sparse() + self.dense()

    def one(self, name: str, size: int, **options: Any) -> Any:
        """A single sparse feature."""
        return self._basic.SparseFeature(name, size, DIM, **options)

    def sequence(self, name: str, size: int, pooling: str, shared_with: str | None = None) -> Any:
        """A padded sequence of ids, pooled or kept whole (`pooling="concat"`)."""
        return self._basic.SequenceFeature(name, size, DIM, pooling=pooling, shared_with=shared_with, padding_idx=0)

    def user(self) -> list[Any]:
        """The user and the mean of the history."""
        return [self.one("user", USERS), self.sequence("hist_item", ITEMS, "mean", "item")]

    def item(self) -> list[Any]:
        """The candidate."""
        return [self.one("item", ITEMS, padding_idx=0)]

    def history(self) -> list[Any]:
        """The history kept as a sequence, in the item's table."""
        return [self.sequence("hist_item", ITEMS, "concat", "item")]

    def negatives(self) -> list[Any]:
        """Sampled negative items, in the item's table."""
        return [self.sequence("neg_items", ITEMS, "concat", "item")]

    def target(self) -> list[Any]:
        """The candidate and its category."""
        return [*self.item(), self.one("cate", CATEGORIES, padding_idx=0)]

    def histories(self) -> list[Any]:
        """The history of items and of categories."""
        return [*self.history(), self.sequence("hist_cate", CATEGORIES, "concat", "cate")]


def _build(room: str, make_model: Build, make_inputs: Make) -> BuiltModel:
    models = importlib.import_module(f"torch_rechub.models.{room}")
    features = Features(importlib.import_module("torch_rechub.basic.features"))
    model = make_model(models, features)

    def inputs(batch: int, rng: torch.Generator) -> Inputs:
        return (make_inputs(batch, rng),), {}

    return BuiltModel(model, inputs)


def _case(name: str, room: str, make_model: Build, make_inputs: Make) -> ModelCase:
    build = partial(_build, room, make_model, make_inputs)
    return ModelCase(name, "torch-rechub", "torch_rechub", build)


def _ranking() -> list[ModelCase]:
    tab, cases = _tabular, partial(_case, room="ranking")
    ids_only = _only(tab, *VOCABULARIES)
    behaviour = _only(_sequential, "user", "item", "cate", "hist_item", "hist_cate")
    dien = _only(_sequential, "user", "item", "hist_item", "neg_hist_item")
    return [
        cases("WideDeep", make_model=lambda m, f: m.WideDeep(f.dense(), f.sparse(), _mlp(32, 16)), make_inputs=tab),
        cases("DeepFM", make_model=lambda m, f: m.DeepFM(f.dense(), f.sparse(), _mlp(32, 16)), make_inputs=tab),
        cases("DCN", make_model=lambda m, f: m.DCN(f.both(), 3, _mlp(32, 16)), make_inputs=tab),
        cases("DCNv2-mixture", make_model=lambda m, f: m.DCNv2(f.both(), 2, _mlp(32, 16), low_rank=4), make_inputs=tab),
        cases("DCNv2-full", make_model=_dcn_full, make_inputs=tab),
        cases("EDCN", make_model=lambda m, f: m.EDCN(f.sparse(), 2, _mlp(32)), make_inputs=ids_only),
        cases("EDCN-attention", make_model=_edcn_attention, make_inputs=ids_only),
        cases("AFM", make_model=lambda m, f: m.AFM(f.sparse(), DIM, 16), make_inputs=ids_only),
        cases("AutoInt", make_model=_autoint, make_inputs=tab),
        cases("FiBiNet", make_model=lambda m, f: m.FiBiNet(f.sparse(), _mlp(32, 16)), make_inputs=ids_only),
        cases("DeepFFM", make_model=_deep_ffm, make_inputs=ids_only),
        cases("FatDeepFFM", make_model=_fat_deep_ffm, make_inputs=ids_only),
        cases("BST", make_model=_bst, make_inputs=behaviour),
        cases("DIN", make_model=_din, make_inputs=behaviour),
        cases("DIEN", make_model=_dien, make_inputs=dien),
    ]


def _dcn_full(m: Any, f: Features) -> nn.Module:
    return m.DCNv2(f.both(), 2, _mlp(32, 16), model_structure="stacked", use_low_rank_mixture=False)


def _edcn_attention(m: Any, f: Features) -> nn.Module:
    return m.EDCN(f.sparse(), 2, _mlp(32), bridge_type="attention_pooling", temperature=2)


def _autoint(m: Any, f: Features) -> nn.Module:
    return m.AutoInt(f.sparse(), f.dense(), num_layers=2, mlp_params=_mlp(32))


def _crossed(f: Features) -> list[Any]:
    """Field-aware tables: one row for each id and each other field."""
    fields = len(VOCABULARIES)
    return [f.one(name, size * fields) for name, size in VOCABULARIES.items()]


def _deep_ffm(m: Any, f: Features) -> nn.Module:
    return m.DeepFFM(f.sparse(dim=1), _crossed(f), DIM, _mlp(32))


def _fat_deep_ffm(m: Any, f: Features) -> nn.Module:
    return m.FatDeepFFM(f.sparse(dim=1), _crossed(f), DIM, 1, _mlp(32))


def _bst(m: Any, f: Features) -> nn.Module:
    return m.BST([f.one("user", USERS)], f.histories(), f.target(), _mlp(32), nhead=2, max_seq_len=LENGTH + 1)


def _din(m: Any, f: Features) -> nn.Module:
    attention = {"dims": [16], "use_softmax": True}
    return m.DIN([f.one("user", USERS)], f.histories(), f.target(), {"dims": [32]}, attention)


def _dien(m: Any, f: Features) -> nn.Module:
    negatives = [f.sequence("neg_hist_item", ITEMS, "concat", "item")]
    return m.DIEN([f.one("user", USERS)], f.history(), negatives, f.item(), {"dims": [32]})


def _matching() -> list[ModelCase]:
    cases = partial(_case, room="matching")
    two_towers = _only(_sequential, "user", "hist_item", "item")
    sampled = _only(_sequential, "user", "hist_item", "item", "neg_items")
    users = _only(_sequential, "user", "hist_item")
    histories = _only(_sequential, "hist_item")
    return [
        cases("DSSM", make_model=lambda m, f: m.DSSM(f.user(), f.item(), _mlp(32, 8), _mlp(8)), make_inputs=two_towers),
        cases("DSSM-SENet", make_model=_dssm_senet, make_inputs=_only(_tabular, *VOCABULARIES)),
        cases("FaceBookDSSM", make_model=_facebook_dssm, make_inputs=_only(_tabular, *VOCABULARIES)),
        cases("YoutubeDNN", make_model=_youtube_dnn, make_inputs=sampled),
        cases("YoutubeSBC", make_model=_youtube_sbc, make_inputs=_sampling_corrected),
        cases("YoutubeSBC-user", make_model=partial(_youtube_sbc, mode="user"), make_inputs=users),
        cases("YoutubeSBC-item", make_model=partial(_youtube_sbc, mode="item"), make_inputs=_only(_sequential, "item")),
        cases("GRU4Rec", make_model=_gru4rec, make_inputs=sampled),
        cases("MIND", make_model=lambda m, f: m.MIND(*_interests(f), LENGTH), make_inputs=sampled),
        cases("ComirecSA", make_model=lambda m, f: m.ComirecSA(*_interests(f)), make_inputs=sampled),
        cases("ComirecDR", make_model=_comirec_dr, make_inputs=sampled),
        cases("SASRec", make_model=_sasrec, make_inputs=_sasrec_inputs),
        cases("NARM", make_model=_narm, make_inputs=histories),
        cases("STAMP", make_model=_stamp, make_inputs=histories),
        cases("SINE", make_model=_sine, make_inputs=_only(_sequential, "hist_item", "item", "neg_items")),
    ]


def _dssm_senet(m: Any, f: Features) -> nn.Module:
    dssm = importlib.import_module("torch_rechub.models.matching.dssm_senet").DSSM
    return dssm(f.sparse("abc"), f.sparse("bcd"), _mlp(32, 8), _mlp(32, 8))


def _facebook_dssm(m: Any, f: Features) -> nn.Module:
    return m.FaceBookDSSM(f.sparse("ab"), f.sparse("c"), f.sparse("d"), _mlp(32, 8), _mlp(32, 8))


def _youtube_dnn(m: Any, f: Features) -> nn.Module:
    return m.YoutubeDNN(f.user(), f.item(), f.negatives(), _mlp(32, DIM), temperature=0.1)


def _youtube_sbc(m: Any, f: Features, mode: str | None = None) -> nn.Module:
    weight = type(f.dense()[0])("weight")
    model = m.YoutubeSBC(f.user(), f.item(), [weight], _mlp(32, 8), _mlp(8), batch_size=64, n_neg=0)
    model.mode = mode
    return model


def _sampling_corrected(batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    names = ("user", "hist_item", "item")
    return _only(_sequential, *names)(batch, rng) | {"weight": torch.rand(batch, generator=rng) + 0.1}


def _interests(f: Features) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    return [f.one("user", USERS)], f.history(), f.item(), f.negatives()


def _gru4rec(m: Any, f: Features) -> nn.Module:
    return m.GRU4Rec(*_interests(f), _mlp(32, DIM))


def _comirec_dr(m: Any, f: Features) -> nn.Module:
    model = m.ComirecDR(*_interests(f), LENGTH)
    nn.init.normal_(model.capsule.w, std=0.2)  # the library leaves this parameter uninitialised
    return model


def _sasrec(m: Any, f: Features) -> nn.Module:
    sequence = f.sequence("seq", ITEMS, "concat")
    others = [f.sequence(name, ITEMS, "concat", "seq") for name in ("pos", "neg")]
    return m.SASRec([sequence, *others], max_len=LENGTH)


def _sasrec_inputs(batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    return {name: padded_history(batch, LENGTH, ITEMS, rng)[0] for name in ("seq", "pos", "neg")}


def _narm(m: Any, f: Features) -> nn.Module:
    return m.NARM(f.sequence("hist_item", ITEMS, "concat"), 16, 0.1, 0.1)


def _stamp(m: Any, f: Features) -> nn.Module:
    return m.STAMP(f.sequence("hist_item", ITEMS, "concat"), 0.2, 0.2)


def _sine(m: Any, f: Features) -> nn.Module:
    return m.SINE(["hist_item"], ["item"], ["neg_items"], ITEMS, DIM, 16, 10, 3, LENGTH)


def _multi_task() -> list[ModelCase]:
    cases, tab = partial(_case, room="multi_task"), _tabular
    kinds = ["classification", "regression"]
    towers = [_mlp(16), _mlp(16)]
    expert = _mlp(32, 16)
    return [
        cases("SharedBottom", make_model=lambda m, f: m.SharedBottom(f.both(), kinds, expert, towers), make_inputs=tab),
        cases("ESMM", make_model=_esmm, make_inputs=_only(tab, *VOCABULARIES)),
        cases("MMOE", make_model=lambda m, f: m.MMOE(f.both(), kinds, 3, expert, towers), make_inputs=tab),
        cases("PLE", make_model=lambda m, f: m.PLE(f.both(), kinds, 2, 2, 1, expert, towers), make_inputs=tab),
        cases("AITM", make_model=lambda m, f: m.AITM(f.both(), 2, expert, towers), make_inputs=tab),
    ]


def _esmm(m: Any, f: Features) -> nn.Module:
    return m.ESMM(f.sparse("ab"), f.sparse("cd"), _mlp(16), _mlp(16))


CASES = [*_ranking(), *_matching(), *_multi_task()]
