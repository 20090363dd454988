"""batch-pairs: linears over two joined fields, bilinear forms and einsums of three, each pair with weights of its own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from batch_pairs_cases import IDS, PAIRS, REVERSED, WIDE, D, F, X, case, matrices, tables
from hypothesis import given, settings
from hypothesis import strategies as st
from near_misses import check_near_misses
from pass_cases import Case, Function, captured, check_does_not_fire, operators, program_of, run
from torch import nn

from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.pipeline import Pipeline

CLEAN = "canonicalize,fold-constants,merge-tables,merge-duplicates"


def clean(example: Case) -> Program:
    """The program of a case as the pass finds it in the default pipelines."""
    return Pipeline(CLEAN).run(program_of(example)).program


def joined(x: torch.Tensor, i: int, j: int) -> torch.Tensor:
    return torch.cat([x[:, i], x[:, j]], 1)


def pair_linears(count: int, width: int = 2, bias: bool = True) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(2 * D, width, bias=bias) for _ in range(count))


def bilinears(count: int, width: int = 2, bias: bool = True, right: int = D) -> nn.ModuleList:
    return nn.ModuleList(nn.Bilinear(D, right, width, bias=bias) for _ in range(count))


BOTH_SIDES = {"aten.linear": 2 * (F - 1), "aten.mul.Tensor": 0}
LEFT_SIDE = {"aten.linear": F - 1, "aten.mul.Tensor": F - 1, "aten.bilinear": 0}
MAPS = {
    "linears of joined fields": case(
        lambda m, x: torch.stack([m.maps[k](joined(x, i, j)) for k, (i, j) in enumerate(PAIRS)], 1),
        after=BOTH_SIDES,
        maps=pair_linears(6),
    ),
    "linears of joined fields, in front": case(
        lambda m, x: torch.stack([m.maps[k](joined(x, i, j)) for k, (i, j) in enumerate(PAIRS)]),
        after=BOTH_SIDES,
        maps=pair_linears(6),
    ),
    "linears of joined fields, without bias, side by side": case(
        lambda m, x: torch.cat([m.maps[k](joined(x, i, j)) for k, (i, j) in enumerate(REVERSED)], 1),
        after=BOTH_SIDES | {"aten.add.Tensor": 1},
        maps=pair_linears(6, 3, bias=False),
    ),
    "linears of joined slices": case(
        lambda m, x: torch.cat(
            [m.maps[k](torch.cat([x[:, [i]], x[:, [j]]], 2)) for k, (i, j) in enumerate(PAIRS)], 1
        ),
        after=BOTH_SIDES,
        maps=pair_linears(6),
    ),
    "linears of joined embeddings, summed": case(
        lambda m, x: (
            lambda v: torch.stack([m.maps[k](torch.cat([v[i], v[j]], 1)) for k, (i, j) in enumerate(PAIRS)]).sum(0)
        )([t(x[:, i]) for i, t in enumerate(m.tables)]),
        IDS,
        BOTH_SIDES,
        maps=pair_linears(6),
        tables=tables(F),
    ),
    "linears of fields of two lengths": case(
        lambda m, x: torch.stack(
            [m.maps[k](torch.cat([x[:, i], x[:, j, :2]], 1)) for k, (i, j) in enumerate(PAIRS)], 1
        ),
        after=BOTH_SIDES,
        maps=nn.ModuleList(nn.Linear(D + 2, 2) for _ in PAIRS),
    ),
    "nn.Bilinear": case(
        lambda m, x: torch.stack([m.maps[k](x[:, i], x[:, j]) for k, (i, j) in enumerate(PAIRS)], 1),
        after=LEFT_SIDE,
        maps=bilinears(6),
    ),
    "nn.Bilinear, one number": case(
        lambda m, x: torch.cat([m.maps[k](x[:, i], x[:, j]) for k, (i, j) in enumerate(PAIRS)], 1),
        after=LEFT_SIDE,
        maps=bilinears(6, 1, bias=False),
    ),
    "nn.Bilinear, two lengths, any order": case(
        lambda m, x: torch.stack([m.maps[k](x[:, i], x[:, j, :2]) for k, (i, j) in enumerate(PAIRS[::-1])], 1),
        after=LEFT_SIDE,
        maps=bilinears(6, right=2),
    ),
    "nn.Bilinear, slices": case(
        lambda m, x: torch.cat([m.maps[k](x[:, [i]], x[:, [j]]) for k, (i, j) in enumerate(PAIRS)], 1),
        after=LEFT_SIDE,
        maps=bilinears(6),
    ),
}  # fmt: skip


def einsums(equation: str, after: dict[str, int], joined: Any = torch.stack) -> Case:
    def body(m: Any, x: torch.Tensor) -> Any:
        operands = {"bd": lambda k, i, j: x[:, i], "be": lambda k, i, j: x[:, j], "de": lambda k, i, j: m.w[k]}
        operands["ed"] = operands["de"]
        labels = equation.partition("->")[0].split(",")
        return joined([torch.einsum(equation, *[operands[o](k, *p) for o in labels]) for k, p in enumerate(PAIRS)])

    return Case(lambda: Function(body, w=matrices(6, D, D)), X, 7, {"aten.einsum": 0} | after)


EINSUMS = {
    "einsum of three": einsums("bd,de,be->be", WIDE),
    "einsum of three, the matrix in front": einsums("de,bd,be->be", WIDE, lambda parts: torch.cat(parts, 1)),
    "einsum of three, the matrix turned": einsums("bd,ed,be->be", WIDE),
    "einsum of three, summed": einsums("bd,de,be->b", WIDE, lambda parts: torch.stack(parts, 1)),
    "einsum of three, summed, turned": einsums("be,de,bd->b", WIDE, lambda parts: torch.stack(parts, 1)),
    "einsum of three, added": einsums("bd,de,be->b", WIDE, sum),
}

FIRES = MAPS | EINSUMS


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    example, program = FIRES[name], clean(FIRES[name])
    result = run("batch-pairs", program)
    counts = operators(result.program)
    assert result.records[0].fired == example.fired, (str(program), result.records[0].misses)
    assert {target: counts[target] for target in example.after} == example.after, str(result.program)
    verify_meta(result.program)
    verify_numeric(program, result.program, Exactness.REASSOC)
    again = run("batch-pairs", result.program)
    assert again.records[0].fired == 0
    assert same_graph(result.program, again.program) is None


@pytest.mark.parametrize("table", [MAPS, EINSUMS], ids=["maps", "einsums"])
def test_programs_that_differ_by_one_argument_keep_their_meaning(table: dict[str, Case]) -> None:
    check_near_misses("batch-pairs", map(clean, list(table.values())[::4]), Exactness.REASSOC)


LEAVES_ALONE = {
    "linears of three fields": (
        lambda m, x: torch.cat([own(torch.cat([x[:, 0], x[:, 1], x[:, 2]], 1)) for own in m.maps], 1),
        X, {"maps": nn.ModuleList(nn.Linear(3 * D, 2) for _ in range(6))}, None,
    ),
    "linears of a few fields": (
        lambda m, x: torch.cat([m.maps[k](joined(x, i, j)) for k, (i, j) in enumerate(PAIRS[1:])], 1),
        X, {"maps": pair_linears(6)}, None,
    ),
    "linears of fields that occur once": (
        lambda m, x: torch.cat([own(torch.cat([x[:, k], x[:, k + 6]], 1)) for k, own in enumerate(m.maps)], 1),
        (torch.randn(3, 12, D),), {"maps": pair_linears(6)}, None,
    ),
    "linears of two widths": (
        lambda m, x: torch.cat([m.maps[k](joined(x, i, j)) for k, (i, j) in enumerate(PAIRS)], 1),
        X, {"maps": nn.ModuleList(nn.Linear(2 * D, 2 + k % 2) for k in range(6))}, None,
    ),
    "activations of linears of joined fields": (
        lambda m, x: torch.cat([m.maps[k](joined(x, i, j)).relu() for k, (i, j) in enumerate(PAIRS)], 1),
        X, {"maps": pair_linears(6)}, None,
    ),
    "one linear of joined fields": (
        lambda m, x: torch.cat([m.map(joined(x, i, j)) for i, j in PAIRS], 1),
        X, {"map": nn.Linear(2 * D, 2)}, "read elsewhere",
    ),
    "linears whose results are read elsewhere": (
        lambda m, x: (lambda v: (torch.cat(v, 1), v[0].exp()))(
            [m.maps[k](joined(x, i, j)) for k, (i, j) in enumerate(PAIRS)]
        ),
        X, {"maps": pair_linears(6)}, None,
    ),
    "bilinear forms joined along the batch": (
        lambda m, x: torch.cat([m.maps[k](x[:, i], x[:, j]) for k, (i, j) in enumerate(PAIRS)]),
        X, {"maps": bilinears(6)}, None,
    ),
    "one bilinear form": (
        lambda m, x: torch.cat([m.map(x[:, i], x[:, j]) for i, j in PAIRS], 1),
        X, {"map": nn.Bilinear(D, D, 2)}, "read elsewhere",
    ),
    "five einsums of three": (
        lambda m, x: torch.cat(
            [torch.einsum("bd,de,be->be", x[:, i], m.w[k], x[:, j]) for k, (i, j) in enumerate(PAIRS[1:])], 1
        ),
        X, {"w": matrices(6, D, D)}, None,
    ),
    "einsums of three over the batch": (
        lambda m, x: torch.stack(
            [torch.einsum("bd,de,be->de", x[:, i], m.w[k], x[:, j]) for k, (i, j) in enumerate(PAIRS)]
        ),
        X, {"w": matrices(6, D, D)}, None,
    ),
    "einsums of three fields": (
        lambda m, x: torch.cat([torch.einsum("bd,bd,bd->bd", x[:, i], x[:, j], x[:, 0]) for i, j in PAIRS], 1),
        X, {}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, inputs, state, reason = LEAVES_ALONE[name]
    check_does_not_fire("batch-pairs", Case(lambda: Function(body, **state), inputs, reason=reason))


@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_any_maps_of_pairs(data: st.DataObject) -> None:
    fields, widths = data.draw(st.integers(2, 4)), data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    field = st.integers(0, fields - 1)
    pairs = data.draw(st.lists(st.tuples(field, field), min_size=6, max_size=9))
    kind, count = data.draw(st.sampled_from(["linear", "bilinear"])), data.draw(st.integers(1, 3))
    bias, tied, joint = (
        data.draw(st.booleans()),
        data.draw(st.booleans()),
        data.draw(st.sampled_from(["cat", "stack", "front"])),
    )
    seed = data.draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    made = nn.Linear(sum(widths), count, bias) if kind == "linear" else nn.Bilinear(*widths, count, bias)
    maps = nn.ModuleList(copy.deepcopy(made) for _ in range(2 if tied else len(pairs)))
    for parameter in maps.parameters():
        nn.init.normal_(parameter)

    def body(m: Any, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for k, (i, j) in enumerate(pairs):
            left, right = x[:, i, : widths[0]], x[:, j, : widths[1]]
            apply = m.maps[k % len(m.maps)]
            parts.append(apply(torch.cat([left, right], 1)) if kind == "linear" else apply(left, right))
        return torch.cat(parts, 1) if joint == "cat" else torch.stack(parts, 0 if joint == "front" else 1)

    x = torch.randn(3, fields, 3)
    program = Pipeline(CLEAN).run(captured(lambda: Function(body, maps=maps), (x,))).program
    after = run("batch-pairs", program)
    verify_meta(after.program)
    verify_numeric(program, after.program, Exactness.REASSOC)
    assert run("batch-pairs", after.program).records[0].fired == 0
    assert not (tied and any(rewrite.rule == "maps" for rewrite in after.rewrites))
    assert _weights(after.program) == _weights(program)


def _weights(program: Program) -> int:
    """The number of floating-point numbers of a program's state."""
    return sum(tensor.numel() for tensor in program.state().values() if tensor.is_floating_point())
