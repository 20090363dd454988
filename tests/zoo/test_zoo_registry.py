"""The registry, `build`, constructors for data, and refused arguments."""

from __future__ import annotations

import pytest
import torch

import recfx.zoo as zoo
from recfx.errors import RecfxError
from recfx.zoo import MODELS, CtrModel, HistoryModel, ZooError, build, model_class

CTR = [name for name, model in MODELS.items() if issubclass(model, CtrModel)]
HISTORY = [name for name, model in MODELS.items() if issubclass(model, HistoryModel)]


def test_the_registry_holds_the_sixteen_models() -> None:
    assert set(CTR) == {"dlrm", "wide-deep", "deepfm", "xdeepfm", "dcn-v2", "autoint", "mmoe"}
    assert set(HISTORY) == {"din", "dien", "bst", "two-tower"}
    assert set(MODELS) - set(CTR) - set(HISTORY) == {"sasrec", "lightgcn", "ngcf", "mf", "neumf"}


def test_all_names_exist() -> None:
    assert all(hasattr(zoo, name) for name in zoo.__all__)


@pytest.mark.parametrize("name", MODELS)
def test_defaults_build_and_run(name: str) -> None:
    model = build(name).eval()
    assert type(model) is MODELS[name]
    inputs = model.example_inputs(2)
    with torch.no_grad():
        out = model(*inputs)
    expected = {"mmoe": (2, 2), "sasrec": (2, 101)}.get(name, (2,))
    assert out.shape == expected
    assert out.isfinite().all()


def test_build_passes_overrides() -> None:
    model = build("dlrm", tables=(3, 4), dim=8, top=(5,))
    assert model.get_parameter("embeddings.tables.1.weight").shape == (4, 8)
    assert model.get_parameter("top.0.weight").shape[0] == 5


@pytest.mark.parametrize(
    ("name", "meant"), [("dcnv2", "dcn-v2"), ("deep-fm", "deepfm"), ("DLRM", "dlrm"), ("light-gcn", "lightgcn")]
)
def test_unknown_models_name_the_close_ones(name: str, meant: str) -> None:
    with pytest.raises(ZooError, match=f"no model '{name}'") as caught:
        build(name)
    assert isinstance(caught.value, RecfxError)
    assert meant in (caught.value.hint or "")


def test_unlike_names_list_all_models() -> None:
    with pytest.raises(ZooError) as caught:
        model_class("qqqqqq")
    assert all(name in (caught.value.hint or "") for name in MODELS)


def test_unknown_arguments_name_the_close_ones() -> None:
    with pytest.raises(ZooError, match="no argument 'table'") as caught:
        build("dlrm", table=(3,))
    assert "tables" in (caught.value.hint or "")


BAD = {
    "no tables": ("dlrm", {"tables": ()}),
    "empty table": ("deepfm", {"tables": (3, 0)}),
    "no dense": ("dcn-v2", {"dense": 0}),
    "no columns": ("autoint", {"dim": 0}),
    "structure": ("dcn-v2", {"structure": "serial"}),
    "cross layers": ("dcn-v2", {"cross_layers": 0}),
    "rank": ("dcn-v2", {"rank": 0}),
    "crossed field": ("wide-deep", {"tables": (3, 4), "crosses": ((0, 2),)}),
    "negative field": ("wide-deep", {"tables": (3, 4), "crosses": ((0, -1),)}),
    "buckets": ("wide-deep", {"tables": (3, 4), "buckets": 0}),
    "attention layers": ("autoint", {"tables": (3,), "layers": 0}),
    "attention heads": ("autoint", {"tables": (3,), "heads": 0}),
    "tasks": ("mmoe", {"tables": (3,), "tasks": 0}),
    "experts": ("mmoe", {"tables": (3,), "expert": ()}),
    "activation": ("din", {"num_users": 2, "num_items": 3, "activation": "relish"}),
    "users": ("din", {"num_users": 0}),
    "length": ("dien", {"length": 0}),
    "categories": ("bst", {"num_users": 2, "num_items": 3, "categories": -1}),
    "categories' shape": ("bst", {"num_users": 2, "num_items": 3, "categories": torch.zeros(3, dtype=torch.int64)}),
    "categories' dtype": ("bst", {"num_users": 2, "num_items": 3, "categories": torch.zeros(4)}),
    "padding's category": ("bst", {"num_users": 2, "num_items": 3, "categories": torch.tensor([1, 1, 0, 2])}),
    "heads": ("bst", {"num_users": 2, "num_items": 3, "heads": 7}),
    "tower": ("two-tower", {"num_users": 2, "num_items": 3, "tower": ()}),
    "items": ("sasrec", {"num_items": 0}),
    "sasrec heads": ("sasrec", {"num_items": 3, "heads": 3}),
    "pairs": ("neumf", {"num_items": 0}),
    "graph form": ("lightgcn", {"num_users": 2, "num_items": 3, "interactions": torch.zeros(3, 2, dtype=torch.int64)}),
    "graph ids": ("lightgcn", {"num_users": 2, "num_items": 3, "interactions": torch.tensor([[0], [3]])}),
    "graph users": ("lightgcn", {"num_users": 2, "num_items": 3, "interactions": torch.tensor([[-1], [0]])}),
    "graph weights": ("lightgcn", {"num_users": 2, "num_items": 3, "interactions": 1, "weights": (1.0,)}),
    "graph of floats": ("lightgcn", {"num_users": 2, "num_items": 3, "interactions": torch.zeros(2, 3)}),
    "graph columns": ("lightgcn", {"num_users": 2, "num_items": 3, "interactions": 1, "dim": 0}),
    "ngcf layers": ("ngcf", {"num_users": 2, "num_items": 3, "interactions": 1, "layers": (4, 0)}),
    "ngcf dropout": ("ngcf", {"num_users": 2, "num_items": 3, "interactions": 1, "dropout": 1.0}),
    "mf users": ("mf", {"num_users": 0}),
    "graph layers": ("lightgcn", {"num_users": 2, "num_items": 3, "interactions": 1, "layers": -1}),
}


@pytest.mark.parametrize("why", BAD)
def test_configurations_that_do_not_fit_are_refused(why: str) -> None:
    name, arguments = BAD[why]
    with pytest.raises(ZooError) as caught:
        build(name, **arguments)
    assert caught.value.where


@pytest.mark.parametrize("name", CTR)
def test_for_criteo(name: str) -> None:
    model_type = MODELS[name]
    assert issubclass(model_type, CtrModel)
    model = model_type.for_criteo([5, 1, 30, 2, 2], dense=3, dim=4).eval()
    dense, sparse = model.example_inputs(7)
    assert (dense.shape, dense.dtype) == ((7, 3), torch.float32)
    assert (sparse.shape, sparse.dtype) == ((7, 5), torch.int64)
    assert model(dense, sparse).shape == ((7, 1) if name == "mmoe" else (7,))


def test_for_criteo_takes_overrides() -> None:
    model = zoo.MMoE.for_criteo([5], dense=2, tasks=3)
    assert model(torch.ones(2, 2), torch.zeros(2, 1, dtype=torch.int64)).shape == (2, 3)


def test_wide_deep_crosses_the_smallest_criteo_fields() -> None:
    model = zoo.WideDeep.for_criteo([50, 1, 3, 4, 2, 60])
    assert model.crossed is not None
    assert model.crossed.crosses == ((0, 2), (0, 3), (0, 4), (2, 3), (2, 4), (3, 4))
    assert model.crossed.buckets == (150, 200, 100, 12, 6, 8)
    assert zoo.WideDeep.for_criteo([1, 7]).crossed is None


@pytest.mark.parametrize("name", HISTORY)
def test_for_interactions_with_histories(name: str) -> None:
    model_type = MODELS[name]
    assert issubclass(model_type, HistoryModel)
    model = model_type.for_interactions(4, 6, length=3).eval()
    highest = torch.tensor([3]), torch.tensor([6]), torch.tensor([[1, 6, 0]])
    assert model(*highest).shape == (1,)
    assert not any("category" in key for key in model.state_dict())
    with pytest.raises(IndexError):
        model(torch.tensor([4]), torch.tensor([6]), torch.tensor([[1, 6, 0]]))
    with pytest.raises(IndexError):
        model(torch.tensor([3]), torch.tensor([7]), torch.tensor([[1, 6, 0]]))


def test_for_interactions_of_the_others() -> None:
    neumf = zoo.NeuMF.for_interactions(4, 6, factors=2)
    assert neumf(torch.tensor([3]), torch.tensor([5])).shape == (1,)
    sasrec = zoo.SASRec.for_interactions(4, 6, length=3).eval()
    assert sasrec(torch.tensor([[1, 6, 0]]), torch.tensor([[1, 6]])).shape == (1, 2)
    lightgcn = zoo.LightGCN.for_interactions(4, 6, torch.tensor([0, 3]), torch.tensor([5, 1]), layers=1)
    assert lightgcn(torch.tensor([3]), torch.tensor([5])).shape == (1,)
