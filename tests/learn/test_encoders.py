"""Encoders and the quantised model around them."""

from __future__ import annotations

import pytest
import torch
from learn_kit import planted
from torch import Tensor, nn

from recfx.errors import InputError
from recfx.learn import (
    Batch,
    GraphEncoder,
    QuantizedModel,
    TableEncoder,
    TowerEncoder,
    as_encoder,
    make_quantizer,
)
from recfx.learn.encoders import base_rows_of, rows_of
from recfx.zoo import LightGCN

IDS = torch.tensor([3, 0, 3]), torch.tensor([1, 4, 4, 0])


def _towers() -> TowerEncoder:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)
    items = (torch.randn(6, 4, generator=generator),)

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 2)

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            found: Tensor = self.linear(torch.cat([first, second], 1))
            return found

    return TowerEncoder(Joined(), nn.Linear(4, 2), users, items)


def _encoders() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    graph = LightGCN.for_interactions(5, 6, torch.arange(5), torch.arange(5), dim=2, layers=2)
    return {"table": TableEncoder(5, 6, 2), "tower": _towers(), "graph": as_encoder(graph)}


@pytest.mark.parametrize("name", ["table", "tower", "graph"])
def test_rows_are_rows_of_the_embeddings(name: str) -> None:
    encoder = _encoders()[name]
    users, items = encoder.embeddings()  # type: ignore[operator]
    assert (users.shape, items.shape) == ((5, 2), (6, 2))
    for found, want in zip(rows_of(encoder, *IDS), (users[IDS[0]], items[IDS[1]]), strict=True):
        torch.testing.assert_close(found, want)
    assert as_encoder(encoder) is encoder


def test_base_rows_of_a_graph_are_its_tables() -> None:
    encoder = _encoders()["graph"]
    base = base_rows_of(encoder, *IDS)
    assert base is not None
    model = getattr(encoder, "module", encoder)
    assert isinstance(model, LightGCN)
    assert torch.equal(base[0], model.users.weight[IDS[0]])
    assert torch.equal(base[1], model.items.weight[IDS[1]])
    assert base_rows_of(_encoders()["tower"], *IDS) is None


def test_any_module_with_a_function() -> None:
    module = nn.ModuleDict({"a": nn.Embedding(5, 2), "b": nn.Embedding(6, 2)})
    encoder = GraphEncoder(module, lambda m: (m["a"].weight, m["b"].weight))
    assert torch.equal(rows_of(encoder, *IDS)[0], module["a"].weight[IDS[0]])  # type: ignore[index,union-attr]
    assert base_rows_of(encoder, *IDS) is None
    with pytest.raises(InputError, match="neither"):
        as_encoder(module)


def test_wrong_sizes() -> None:
    with pytest.raises(InputError):
        TableEncoder(0, 3)
    with pytest.raises(InputError):
        TowerEncoder(nn.Identity(), nn.Identity(), (torch.ones(2, 1), torch.ones(3, 1)), (torch.ones(2, 1),))
    with pytest.raises(InputError):
        TowerEncoder(nn.Identity(), nn.Identity(), (), (torch.ones(2, 1),))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["table", "tower", "graph"])
def test_what_is_trained_is_what_is_served(name: str, shared: bool) -> None:
    quantizer = make_quantizer(2, "gste", "sigma")
    model = QuantizedModel(_encoders()[name], quantizer, quantizer if shared else make_quantizer(2, "ste", "per-row"))
    assert len(model.quantizers()) == 2 - shared
    batch = Batch.of(torch.tensor([3, 0]), torch.tensor([1, 4]), torch.tensor([[0, 5, 2], [1, 0, 2]]))
    model(batch)
    model.eval()
    users, positives, negatives = model(batch)
    table_users, table_items = model.embeddings()
    torch.testing.assert_close(users, table_users[batch.users])
    torch.testing.assert_close(positives, table_items[batch.positives])
    torch.testing.assert_close(negatives, table_items[batch.negatives])
    for table, want in zip(model.tables(), model.embeddings(), strict=True):
        assert torch.equal(table.dequantize(), want)
    assert model.sizes() == (5, 6)


def test_full_precision_has_no_codes() -> None:
    model = QuantizedModel(TableEncoder(5, 6, 2), make_quantizer(1))
    assert torch.equal(model.embeddings()[1], model.encoder.items.weight)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="no codes"):
        model.tables()


@pytest.mark.parametrize(
    "sample",
    [
        (torch.tensor([1]), torch.tensor([1, 2]), torch.tensor([1])),
        (torch.tensor([1]), torch.tensor([1]), torch.tensor([1, 2])),
        (torch.tensor([1]), torch.tensor([1]), torch.empty(1, 0, dtype=torch.int64)),
        (torch.tensor([[1]]), torch.tensor([[1]]), torch.tensor([1])),
        (torch.tensor([1]), torch.tensor([1]), torch.tensor([1], dtype=torch.int32)),
    ],
)
def test_samples_that_do_not_fit(sample: tuple[Tensor, Tensor, Tensor]) -> None:
    with pytest.raises(InputError):
        Batch.of(*sample)


def test_users_and_items_without_interactions_are_embedded() -> None:
    """A row without neighbours keeps a share of its own embedding and can be quantised."""
    data = planted(20, 30)
    users, items = data.train_pairs()
    keep = (users != 3) & (items != 4)
    graph = LightGCN.for_interactions(20, 30, users[keep], items[keep], dim=8, layers=2)
    model = QuantizedModel(graph, make_quantizer(1), make_quantizer(1))
    table = model.eval().tables()
    assert table[0].dequantize()[3].abs().min() > 0
    assert table[1].dequantize()[4].abs().min() > 0


def test_each_user_and_item_is_embedded_once() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = Batch.of(*(torch.randint(4, shape, generator=generator) for shape in ((9,), (9,), (9, 3))))
    further = torch.randint(6, (9, 2), generator=generator)
    for more in (None, further):
        users, items, places, found = batch.distinct(more)
        assert users.tolist() == sorted(set(batch.users.tolist()))
        assert torch.equal(users[places.users], batch.users)
        assert torch.equal(items[places.positives], batch.positives)
        assert torch.equal(items[places.negatives], batch.negatives)
        assert len(items) == len(set(items.tolist()))
        assert (found is None) == (more is None)
    assert found is not None
    assert torch.equal(items[found], further)


@pytest.mark.parametrize("name", ["table", "tower", "graph"])
@pytest.mark.parametrize("wrong", [(5, 0), (0, 6), (-1, 0), (0, -2)])
def test_ids_that_are_no_rows(name: str, wrong: tuple[int, int]) -> None:
    users, items = (torch.tensor([1, i]) for i in wrong)
    with pytest.raises(InputError, match=r"not rows|negative"):
        rows_of(_encoders()[name], users, items)


def test_embeddings_of_another_form() -> None:
    module = nn.Linear(2, 3)
    for found in (
        (torch.ones(2, 3),),
        (torch.ones(2, 3), torch.ones(2, 4)),
        (torch.ones(2), torch.ones(2)),
        (None, None),
    ):
        with pytest.raises(InputError, match=r"embeddings\(\) must give"):
            QuantizedModel(GraphEncoder(module, lambda m, f=found: f)).embeddings()


def test_tables_may_have_one_row_and_one_column() -> None:
    users, items = TableEncoder(1, 1, 1).embeddings()
    assert users.shape == items.shape == (1, 1)
    for sizes in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(InputError, match="sizes must be at least 1"):
            TableEncoder(*sizes)
