"""fuse-dot-interaction: all pairwise dot products become one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, check_does_not_fire, check_fires, operators, program_of, run

from recfx import zoo
from recfx.capture import capture
from recfx.ir import Exactness, verify_numeric
from recfx.ops import interaction
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import Pipeline

F = 4
X = (torch.randn(3, F, 5),)
XD = (*X, torch.randn(3, 2))
LOWER = torch.tril_indices(F, F, -1)
UPPER = torch.triu_indices(F, F, 1)
GONE = {"aten.bmm": 0, "aten.matmul": 0, "aten.mul.Tensor": 0, "aten.einsum": 0, "recfx.dot_interaction": 1}


def pairs(lower: bool, *, diagonal: bool = False) -> list[tuple[int, int]]:
    near = [(i, j) for i in range(F) for j in range(F) if (i >= j if lower else i <= j)]
    return [(i, j) for i, j in near if diagonal or i != j]


def flat(indices: torch.Tensor) -> torch.Tensor:
    return indices[0] * F + indices[1]


def case(body: Callable[..., Any], inputs: tuple[torch.Tensor, ...] = X, *, fired: int = 1, **state: Any) -> Case:
    return Case(lambda: Function(body, **state), inputs, fired, GONE)


def rows(indices: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"r": indices[0].clone(), "c": indices[1].clone()}


def mm(x: torch.Tensor) -> torch.Tensor:
    return torch.bmm(x, x.transpose(1, 2))


def mask(lower: bool) -> torch.Tensor:
    ones = torch.ones(F, F, dtype=torch.bool)
    return ones.tril(-1) if lower else ones.triu(1)


def vectors(x: torch.Tensor) -> list[torch.Tensor]:
    """Separate [B, 1, D] tensors, which are not parts of x."""
    return [x[:, i : i + 1].exp() for i in range(F)]


def inner_products(parts: list[torch.Tensor], keep: bool) -> torch.Tensor:
    """As in deepctr-torch's InnerProductLayer."""
    p = torch.cat([parts[i] for i, _ in pairs(False)], dim=1)
    q = torch.cat([parts[j] for _, j in pairs(False)], dim=1)
    return torch.sum(p * q, dim=2, keepdim=keep)


FIRES = {
    "bmm, lower": case(lambda m, x: mm(x)[:, m.r, m.c], **rows(LOWER)),
    "bmm, upper": case(lambda m, x: mm(x)[:, m.r, m.c], **rows(UPPER)),
    "bmm, lower from above": case(lambda m, x: mm(x)[:, m.c, m.r], **rows(LOWER)),
    "with the diagonal": case(lambda m, x: mm(x)[:, m.r, m.c], **rows(torch.tril_indices(F, F))),
    "upper with the diagonal": case(lambda m, x: mm(x)[:, m.r, m.c], **rows(torch.triu_indices(F, F))),
    "negative indices": case(lambda m, x: mm(x)[:, m.r, m.c], **rows(LOWER - F)),
    "matmul": case(lambda m, x: (x @ x.mT)[:, m.r, m.c], **rows(UPPER)),
    "permute": case(lambda m, x: torch.matmul(x, x.permute(0, 2, 1))[:, m.r, m.c], **rows(UPPER)),
    "einsum": case(lambda m, x: torch.einsum("bid,bjd->bij", x, x)[:, m.r, m.c], **rows(LOWER)),
    "einsum, transposed": case(lambda m, x: torch.einsum("nik, njk -> nji", x, x)[:, m.r, m.c], **rows(LOWER)),
    "flat index": case(lambda m, x: mm(x).flatten(1)[:, m.i], i=flat(LOWER)),
    "flat index_select": case(lambda m, x: mm(x).view(-1, F * F).index_select(1, m.i), i=flat(UPPER)),
    "flat gather": case(
        lambda m, x: torch.gather(mm(x).flatten(1), 1, m.i.expand(x.shape[0], -1)), i=flat(UPPER)[None]
    ),
    "mask": case(lambda m, x: mm(x)[:, m.i], i=mask(True)),
    # The second rewrite removes the assertions about the number of elements that the mask selects.
    "masked_select": case(
        lambda m, x: torch.masked_select(mm(x), m.i).view(-1, 6), fired=2, i=mask(False)
    ),
    "rows of the matrix": case(lambda m, x: (lambda z: torch.cat([z[:, i, i + 1 :] for i in range(F - 1)], 1))(mm(x))),
    "loop, stacked": case(lambda m, x: torch.stack([(x[:, i] * x[:, j]).sum(-1) for i, j in pairs(True)], 1)),
    "loop, joined": case(
        lambda m, x: torch.cat([(x[:, i] * x[:, j]).sum(-1, keepdim=True) for i, j in pairs(False)], 1)
    ),
    "loop with the diagonal": case(
        lambda m, x: torch.stack([(x[:, i] * x[:, j]).sum(1) for i, j in pairs(True, diagonal=True)], -1)
    ),
    "loop over vectors": case(
        lambda m, x: (lambda v: torch.stack([(v[i] * v[j]).sum(1) for i, j in pairs(True)], 1))(x.exp().unbind(1))
    ),
    "indexed on both sides": case(lambda m, x: (x[:, m.r] * x[:, m.c]).sum(-1), **rows(UPPER)),
    "index_select on both sides": case(
        lambda m, x: (x.index_select(1, m.r) * x.index_select(1, m.c)).sum(2), **rows(LOWER)
    ),
    "deepctr-torch": case(lambda m, x: inner_products(vectors(x), False)),
    "deepctr-torch, kept": case(lambda m, x: inner_products(vectors(x), True).flatten(1)),
    "some of the fields": case(
        lambda m, x: torch.stack([(x[:, i] * x[:, j]).sum(-1) for i, j in [(2, 1), (3, 1), (3, 2)]], 1)
    ),
    "prefix": case(lambda m, x, d: torch.cat([d, mm(x)[:, m.r, m.c]], 1), XD, fired=2, **rows(LOWER)),
    "dots in front": case(lambda m, x, d: torch.cat([mm(x)[:, m.r, m.c], d], 1), XD, **rows(LOWER)),
    "three parts": case(lambda m, x, d: torch.cat([d, d * 2, mm(x)[:, m.r, m.c]], 1) * 1.5, XD, **rows(LOWER)),
    "read twice": case(
        lambda m, x, d: (lambda z: torch.cat([d, z], 1).sum(1) + z.sum(1))(mm(x)[:, m.r, m.c]), XD, **rows(LOWER)
    ),
}  # fmt: skip
FIRES["three parts"].after.pop("aten.mul.Tensor")

SHUFFLED = LOWER[:, [1, 0, 2, 3, 4, 5]]
LEAVES_ALONE = {
    "a pair is missing": (lambda m, x: mm(x)[:, m.r, m.c], rows(LOWER[:, 1:]), "other entries"),
    "another order": (lambda m, x: mm(x)[:, m.r, m.c], rows(SHUFFLED), "another order"),
    "a pair twice": (lambda m, x: mm(x)[:, m.r, m.c], rows(LOWER[:, [0, 0, 1, 2, 3, 4]]), "other entries"),
    "two tensors": (lambda m, x: torch.bmm(x, x.exp().transpose(1, 2))[:, m.r, m.c], rows(LOWER), "different"),
    "columns": (lambda m, x: torch.bmm(x.mT, x)[:, m.r, m.c], rows(LOWER), "columns"),
    "einsum of two": (lambda m, x: torch.einsum("bid,bjd->bij", x, x + 1)[:, m.r, m.c], rows(LOWER), "themselves"),
    "einsum over fields": (lambda m, x: torch.einsum("bdi,bdj->bij", x, x)[:, m.r, m.c], rows(LOWER), "themselves"),
    "products read elsewhere": (
        lambda m, x: (lambda z: z[:, m.r, m.c].sum() + z.sum())(mm(x)), rows(LOWER), "read elsewhere"
    ),
    "indices that vary": (lambda m, x: mm(x)[:, x[0, :, 0].long() % 2], {}, "constants"),
    "a loop without one pair": (
        lambda m, x: torch.stack([(x[:, i] * x[:, j]).sum(-1) for i, j in pairs(True)[1:]], 1), {}, "not all pairs"
    ),
    "a loop in another order": (
        lambda m, x: torch.stack([(x[:, i] * x[:, j]).sum(-1) for i, j in [*pairs(True)[::-1]]], 1), {}, "another order"
    ),
    "a pair read elsewhere": (
        lambda m, x: (lambda z: torch.stack(z, 1) + z[0][:, None])(
            [(x[:, i] * x[:, j]).sum(-1) for i, j in pairs(True)]
        ), {}, "read elsewhere",
    ),
    "lists in another order": (
        lambda m, x: (x[:, m.r] * x[:, m.c]).sum(-1), rows(SHUFFLED), "another order"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fuse-dot-interaction", FIRES[name], Exactness.REASSOC)


def test_programs_that_differ_by_one_argument_keep_their_meaning() -> None:
    check_near_misses("fuse-dot-interaction", map(program_of, FIRES.values()), Exactness.REASSOC)


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, state, reason = LEAVES_ALONE[name]
    check_does_not_fire("fuse-dot-interaction", Case(lambda: Function(body, **state), X, reason=reason))


@pytest.mark.parametrize("diagonal", [False, True])
def test_dlrm(diagonal: bool) -> None:
    model = zoo.DLRM.small(diagonal=diagonal).eval()
    program = Pipeline(DEFAULT_PIPELINE).run(capture(model, model.example_inputs(4))).program
    result = run("fuse-dot-interaction", program).program
    (call,) = [n for n in result.graph.nodes if n.target is interaction.dot_interaction]
    assert call.args[1] is not None  # the bottom MLP's output is copied to the front
    assert list(call.args[2:]) == [diagonal, False]
    assert operators(result)["aten.bmm"] == 0
    verify_numeric(program, result, Exactness.REASSOC)


@settings(deadline=None, max_examples=12)
@given(
    seed=st.integers(0, 2**16),
    features=st.integers(2, 6),
    lower=st.booleans(),
    diagonal=st.booleans(),
    loop=st.booleans(),
    prefix=st.integers(0, 3),
)
def test_any_triangle_becomes_one_operator(
    seed: int, features: int, lower: bool, diagonal: bool, loop: bool, prefix: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    make = torch.tril_indices if lower else torch.triu_indices
    indices = make(features, features, 0 if diagonal else (-1 if lower else 1))

    listed = [(int(i), int(j)) for i, j in indices.T]

    def body(m: Any, x: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        if loop:
            products = [(x[:, i] * x[:, j]).sum(-1) for i, j in listed]
            dots = torch.stack(products, 1)
        else:
            dots = mm(x)[:, m.r, m.c]
        return torch.cat([d, dots], 1) if prefix else dots * d.sum(1, keepdim=True)

    inputs = (torch.randn(3, features, 4, generator=rng), torch.randn(3, max(prefix, 1), generator=rng))
    program = program_of(Case(lambda: Function(body, **rows(indices)), inputs))
    result = run("fuse-dot-interaction", program).program
    single = indices.shape[1] == 1 and loop  # a single pair is not fused
    assert operators(result)["recfx.dot_interaction"] == int(not single)
    verify_numeric(program, result, Exactness.REASSOC)
