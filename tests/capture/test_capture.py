"""Capture: every form of input, ranges of sizes, and state that is shared, cached or sparse."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from typing import Any

import pytest
import torch
from capture_cases import rand, same
from models import TinyCtr, tiny_inputs
from torch import nn

from recfx.capture import capture
from recfx.errors import InputError
from recfx.ir import verify_meta
from recfx.ir.propagate import fake_mode_of

Pair = namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass
class Features:
    dense: torch.Tensor
    ids: torch.Tensor


class Positional(nn.Module):
    def forward(self, x, y):
        return x + y


class KeywordOnly(nn.Module):
    def forward(self, x, *, y, scale=2.0):
        return x * scale + y


class StarArgs(nn.Module):
    def forward(self, x, *rest):
        return torch.cat([x, *rest], 1)


class StarKwargs(nn.Module):
    def forward(self, x, **features):
        return {k: x + v for k, v in features.items()}


class DictInput(nn.Module):
    def forward(self, features):
        return features["a"] * features["b"]["c"]


class ListInput(nn.Module):
    def forward(self, items):
        return [items[0] + items[1][0], items[1][1]]


class DataclassInput(nn.Module):
    def forward(self, f):
        return f.dense * f.ids


class NamedTupleInput(nn.Module):
    def forward(self, p):
        return Pair(p.left + p.right, p.left - p.right)


class Optional(nn.Module):
    def forward(self, x, mask=None, mode="sum", k=3):
        y = x if mask is None else x * mask
        return y.sum(1) * k if mode == "sum" else y.mean(1) * k


def nested(batch: int) -> dict[str, Any]:
    return {"a": rand(batch, 3), "b": {"c": rand(batch, 1, seed=1)}}


FORMS = {
    "positional": (Positional(), lambda b: ((rand(b, 3), rand(b, 3, seed=1)), {})),
    "keyword": (Positional(), lambda b: ((), {"y": rand(b, 3), "x": rand(b, 3, seed=1)})),
    "mixed": (Positional(), lambda b: ((rand(b, 3),), {"y": rand(b, 3, seed=1)})),
    "keyword-only": (KeywordOnly(), lambda b: ((rand(b, 3),), {"y": rand(b, 3, seed=1)})),
    "keyword constant": (KeywordOnly(), lambda b: ((rand(b, 3),), {"y": rand(b, 3, seed=1), "scale": 3.0})),
    "*args": (StarArgs(), lambda b: ((rand(b, 3), rand(b, 1, seed=1), rand(b, 2, seed=2)), {})),
    "**kwargs": (StarKwargs(), lambda b: ((rand(b, 3),), {"u": rand(b, 3, seed=1), "v": rand(b, 1, seed=2)})),
    "dict": (DictInput(), lambda b: ((nested(b),), {})),
    "dict by keyword": (DictInput(), lambda b: ((), {"features": nested(b)})),
    "list": (ListInput(), lambda b: (([rand(b, 2), [rand(b, 2, seed=1), rand(b, 5, seed=2)]],), {})),
    "dataclass": (DataclassInput(), lambda b: ((Features(rand(b, 2), torch.arange(b * 2).view(b, 2)),), {})),
    "namedtuple": (NamedTupleInput(), lambda b: ((Pair(rand(b, 2), rand(b, 2, seed=1)),), {})),
    "None given": (Optional(), lambda b: ((rand(b, 3), None), {})),
    "mask given": (Optional(), lambda b: ((rand(b, 3), rand(b, 3, seed=2)), {})),
    "constants given": (Optional(), lambda b: ((rand(b, 3), None, "mean"), {"k": 2})),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("example_batch", [4, 1])
def test_input_form(form: str, example_batch: int) -> None:
    model, inputs = FORMS[form]
    args, kwargs = inputs(example_batch)
    program = capture(model.eval(), args, kwargs)
    assert program.signature.dims == {"batch": (1, 65536)}
    verify_meta(program)
    for batch in (1, 2, 7):
        args, kwargs = inputs(batch)
        same(model, program, *args, **kwargs)


def test_example_that_does_not_fit_forward() -> None:
    with pytest.raises(InputError, match="do not fit"):
        capture(Positional().eval(), (rand(2, 3),))


def test_tied_weights_stay_one_tensor_and_names_are_kept() -> None:
    model = TinyCtr()
    program = capture(model, tiny_inputs(4))
    state = program.state()
    own = model.state_dict(keep_vars=True)
    assert set(state) <= set(own)
    assert all(state[name] is own[name] for name in state)
    assert {id(state[n]) for n in ("item.weight", "bag.weight") if n in state} == {id(model.item.weight)}
    same(model, program, *tiny_inputs(9, 1))


def test_max_batch_is_the_end_of_the_range() -> None:
    program = capture(TinyCtr(), tiny_inputs(4), max_batch=16)
    assert program.signature.dims == {"batch": (1, 16)}
    with pytest.raises(InputError):
        program(*tiny_inputs(17))
    with pytest.raises(InputError, match="more than max_batch"):
        capture(TinyCtr(), tiny_inputs(4), max_batch=3)


def test_empty_example() -> None:
    with pytest.raises(InputError, match="empty"):
        capture(TinyCtr(), tiny_inputs(0))


def test_fixed_shapes() -> None:
    model = TinyCtr()
    program = capture(model, tiny_inputs(4), dynamic_shapes=False)
    assert program.signature.dims == {}
    same(model, program, *tiny_inputs(4, 3))
    with pytest.raises(InputError):
        program(*tiny_inputs(5))


class Jagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 3, mode="sum", include_last_offset=True)

    def forward(self, values, offsets):
        return self.bag(values, offsets)


def test_user_given_dynamic_shapes_of_values_and_offsets() -> None:
    batch = torch.export.Dim("batch", min=1, max=100)
    values = torch.export.Dim("values", min=0, max=1000)
    model = Jagged().eval()
    program = capture(
        model,
        (torch.arange(7), torch.tensor([0, 2, 5, 7])),
        dynamic_shapes={"values": {0: values}, "offsets": {0: batch + 1}},
    )
    same(model, program, torch.arange(5), torch.tensor([0, 5]))
    same(model, program, torch.arange(5), torch.tensor([0, 0, 1, 5, 5, 5]))


class WeightedBag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(20, 3, mode="sum")

    def forward(self, ids, weights):
        return self.bag(ids, per_sample_weights=weights)


def test_weighted_bag() -> None:
    model = WeightedBag().eval()
    program = capture(model, (torch.arange(12).view(4, 3), rand(4, 3)))
    same(model, program, torch.arange(6).view(2, 3), rand(2, 3, seed=1))


class ShapeBranch(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] > 3 else -x


def test_shape_branch_becomes_a_range_and_a_notice() -> None:
    program = capture(ShapeBranch().eval(), (rand(5, 2),))
    assert program.signature.dims["batch"][0] == 4
    assert any("limits the program to batches 4" in n for n in program.notices)


class CachesTable(nn.Module):
    """Like LightGCN: propagates its tables at the first call and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 4)
        self.cached: torch.Tensor | None = None

    def forward(self, ids):
        if self.cached is None:
            self.cached = torch.tanh(self.table.weight)
        return self.cached[ids]


def test_cold_and_warm_models_capture_alike() -> None:
    cold, warm = CachesTable().eval(), CachesTable().eval()
    ids = torch.arange(4)
    with torch.no_grad():
        warm(ids)
    for model in (cold, warm):
        program = capture(model, (ids,))
        with torch.no_grad():
            assert torch.equal(program(ids + 3), torch.tanh(model.table.weight)[ids + 3])
            assert torch.equal(model(ids + 3), program(ids + 3))


class UsesData(nn.Module):
    def forward(self, x):
        return x.masked_fill(x.data.gt(0), 0.0)


def test_data_is_not_baked_in() -> None:
    model = UsesData().eval()
    program = capture(model, (rand(4, 3),))
    same(model, program, rand(5, 3, seed=4))
    tensor = rand(2)
    tensor.data = torch.zeros(2)
    assert "data" not in vars(torch.Tensor)
    assert torch.equal(tensor.data, torch.zeros(2))


class SparseAdjacency(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("adjacency", torch.eye(6).to_sparse())
        self.table = nn.Embedding(6, 3)

    def forward(self, ids):
        return torch.sparse.mm(self.adjacency, self.table.weight)[ids]


def test_sparse_state_is_counted() -> None:
    model = SparseAdjacency().eval()
    program = capture(model, (torch.arange(4),))
    same(model, program, torch.arange(3))
    assert program.state_bytes() == 6 * 3 * 4 + 2 * 6 * 8 + 6 * 4


def test_passes_find_computed_values_in_the_cache_though_tracing_does_not_use_it() -> None:
    assert fake_mode_of(capture(TinyCtr(), tiny_inputs(3)).graph).cache_enabled
