"""TorchRec's containers as inputs: their contents are passed or refused, at capture, at calls, and if eager is kept."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec_models import KEYS, ROWS, jagged, keyed_tables

import recfx

pytest.importorskip("torchrec")
pytestmark = pytest.mark.slow

BATCHES = (1, 2, 7, 16)


class _Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = keyed_tables()
        self.linear = nn.Linear(len(KEYS) * 8, 1)

    def forward(self, sparse: Any) -> Tensor:
        scores: Tensor = self.linear(self.tables(sparse).values())
        return scores


def _container(name: str) -> Any:
    return getattr(importlib.import_module("torchrec.sparse.jagged_tensor"), name)


def _plain(batch: int, seed: int = 0) -> Any:
    return jagged(batch, torch.Generator().manual_seed(seed))


def _shared_rows(batch: int, seed: int = 0, rows: int = 3) -> Any:
    """Bags of `rows` rows, which inverse indices expand to the batch."""
    plain = _plain(rows, seed)
    rng = torch.Generator().manual_seed(seed)
    inverse = (list(KEYS), torch.randint(0, rows, (len(KEYS), batch), generator=rng))
    return _container("KeyedJaggedTensor")(list(KEYS), plain.values(), lengths=plain.lengths(), inverse_indices=inverse)


def _own_strides(batch: int, seed: int = 0) -> Any:
    """A batch of its own for each key, which inverse indices expand."""
    rng = torch.Generator().manual_seed(seed)
    strides = [int(torch.randint(1, batch + 1, (1,), generator=rng)) for _ in KEYS]
    lengths = torch.randint(0, 4, (sum(strides),), generator=rng)
    values = torch.randint(0, ROWS, (int(lengths.sum()),), generator=rng)
    inverse = torch.stack([torch.randint(0, stride, (batch,), generator=rng) for stride in strides])
    return _container("KeyedJaggedTensor")(
        list(KEYS),
        values,
        lengths=lengths,
        stride_per_key_per_rank=[[stride] for stride in strides],
        inverse_indices=(list(KEYS), inverse),
    )


@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize("make", [_plain, _shared_rows, _own_strides])
def test_strides_and_inverse_indices_are_carried(make: Callable[..., Any], measure: bool) -> None:
    model = _Pooled().eval()
    fast = recfx.optimize(model, example_inputs=(make(6),), measure=measure)
    for batch in BATCHES:
        with torch.no_grad():
            torch.testing.assert_close(fast(make(batch, 1)), model(make(batch, 1)), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inverse_indices": (list(KEYS), torch.zeros(len(KEYS), 5, dtype=torch.int64))}, "example inputs had None"),
        ({"weights": torch.ones(4)}, "example inputs had None"),
        ({"stride_per_key_per_rank": [[1]] * 4}, "example inputs had None"),
        ({"stride": 7}, "has stride=7, while its other parts give 1"),
        ({"stride_per_key": [1, 1, 1, 2]}, "has stride_per_key"),
        ({"keys": list(KEYS[::-1])}, "has the keys ['f3', 'f2', 'f1', 'f0']"),
        ({"lengths": None, "offsets": torch.arange(1, 6)}, "has offsets that start at 1"),
        ({"offsets": torch.tensor([0, 2, 2, 3, 4])}, "has lengths that differ from its offsets"),
        ({"lengths": torch.ones(4, 1, dtype=torch.int64)}, "has lengths of shape [4, 1]"),
        ({"lengths": torch.tensor([1, 1, 1, 0])}, "has lengths that add up to 3 and 4 values"),
        ({"lengths": torch.tensor([1, 1, 2])}, "3 is not a multiple of 4"),
    ],
)
def test_what_a_plain_model_cannot_take_is_refused_at_the_call(
    measure: bool, change: dict[str, Any], message: str
) -> None:
    fast = recfx.optimize(_Pooled().eval(), example_inputs=(_plain(6),), measure=measure)
    given = {"keys": list(KEYS), "values": torch.arange(4), "lengths": torch.ones(4, dtype=torch.int64)}
    with pytest.raises(recfx.InputError) as caught:
        fast(_container("KeyedJaggedTensor")(**{**given, **change}))
    assert message in str(caught.value)


def test_inverse_indices_in_another_order_of_keys_mean_the_same() -> None:
    model = _Pooled().eval()
    fast = recfx.optimize(model, example_inputs=(_shared_rows(6),), measure=False)
    given = _shared_rows(8, 3)
    given._inverse_indices = (list(KEYS[::-1]), given.inverse_indices()[1])
    with torch.no_grad():
        torch.testing.assert_close(fast(given), model(given), atol=1e-6, rtol=0.0)


def test_caches_of_a_used_container_change_nothing() -> None:
    model = _Pooled().eval()
    used, fresh = _plain(6, 2), _plain(6, 2)
    with torch.no_grad():
        expected = model(used)
    used.offset_per_key()
    for example in (used, fresh):
        fast = recfx.optimize(model, example_inputs=(example,), measure=False)
        for given in (
            used,
            fresh,
            _container("KeyedJaggedTensor")(list(KEYS), fresh.values(), offsets=fresh.offsets()),
        ):
            torch.testing.assert_close(fast(given), expected, atol=1e-6, rtol=0.0)


class _Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(ROWS, 8, mode="sum", include_last_offset=True)

    def forward(self, bags: dict[str, Any]) -> Tensor:
        return torch.cat([self.table(bags[k].values(), bags[k].offsets()) for k in ("a", "b")], 1)


def test_jagged_tensors_in_a_dict_are_one_group_of_bags_each() -> None:
    def make(batch: int, seed: int) -> dict[str, Any]:
        rng = torch.Generator().manual_seed(seed)
        lengths = {name: torch.randint(0, 4, (batch,), generator=rng) for name in ("a", "b")}
        values = {name: torch.randint(0, ROWS, (int(n.sum()),), generator=rng) for name, n in lengths.items()}
        return {name: _container("JaggedTensor")(values[name], lengths=lengths[name]) for name in lengths}

    model = _Bags().eval()
    fast = recfx.optimize(model, example_inputs=(make(6, 0),), measure=False)
    assert not fast.report.notices
    for batch in BATCHES:
        with torch.no_grad():
            torch.testing.assert_close(fast(make(batch, 1)), model(make(batch, 1)), atol=1e-6, rtol=0.0)


class _Columns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)

    def forward(self, pooled: Any) -> Tensor:
        scores: Tensor = self.linear(torch.cat([pooled["b"], pooled["a"]], 1))
        return scores


def test_keyed_tensors_are_inputs() -> None:
    keyed = _container("KeyedTensor")
    model = _Columns().eval()
    fast = recfx.optimize(model, example_inputs=(keyed(["a", "b"], [2, 4], torch.randn(6, 6)),), measure=False)
    for batch in BATCHES:
        given = keyed(["a", "b"], [2, 4], torch.randn(batch, 6))
        with torch.no_grad():
            torch.testing.assert_close(fast(given), model(given), atol=1e-6, rtol=0.0)
    with pytest.raises(recfx.InputError, match="has the keys"):
        fast(keyed(["a", "b"], [4, 2], torch.randn(2, 6)))
    with pytest.raises(recfx.InputError, match="key_dim=0"):
        fast(keyed(["a", "b"], [2, 4], torch.randn(6, 3), key_dim=0))


@pytest.mark.parametrize("absent", [(), (1,), (1, 3), (1, 2)])
def test_jagged_tensors_of_outputs_are_as_the_constructor_makes_them(absent: tuple[int, ...]) -> None:
    from torchrec.sparse.jagged_tensor import JaggedTensor

    from recfx.ir.jagged_outputs import jagged_builder

    given = [torch.randn(3, 2), torch.rand(3), torch.tensor([1, 2]), torch.tensor([0, 1, 3])]
    parts = [None if i in absent else part for i, part in enumerate(given)]
    made, want = jagged_builder(JaggedTensor)(*parts), JaggedTensor(*parts)
    assert type(made) is JaggedTensor
    assert vars(made).keys() == vars(want).keys()
    assert all(vars(made)[name] is value for name, value in vars(want).items())
    assert torch.equal(made.offsets(), want.offsets())
