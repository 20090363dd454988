"""Calls with more rows than `max_batch` of models over TorchRec's jagged tensors: divided by bags where rows are independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchrec_models import CASES, KEYS, ROWS, jagged, keyed_tables

import recfx
from recfx.errors import InputError

jagged_tensor = pytest.importorskip("torchrec.sparse.jagged_tensor")
pytestmark = pytest.mark.slow

MOST = 8
BATCHES = (1, MOST, MOST + 1, 29)


class Over(nn.Module):
    """A function of tables and of a jagged tensor."""

    def __init__(self, body: Callable[[Any, Tensor, Any], Any], weighted: bool = False) -> None:
        super().__init__()
        self.body = body
        self.tables = keyed_tables(weighted)
        self.table = nn.EmbeddingBag(ROWS, 4, mode="sum", include_last_offset=True)
        self.plain = nn.Embedding(ROWS, 4)

    def forward(self, dense: Tensor, sparse: Any) -> Any:
        return self.body(self, dense, sparse)


def lengths(batch: int, seed: int, keys: int = len(KEYS)) -> Tensor:
    return torch.randint(0, 4, (keys * batch,), generator=torch.Generator().manual_seed(seed))


def plain(batch: int, seed: int) -> Any:
    return jagged(batch, torch.Generator().manual_seed(seed))


def weighted(batch: int, seed: int) -> Any:
    return jagged(batch, torch.Generator().manual_seed(seed), weighted=True)


def with_offsets(batch: int, seed: int) -> Any:
    held = plain(batch, seed)
    offsets = torch.cat([held.lengths().new_zeros(1), held.lengths().cumsum(0)])
    return jagged_tensor.KeyedJaggedTensor(list(KEYS), held.values(), offsets=offsets)


def narrow(batch: int, seed: int) -> Any:
    held = plain(batch, seed)
    return jagged_tensor.KeyedJaggedTensor(list(KEYS), held.values().int(), lengths=held.lengths().int())


def one_key(batch: int, seed: int) -> Any:
    own = lengths(batch, seed, 1)
    ids = torch.randint(0, ROWS, (int(own.sum()),), generator=torch.Generator().manual_seed(seed))
    return jagged_tensor.JaggedTensor(ids, lengths=own)


def shared_rows(batch: int, seed: int) -> Any:
    held, rng = plain(3, seed), torch.Generator().manual_seed(seed)
    inverse = (list(KEYS), torch.randint(0, 3, (len(KEYS), batch), generator=rng))
    return jagged_tensor.KeyedJaggedTensor(list(KEYS), held.values(), lengths=held.lengths(), inverse_indices=inverse)


def optimized(model: nn.Module, draw: Callable[[int, int], Any], target: str = "cpu") -> recfx.CompiledModel:
    example = (torch.randn(4, 3), draw(4, 3))
    return recfx.optimize(model.eval(), target, example_inputs=example, max_batch=MOST, measure=False)


def check(model: nn.Module, fast: Any, draw: Callable[[int, int], Any]) -> None:
    for batch in BATCHES:
        inputs = torch.randn(batch, 3), draw(batch, batch)
        with torch.no_grad():
            want, got = model(*inputs), fast(*inputs)
        if isinstance(want, jagged_tensor.KeyedTensor):
            want, got = want.values(), got.values()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


#: The model's function, and how its jagged tensor is made.
DIVIDED: dict[str, tuple[Callable[[Any, Tensor, Any], Any], Callable[[int, int], Any]]] = {
    "pooled": (lambda m, dense, sparse: m.tables(sparse).values(), plain),
    "beside numbers": (lambda m, dense, sparse: torch.cat([dense.cos(), m.tables(sparse).values()], 1), plain),
    "a KeyedTensor": (lambda m, dense, sparse: m.tables(sparse), plain),
    "given by offsets": (lambda m, dense, sparse: m.tables(sparse).values(), with_offsets),
    "int32": (lambda m, dense, sparse: m.tables(sparse).values(), narrow),
    "one key of several": (lambda m, dense, sparse: m.tables(sparse)["f1"] * dense[:, :1], plain),
    "a JaggedTensor": (lambda m, dense, sparse: m.table(sparse.values(), sparse.offsets()), one_key),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_any_number_of_rows(name: str) -> None:
    body, draw = DIVIDED[name]
    model = Over(body)
    check(model, optimized(model, draw), draw)


def test_weights_are_divided_with_their_ids() -> None:
    model = Over(lambda m, dense, sparse: m.tables(sparse).values(), weighted=True)
    check(model, optimized(model, weighted), weighted)


def test_the_eager_target_divides_as_well() -> None:
    model = Over(lambda m, dense, sparse: m.tables(sparse).values())
    check(model, optimized(model, plain, "eager"), plain)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_models_of_torchrec(case: Any) -> None:
    built = case.build()
    args, _ = built.inputs(4, torch.Generator().manual_seed(0))
    fast = recfx.optimize(built.model, example_inputs=args, max_batch=MOST, measure=False)
    more, _ = built.inputs(21, torch.Generator().manual_seed(1))
    if case.name == "DLRM_Transformer":  # its encoder takes the batch for the sequence, so rows depend on one another
        with pytest.raises(InputError, match="its rows attend to each other"):
            fast(*more)
        return
    with torch.no_grad():
        torch.testing.assert_close(fast(*more), built.model(*more), rtol=1e-4, atol=1e-5)


#: Functions whose rows depend on other rows, or whose bags are shared by rows.
APART: dict[str, tuple[Callable[[Any, Tensor, Any], Any], Callable[[int, int], Any]]] = {
    "the number of ids": (
        lambda m, dense, sparse: m.tables(sparse).values() / sparse.values().shape[0], plain
    ),
    "the ids of other rows": (
        lambda m, dense, sparse: m.tables(sparse).values() * sparse.values().float().mean(), plain
    ),
    "a mean over rows": (lambda m, dense, sparse: m.tables(sparse).values() - m.tables(sparse).values().mean(0), plain),
    "bags that rows share": (lambda m, dense, sparse: m.tables(sparse).values(), shared_rows),
    "rows of ids": (lambda m, dense, sparse: m.plain(sparse.values()), one_key),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_rows_that_depend_on_one_another_are_not_divided(name: str) -> None:
    body, draw = APART[name]
    fast = optimized(Over(body), draw)
    with pytest.raises(InputError, match=r"above max_batch = 8, and cannot be run in parts: \w+"):
        fast(torch.randn(MOST + 1, 3), draw(MOST + 1, 0))


def test_a_batch_of_none() -> None:
    model = Over(lambda m, dense, sparse: m.tables(sparse).values())
    assert optimized(model, plain)(torch.randn(0, 3), plain(0, 0)).shape == (0, len(KEYS) * 8)


@pytest.fixture(scope="module")
def pooled() -> tuple[nn.Module, recfx.CompiledModel]:
    model = Over(lambda m, dense, sparse: torch.cat([dense, m.tables(sparse).values()], 1))
    return model, optimized(model, plain)


@settings(deadline=None, max_examples=25)
@given(
    own=st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=1, max_size=30),
    seed=st.integers(0, 2**16),
)
def test_any_lengths(pooled: Any, own: list[list[int]], seed: int) -> None:
    model, fast = pooled
    bags = torch.tensor(own).T.reshape(-1)
    ids = torch.randint(0, ROWS, (int(bags.sum()),), generator=torch.Generator().manual_seed(seed))
    sparse = jagged_tensor.KeyedJaggedTensor(list(KEYS), ids, lengths=bags)
    dense = torch.randn(len(own), 3, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(fast(dense, sparse), model(dense, sparse), rtol=1e-4, atol=1e-5)


def test_wrong_lengths_and_bad_ids_of_a_later_part_are_refused(pooled: Any) -> None:
    _, fast = pooled
    own = torch.ones(4 * 12, dtype=torch.int64)
    ids = torch.zeros(48, dtype=torch.int64)
    ids[47] = 99
    with pytest.raises(InputError, match="99"):
        fast(torch.randn(12, 3), jagged_tensor.KeyedJaggedTensor(list(KEYS), ids, lengths=own))
    with pytest.raises(InputError, match="add up to 48 and 40 values"):
        fast(torch.randn(12, 3), jagged_tensor.KeyedJaggedTensor(list(KEYS), ids[:40], lengths=own))


def test_a_loaded_model_is_divided_too(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = Over(lambda own, dense, sparse: own.tables(sparse).values().sum(1) + dense.sum(1)).eval()
    optimized(model, plain).save(tmp_path / "model.recfx")
    inputs = (torch.randn(29, 3), plain(29, 1))
    torch.testing.assert_close(recfx.load(tmp_path / "model.recfx")(*inputs), model(*inputs))
