"""constant_inputs, and item towers as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from item_models import IDS, ITEMS, USER, USERS, Rank, Scores, catalogue, close, linears, optimize, rank_inputs
from torch import Tensor, nn

import recfx
from recfx.zoo import MODELS


@pytest.mark.parametrize(
    ("declared", "example"),
    [
        ({"item_ids": IDS}, (USER,)),
        ({"item_ids": IDS}, (IDS, USER)),
        (("item_ids",), (IDS, USER)),
        ("item_ids", (IDS, USER)),
    ],
    ids=["value, short example", "value, full example", "name", "one name"],
)
def test_what_depends_on_constants_is_computed_once(declared: Any, example: tuple[Tensor, ...]) -> None:
    model = Scores()
    fast = optimize(model, example_inputs=example, constant_inputs=declared)
    assert linears(fast) == 0
    assert fast.program.signature.dims["batch"] == (1, 65536)
    for batch in (1, 2, 7):
        user = torch.randint(0, USERS, (batch,), generator=torch.Generator().manual_seed(batch))
        expected = model(IDS, user)
        for got in (
            fast(user),
            fast(user=user),
            fast(IDS, user),
            fast(user, item_ids=IDS.clone()),
            fast(IDS, user=user),
        ):
            close(got, expected)


def test_a_constant_passed_with_another_value_is_refused() -> None:
    fast = optimize(Scores(), example_inputs=(USER,), constant_inputs={"item_ids": IDS})
    for wrong in (IDS + 1, IDS.int(), IDS[:-1], 3):
        with pytest.raises(recfx.RecfxError, match="declared constant"):
            fast(wrong, USER)
    with pytest.raises(recfx.RecfxError, match="missing"):
        fast(item_ids=IDS)
    with pytest.raises(recfx.RecfxError, match="default"):
        fast(USER, bias=1.0)


@pytest.mark.parametrize(
    ("declared", "is_catalogue", "message"),
    [
        ({"items": IDS}, False, "not a parameter"),
        ({"item_ids": [1, 2]}, False, "not a tensor"),
        (None, True, "needs constant_inputs"),
        ({"item_ids": IDS.float()}, True, "int64"),
        ({"item_ids": torch.tensor([1, 1])}, True, "different"),
        ({"item_ids": torch.arange(3), "user": torch.arange(4)}, True, "column"),
    ],
)
def test_declarations_that_do_not_fit(declared: Any, is_catalogue: bool, message: str) -> None:
    with pytest.raises(recfx.RecfxError, match=message):
        optimize(Scores(), example_inputs=(IDS, USER), constant_inputs=declared, catalogue=is_catalogue)


def test_the_former_name_of_catalogue_still_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="catalogue="):
        fast = optimize(
            Rank(), example_inputs=rank_inputs(ITEMS), constant_inputs=catalogue(torch.arange(ITEMS)), tables=True
        )
    assert fast.parts.recipe is not None
    assert fast.parts.recipe.options.catalogue


@pytest.mark.parametrize("start", [0, 2, None])
def test_item_towers_become_tables(start: int | None, tmp_path: Path) -> None:
    model = Rank()
    ids = torch.randperm(ITEMS) if start is None else torch.arange(start, ITEMS)
    example = tuple(t[rank_inputs(64)[1] >= (start or 0)] for t in rank_inputs(64))
    fast = optimize(model, example_inputs=example, constant_inputs=catalogue(ids), catalogue=True)
    assert linears(fast) == 0
    assert fast.program.signature.parameters == ("user", "item")
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    for batch in (1, 2, 7):
        keep = rank_inputs(50, seed=batch)[1] >= (start or 0)
        inputs = tuple(t[keep][:batch] for t in rank_inputs(50, seed=batch))
        expected = model(*inputs)
        for got in (
            fast(*inputs[:2]),
            fast(*inputs),
            fast(*inputs[:2], price=inputs[2]),
            loaded(*inputs),
            loaded(*inputs[:2]),
        ):
            close(got, expected)


def test_an_id_outside_the_catalogue_is_an_error() -> None:
    for ids in (torch.arange(3, ITEMS), torch.tensor([5, 3, 4, 19])):
        example = (USER, torch.tensor([3, 4, 5, 19]))
        fast = optimize(Rank(), example_inputs=example, constant_inputs=catalogue(ids), catalogue=True)
        for outside in (2, ITEMS):
            with pytest.raises(recfx.RecfxError, match=r"out of range|fails on these inputs|outside its table"):
                fast(USER[:1], torch.tensor([outside]))


class Discounts(nn.Module):
    """Uses the properties of the item directly, without a tower."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(USERS, 4)
        self.eval()

    def forward(self, user: Tensor, item: Tensor, price: Tensor) -> Tensor:
        return self.users(user).sum(1) * price


@pytest.mark.parametrize("pipeline", ["canonicalize", None])
@pytest.mark.parametrize("ids", [torch.arange(3, ITEMS), torch.tensor([5, 3, 4, 19])], ids=["counted", "listed"])
def test_an_id_outside_the_catalogue_is_an_error_without_towers_too(ids: Tensor, pipeline: str | None) -> None:
    columns = {name: column for name, column in catalogue(ids).items() if name != "kind"}
    model = Discounts()
    options = {} if pipeline is None else {"pipeline": pipeline}
    fast = optimize(model, example_inputs=(USER[:2], ids[:2]), constant_inputs=columns, catalogue=True, **options)
    close(fast(USER[:2], ids[:2]), model(USER[:2], ids[:2], columns["price"][:2]))
    for outside in (-1, 0, 2, ITEMS):
        with pytest.raises(recfx.InputError, match=r"out of range|outside its table"):
            fast(USER[:2], torch.tensor([int(ids[0]), outside]))


def test_an_example_that_contradicts_the_catalogue_is_refused() -> None:
    user, item, price, kind = rank_inputs(6)
    with pytest.raises(recfx.RecfxError, match=r"differs from the catalogue's values"):
        optimize(
            Rank(),
            example_inputs=(user, item, price + 1, kind),
            constant_inputs=catalogue(torch.arange(ITEMS)),
            catalogue=True,
        )
    with pytest.raises(recfx.RecfxError, match="not in the catalogue"):
        optimize(Rank(), example_inputs=rank_inputs(40), constant_inputs=catalogue(torch.arange(3)), catalogue=True)


def test_the_report_says_when_there_is_no_tower() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(ITEMS, 4)

        def forward(self, item: Tensor, other: Tensor) -> Tensor:
            return (self.items(item) * self.items(other)).sum(1)

    inputs = (torch.tensor([1, 2]), torch.tensor([3, 4]))
    fast = optimize(
        Mixed().eval(), example_inputs=inputs, constant_inputs={"item": torch.arange(ITEMS)}, catalogue=True
    )
    assert "no tower over 'item'" in " ".join(fast.report.notices)


def test_what_mixes_rows_is_no_tower() -> None:
    class Batchwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.a = nn.Embedding(ITEMS, 4), nn.Linear(4, 4)

        def forward(self, item: Tensor, user: Tensor) -> Tensor:
            rows = torch.softmax(self.a(self.items(item)), 0)
            return rows * user[:, None]

    model = Batchwise().eval()
    inputs = (torch.tensor([1, 2, 3]), torch.rand(3))
    fast = optimize(
        model,
        example_inputs=inputs,
        constant_inputs={"item": torch.arange(ITEMS)},
        catalogue=True,
        pipeline="canonicalize",
    )
    assert any("softmax" in str(n.target) for n in fast.program.graph.nodes)
    assert linears(fast) == 0  # the linear before it is still a tower
    close(fast(*inputs), model(*inputs))


@pytest.mark.parametrize("name", ["two-tower", "neumf"])
def test_models_of_the_zoo(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name].small().eval()  # type: ignore[attr-defined]
    inputs = model.example_inputs(6)
    key = "item" if name == "two-tower" else "items"
    fast = optimize(model, example_inputs=inputs, constant_inputs={key: torch.arange(0, 40)}, catalogue=True)
    fired = sum(r.fired for r in fast.report.passes if r.text == "tabulate-towers")
    assert fired == (name == "two-tower")  # NeuMF combines item and user before its first layer
    for batch in (1, 2, 17):
        again = model.example_inputs(batch, seed=batch)
        again = tuple(t.clamp(max=39) for t in again)
        with torch.no_grad():
            close(fast(*again), model(*again))


def test_a_model_that_was_captured_at_its_first_call() -> None:
    model = Scores()
    fast = optimize(model, constant_inputs={"item_ids": IDS})
    close(fast(USER), model(IDS, USER))
    close(fast(IDS, USER), model(IDS, USER))
    with torch.no_grad():
        model.users.weight.add_(1)
        model.items.weight.add_(1)  # the rows of the constant ids are part of the compiled model
    assert not torch.allclose(fast(USER), model(IDS, USER))
    fast.refresh()
    close(fast(USER), model(IDS, USER))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16), batch=st.integers(2, 5), shuffled=st.booleans(), rows=st.integers(1, ITEMS))
def test_any_catalogue_gives_what_the_model_gives(seed: int, batch: int, shuffled: bool, rows: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(ITEMS, generator=generator)[:rows]
    ids = ids if shuffled else ids.sort().values
    columns = catalogue(ids)
    model = Rank()
    picks = torch.randint(0, rows, (batch,), generator=generator)
    user = torch.randint(0, USERS, (batch,), generator=generator)
    inputs = (user, *(column[picks] for column in columns.values()))
    fast = optimize(model, example_inputs=inputs, constant_inputs=columns, catalogue=True, pipeline="canonicalize")
    assert linears(fast) == 0
    close(fast(*inputs[:2]), model(*inputs))


@pytest.mark.parametrize("many", [False, True])
def test_item_tables_go_with_request_inputs(many: bool, tmp_path: Path) -> None:
    model = Rank()
    columns = catalogue(torch.arange(ITEMS))
    _, item, price, kind = rank_inputs(6)
    user = torch.tensor([3, 7]) if many else torch.tensor([3])
    index = torch.tensor([0, 0, 1, 0, 1, 1])
    extra = {"request_index": index} if many else {}
    fast = optimize(
        model,
        example_inputs=(user, item, price, kind),
        example_kwargs=extra,
        constant_inputs=columns,
        catalogue=True,
        request_inputs=("user",),
        many_requests=many,
    )
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    expected = model(user[index] if many else user.expand(6), item, price, kind)
    for compiled in (fast, loaded):
        assert linears(compiled) == 0
        close(compiled(user, item, **extra), expected)
        close(compiled(user, item, price, kind, **extra), expected)
    fast.refresh()
    close(fast(user, item, **extra), expected)


class Placed(nn.Module):
    """An item tower with a column that has the name of the positions of ids."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, 4)
        self.tower = nn.Linear(5, 4)

    def forward(self, x: Tensor, item: Tensor, places: Tensor) -> Tensor:
        tower: Tensor = self.tower(torch.cat([self.items(item), places.unsqueeze(1)], 1))
        return (x * tower).sum(1)


def test_a_column_may_be_called_places() -> None:
    ids = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))[:20]
    columns = {"item": ids, "places": torch.rand(20, generator=torch.Generator().manual_seed(1))}
    model, x = Placed().eval(), torch.randn(3, 4)
    fast = optimize(model, example_inputs=(x, ids[:3]), constant_inputs=columns, catalogue=True)
    close(fast(x, ids[5:8]), model(x, ids[5:8], columns["places"][5:8]))
