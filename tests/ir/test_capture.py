"""Capture: every form of input, regions, ranges, and errors that name the user's own line."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs
from torch import nn

from recfx.errors import CaptureError, InputError, RecfxError
from recfx.ir import capture, verify_meta

Pair = namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass
class Features:
    dense: torch.Tensor
    ids: torch.Tensor


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(model: nn.Module, program: Any, *args: Any, **kwargs: Any) -> None:
    flat = torch.utils._pytree.tree_flatten
    want, want_spec = flat(model(*args, **kwargs))
    got, got_spec = flat(program(*args, **kwargs))
    assert want_spec == got_spec
    for a, b in zip(want, got, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


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


STAR_KWARGS = pytest.mark.xfail(raises=CaptureError, strict=True, reason="dynamic shapes of **kwargs are refused")


@pytest.mark.parametrize("form", [pytest.param(f, marks=STAR_KWARGS if f == "**kwargs" else ()) for f in FORMS])
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


class Regions(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.linear = nn.Linear(6, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        if self.kind == "no_grad":
            with torch.no_grad():
                y = self.linear(x)
            return y * 2
        if self.kind == "bf16":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.linear(x)
                z = torch.softmax(self.linear(y), -1)
            return z.float() + x
        if self.kind == "nested off":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.linear(x)
                with torch.autocast("cpu", enabled=False):
                    y = self.linear(y.float())
                y = self.linear(y)
            return y
        if self.kind == "grad inside autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
                y = self.linear(x) @ x.t()
            return y.float().sum(1)
        if self.kind == "cat and bmm":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = torch.cat([self.linear(x), x], 1)
                return torch.bmm(y.unsqueeze(1), y.unsqueeze(2)).squeeze(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.nn.functional.scaled_dot_product_attention(x[None], x[None], self.linear(x)[None])


@pytest.mark.parametrize("kind", ["no_grad", "bf16", "nested off", "grad inside autocast", "cat and bmm"])
def test_region_is_inlined_with_the_same_bits(kind: str) -> None:
    model = Regions(kind).eval()
    program = capture(model, (rand(4, 6),))
    assert not [n for n in program.graph.nodes if isinstance(n.target, torch._ops.HigherOrderOperator)]
    for batch in (1, 3):
        same(model, program, rand(batch, 6, seed=batch))


def test_autocast_inside_a_composite_operator_is_refused() -> None:
    with pytest.raises(CaptureError, match="composite operator") as caught:
        capture(Regions("composite").eval(), (rand(4, 6),))
    assert "test_capture.py" in str(caught.value.where)


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = cell(4, 5, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0][:, -1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, key_padding_mask=x[:, :, 0] > 5)


def _encoder(fast: bool) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=fast)


def _weight_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU())


class SharedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tower = nn.Linear(4, 4)

    def forward(self, x):
        return self.tower(torch.relu(self.tower(x)))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(3, 2, 2)

    def forward(self, x):
        return self.conv(x).amax(2)


MODULES = {
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "MultiheadAttention": Attention,
    "TransformerEncoder, fast path": lambda: _encoder(True),
    "TransformerEncoder, plain": lambda: _encoder(False),
    "weight_norm": _weight_norm,
    "shared submodule": SharedTwice,
    "Conv1d": Convolutions,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MODULES)
def test_torch_module(name: str) -> None:
    model = MODULES[name]().eval()
    program = capture(model, (rand(4, 3, 4),))
    assert program.signature.dims == {"batch": (1, 65536)}
    for batch in (1, 2, 6):
        x = rand(batch, 3, 4, seed=batch)
        want, got = model(x), program(x)
        for a, b in zip(*map(torch.utils._pytree.tree_leaves, (want, got)), strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


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


def test_training_mode_is_refused() -> None:
    with pytest.raises(CaptureError, match="training mode"):
        capture(TinyCtr().train(), tiny_inputs(4))


class ValueBranch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # the line
            return x
        return -x


class ItemSize(nn.Module):
    def forward(self, x, n):
        return x[:, : n.item()]  # the line


def test_batch_literal_is_explained() -> None:
    with pytest.raises(CaptureError, match="fixes a dimension that must be free") as caught:
        capture(BatchLiteral().eval(), (rand(4, 4),))
    assert "x.shape[0]" in str(caught.value.hint)


class FailsOnItsExample(nn.Module):
    def forward(self, x):
        n = x.abs().long().sum().item()
        return x.sum() + torch.arange(n).reshape(2, -1).sum()


class BatchLiteral(nn.Module):
    def forward(self, x):
        return x.reshape(4, -1) + 1  # the line


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        lengths = (x[:, :, 0] > 0).sum(1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, False)  # the line
        return self.gru(packed)[1][0]


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("no weights were loaded")  # the line


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (ValueBranch(), (4, 4)),
        (Packed(), (4, 3, 4)),
        (Raises(), (4, 4)),
        (BatchLiteral(), (4, 4)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_error_names_the_users_line_and_a_mend(model: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(model.eval(), (rand(*shape),))
    assert caught.value.hint
    assert "test_capture.py:" in str(caught.value.where) or "test_capture.py" in str(caught.value.where)
    if not isinstance(model, Packed):
        assert "# the line" in str(caught.value.where)


def test_size_from_a_value_is_equal_or_refused() -> None:
    model = ItemSize().eval()
    try:
        program = capture(model, (rand(4, 4), torch.tensor(2)))
    except CaptureError as error:
        assert error.hint  # noqa: PT017
        assert "# the line" in str(error.where)  # noqa: PT017
    else:
        for n in (0, 2, 4):
            same(model, program, rand(3, 4), torch.tensor(n))


def test_model_that_fails_on_its_own_example_is_a_capture_error() -> None:
    with pytest.raises(CaptureError):
        capture(FailsOnItsExample().eval(), (torch.full((3, 1), 1.0),))


class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() * 2)


def test_numpy_is_captured_strictly_or_refused() -> None:
    model = Numpy().eval()
    try:
        program = capture(model, (rand(4, 4),))
    except CaptureError as error:
        assert "numpy" in str(error).lower()  # noqa: PT017
    else:
        assert any("strict" in notice for notice in program.notices)
        same(model, program, rand(3, 4, seed=2))


class WritesBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class MaxNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4, max_norm=0.5)

    def forward(self, x):
        return self.table(x.abs().long().clamp(max=9))


@pytest.mark.parametrize("model", [WritesBuffer(), MaxNorm()], ids=lambda m: type(m).__name__)
def test_write_to_state_is_refused(model: nn.Module) -> None:
    with pytest.raises(CaptureError, match=r"writes to its (parameter or )?buffer|writes to its parameter"):
        capture(model.eval(), (rand(4, 4),))


class Random(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


def test_random_model_is_refused() -> None:
    with pytest.raises(CaptureError, match="different answers"):
        capture(Random().eval(), (rand(4, 4),))


class BakedMask(nn.Module):
    def forward(self, x):
        return x * torch.tensor((x.detach() > 0).tolist(), dtype=x.dtype)


class CachedMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask: torch.Tensor | None = None

    def forward(self, x):
        if self.mask is None:
            self.mask = x != 0
        return x.masked_fill(~self.mask[:1], 0.0)


def test_baked_mask_is_refused() -> None:
    with pytest.raises(CaptureError):
        capture(BakedMask().eval(), (rand(4, 4),))
    x = rand(4, 4)
    x[0, 1] = 0
    warm = CachedMask().eval()
    with pytest.raises(CaptureError):
        capture(warm, (x,), dynamic_shapes=False)


class CachesTable(nn.Module):
    """As LightGCN: propagates its tables at the first call and keeps them."""

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


def _export_examples() -> list[Any]:
    from torch._export.db.examples import all_examples

    return sorted(all_examples().items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "example"), _export_examples(), ids=lambda v: v if isinstance(v, str) else "")
def test_torch_export_corpus(name: str, example: Any) -> None:
    """Captured with equal outputs, or a RecfxError; never another exception."""
    model = example.model.eval()
    try:
        program = capture(model, example.example_args, example.example_kwargs, dynamic_shapes=example.dynamic_shapes)
    except RecfxError as error:
        assert error.what  # noqa: PT017
    else:
        same(model, program, *example.example_args, **example.example_kwargs)
