"""Selections of entries of a matrix: each is recognised with the entries that it takes, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pass_cases import Function
from torch import fx

from recfx.capture import capture
from recfx.ir import Program
from recfx.passes.interaction.triangle import entries_of, product_of, triangle_of
from recfx.pipeline import Miss, PassContext, PassSpec, Pipeline

F = 4
#: Each entry of a matrix [B, F, F] is its position.
M = torch.arange(F * F, dtype=torch.float32).reshape(1, F, F).repeat(3, 1, 1)
ROWS, COLUMNS = torch.tensor([1, 3, 0, 2]), torch.tensor([0, 2, 1, 1])
FLAT = ROWS * F + COLUMNS
MASK = torch.zeros(F, F, dtype=torch.bool).index_put((ROWS, COLUMNS), torch.tensor(True))

Body = Callable[..., torch.Tensor]

RECOGNISED: dict[str, tuple[Body, dict[str, Any]]] = {
    "two indices": (lambda m, z: z[:, m.i, m.j], {"i": ROWS, "j": COLUMNS}),
    "negative indices": (lambda m, z: z[:, m.i, m.j], {"i": ROWS - F, "j": COLUMNS}),
    "a mask": (lambda m, z: z[:, m.k], {"k": MASK}),
    "flattened": (lambda m, z: z.flatten(1)[:, m.f], {"f": FLAT}),
    "flattened, negative": (lambda m, z: z.flatten(1)[:, m.f], {"f": FLAT - F * F}),
    "index_select": (lambda m, z: z.reshape(-1, F * F).index_select(1, m.f), {"f": FLAT}),
    "index_select behind": (lambda m, z: z.flatten(1).index_select(-1, m.f), {"f": FLAT}),
    "gather": (lambda m, z: z.flatten(1).gather(1, m.f.expand(z.shape[0], -1)), {"f": FLAT[None]}),
    "gather behind": (lambda m, z: z.flatten(1).gather(-1, m.f.expand(z.shape[0], -1)), {"f": FLAT[None]}),
    "masked_select": (lambda m, z: z.masked_select(m.k).view(z.shape[0], 4), {"k": MASK}),
    "masked_select, open": (lambda m, z: z.masked_select(m.k).view(-1, 4), {"k": MASK}),
    "masked_select, all columns": (lambda m, z: z.masked_select(m.k).view(z.shape[0], -1), {"k": MASK}),
    "masked_select of a mask in front": (lambda m, z: z.masked_select(m.k).view(-1, 4), {"k": MASK[None]}),
    "rows": (lambda m, z: torch.cat([z[:, 1], z[:, 3], z[:, -4]], 1), {}),
    "rows from another end": (lambda m, z: torch.cat([z.select(-2, 1), z.select(1, 3)], -1), {}),
    "parts of rows": (lambda m, z: torch.cat([z[:, 1, 2:], z[:, 3, :1], z[:, 0, 1:3]], 1), {}),
    "parts counted from the end": (lambda m, z: torch.cat([z[:, 1, -2:], z[:, -1, :-1], z[:, 0, -3:-1]], 1), {}),
    "unbind": (lambda m, z: torch.cat([row[:, :2] for row in z.unbind(1)], 1), {}),
    "unbind, counted from the end": (lambda m, z: torch.cat([row[:, 1:] for row in z.unbind(-2)], 1), {}),
}

OTHER: dict[str, tuple[Body, dict[str, Any]]] = {
    "three indices": (lambda m, z: z[m.b, m.i, m.j], {"b": torch.tensor([0, 1, 2, 0]), "i": ROWS, "j": COLUMNS}),
    "one index": (lambda m, z: z[:, m.i].flatten(1), {"i": ROWS}),
    "an index of columns": (lambda m, z: z[:, :, m.i].flatten(1), {"i": ROWS}),
    "matrices of indices": (lambda m, z: z[:, m.i, m.j].flatten(1), {"i": ROWS[None], "j": COLUMNS[None]}),
    "an index that varies": (lambda m, z: z[:, m.i, z[0, 0].long()], {"i": ROWS}),
    "rows of the batch": (lambda m, z: z.flatten(1).index_select(0, m.i % 1), {"i": ROWS}),
    "flattened with the batch": (lambda m, z: z.reshape(-1, F)[:, m.i], {"i": ROWS}),
    "flattened over the batch": (lambda m, z: z.mT.reshape(1, -1)[:, m.f], {"f": FLAT}),
    "gather of different entries": (lambda m, z: z.flatten(1).gather(1, z.flatten(1)[:, :3].long()), {}),
    "masked_select of a mask for each row": (
        lambda m, z: z.masked_select(z[:, :1] >= 0).view(z.shape[0], -1)[:, :2], {}
    ),
    "joined along the batch": (lambda m, z: torch.cat([z[:, 1], z[:, 3]], 0), {}),
    "every other entry": (lambda m, z: torch.cat([z[:, 1, ::2], z[:, 3]], 1), {}),
    "columns": (lambda m, z: torch.cat([z[:, :, 1], z[:, :, 3]], 1), {}),
    "two matrices": (lambda m, z: torch.cat([z[:, 1], z.exp()[:, 2]], 1), {}),
    "rows kept": (lambda m, z: torch.cat([z[:, 1:2], z[:, 3:]], 1).flatten(1), {}),
    "unbind of columns": (lambda m, z: torch.cat(z.unbind(2), 1), {}),
    "a sum": (lambda m, z: z.sum(1), {}),
}  # fmt: skip


def look(body: Body, state: dict[str, Any], example: torch.Tensor = M) -> tuple[Program, PassContext, fx.Node]:
    """The canonical program of a function, a context for it, and its last operator."""
    program = Pipeline("canonicalize").run(capture(Function(body, **state), (example,))).program
    returned: Any = next(iter(reversed(program.graph.nodes))).args[0]
    return program, PassContext(program, PassSpec("look", "For a test.")), returned[0]


def found_entries(body: Body, state: dict[str, Any]) -> list[tuple[int, int]] | None:
    program, ctx, node = look(body, state)
    found = entries_of(ctx, node)
    assert found is None or found[0] is next(iter(program.placeholders()))
    return None if found is None else found[1]


@pytest.mark.parametrize("name", RECOGNISED)
def test_entries_are_those_of_the_selection(name: str) -> None:
    body, state = RECOGNISED[name]
    entries = found_entries(body, state)
    assert entries is not None
    taken = body(Function(body, **state), M)
    assert taken[0].tolist() == [float(i * F + j) for i, j in entries]
    assert torch.equal(taken, taken[:1].expand_as(taken))


@pytest.mark.parametrize("name", OTHER)
def test_other_selections_have_no_entries(name: str) -> None:
    assert found_entries(*OTHER[name]) is None


def test_matrices_that_are_not_square() -> None:
    wide = torch.arange(10.0).reshape(1, 2, 5).repeat(3, 1, 1)
    _, ctx, node = look(lambda m, z: z.flatten(1)[:, m.f], {"f": torch.tensor([7, 4, -1])}, wide)
    found = entries_of(ctx, node)
    assert found is not None
    assert found[1] == [(1, 2), (0, 4), (1, 4)]


LOWER = [(1, 0), (2, 0), (2, 1)]
UPPER = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("entries", "features", "expected"),
    [
        (LOWER, 3, (False, False)),
        (UPPER, 4, (False, True)),
        ([(j, i) for i, j in LOWER], 3, (False, False)),
        ([(j, i) for i, j in UPPER], 4, (False, True)),
        (UPPER[:-1], 4, None),
        ([(0, 0), (1, 0), (1, 1)], 2, (True, False)),
        ([(0, 0), (0, 1), (1, 1)], 2, (True, False)),
        ([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)], 3, (True, True)),
        ([(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)], 3, (True, False)),
        ([(1, 0)], 2, (False, False)),
        ([], 1, (False, False)),
        (LOWER[:2], 3, None),
        (LOWER[::-1], 3, None),
        (LOWER, 4, None),
        ([*LOWER, (2, 1)], 3, None),
        ([(0, 0)], 2, None),
    ],
)
def test_triangles(entries: list[tuple[int, int]], features: int, expected: Any) -> None:
    assert triangle_of(entries, features) == expected


X = torch.randn(3, F, 5)

PRODUCTS: dict[str, tuple[Body, str]] = {
    "bmm": (lambda m, x: torch.bmm(x, x.transpose(1, 2)), ""),
    "matmul": (lambda m, x: x @ x.mT, ""),
    "permute": (lambda m, x: x @ x.permute(0, 2, 1), ""),
    "einsum": (lambda m, x: torch.einsum("bid,bjd->bij", x, x), ""),
    "einsum with spaces": (lambda m, x: torch.einsum(" n i k , n j k -> n i j ", x, x), ""),
    "einsum, turned": (lambda m, x: torch.einsum("bid,bjd->bji", x, x), ""),
    "columns": (lambda m, x: x.mT @ x, "it multiplies columns, not rows"),
    "two tensors": (lambda m, x: x @ x.exp().mT, "the two factors are different tensors"),
    "not turned": (lambda m, x: x[:, :, :F] @ x[:, :, :F], "the two factors are different tensors"),
    "einsum of columns": (lambda m, x: torch.einsum("bdi,bdj->bij", x, x), "not a product of float32 vectors"),
    "einsum of two tensors": (lambda m, x: torch.einsum("bid,bjd->bij", x, x + 1), "not a product of float32 vectors"),
    "einsum over the batch": (lambda m, x: torch.einsum("bid,bjd->ij", x, x), "not a product of float32 vectors"),
    "einsum of squares": (lambda m, x: torch.einsum("bid,bid->bi", x, x), "not a product of float32 vectors"),
    "einsum of one": (lambda m, x: torch.einsum("bid->bdi", x), "not a product of float32 vectors"),
    "einsum of three": (lambda m, x: torch.einsum("bid,bjd,bjd->bij", x, x, x), "not a product of float32 vectors"),
    "einsum, batch behind": (lambda m, x: torch.einsum("bid,bjd->ijb", x, x), "not a product of float32 vectors"),
    "einsum, another batch": (lambda m, x: torch.einsum("bid,cjd->bcj", x, x), "not a product of float32 vectors"),
    "float64": (lambda m, x: (lambda y: y @ y.mT)(x.double()), "not a product of float32 vectors"),
    "matrices": (lambda m, x: (lambda y: y @ y.mT)(x[:, 0]), "not a product of float32 vectors"),
    "four dimensions": (lambda m, x: (lambda y: y @ y.mT)(x[:, None]), "not a product of float32 vectors"),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_vectors_with_themselves(name: str) -> None:
    body, reason = PRODUCTS[name]
    _, _, node = look(body, {}, X)
    found = product_of(node)
    if reason:
        assert isinstance(found, Miss)
        assert reason in found.reason
    else:
        assert isinstance(found, fx.Node)
        assert found.op == "placeholder"


@pytest.mark.parametrize("value", [None, 3, "x"])
def test_what_is_no_product(value: Any) -> None:
    assert product_of(value) is None
    assert product_of(look(lambda m, x: x.exp(), {}, X)[2]) is None
