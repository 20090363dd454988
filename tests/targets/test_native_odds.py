"""Operators between the large ones: casts of ids, repeats, fills, comparisons of tensors, triangles; at every level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from native_kit import LEVELS, generator, lower_everywhere, near, needs_kernels, partition, program_of

from recfx.runtime.flat import flat_function
from recfx.targets.native.rules.registry import RULES

pytestmark = needs_kernels

Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

#: Of floats [3, 4] and whole numbers [3, 4].
FUNCTIONS: dict[str, Function] = {
    "ids in float columns": lambda x, i: x[:, 1:3].long() + i[:, :2],
    "floats as int32": lambda x, i: (x * 10).int() * 2,
    "floats as a mask": lambda x, i: x.bool() & (i > 1),
    "masks as floats": lambda x, i: (i > 1).float() * x,
    "whole numbers as floats": lambda x, i: i.float() + x,
    "a mask by dtype and device": lambda x, i: i.to(torch.device("cpu"), torch.bool) & (i > 1),
    "floats by device": lambda x, i: i.to("cpu", torch.float32) + x,
    "turned by .T": lambda x, i: (x.T * 2).T + x,
    "a mask indexed by rows and columns": lambda x, i: (
        i.to(torch.device("cpu"), torch.bool)[
            torch.arange(i.shape[0])[:, None, None, None], torch.arange(4)[None, None, None, :]
        ]
        & (i > 1)[:, None, :, None]
    ),
    "a norm of magnitudes": lambda x, i: torch.linalg.vector_norm(x.reshape(-1, 2, 2), 1, dim=2) + 1,
    "the largest magnitude": lambda x, i: torch.linalg.vector_norm(x, float("inf"), dim=1, keepdim=True) * x,
    "the smallest magnitude": lambda x, i: torch.linalg.vector_norm(x, float("-inf"), dim=-1) * x[:, 0],
    "each several times": lambda x, i: x.repeat_interleave(3, 1),
    "each several times, a single one": lambda x, i: x.unsqueeze(2).repeat_interleave(5, 2) * 2,
    "each several times, whole numbers": lambda x, i: i.repeat_interleave(2, dim=1),
    "all several times": lambda x, i: x.repeat(1, 3) + 1,
    "all several times, in front": lambda x, i: x.unsqueeze(1).repeat(1, 2, 2),
    "all several times, new dimensions": lambda x, i: x[:, None, None].repeat(1, 2, 1, 2).flatten(1),
    "tiled": lambda x, i: torch.tile(i, (1, 2)),
    "a constant for each row": lambda x, i: torch.arange(4).repeat(x.shape[0], 1) * i,
    "zeros": lambda x, i: torch.zeros(x.shape[0], 4) + x,
    "new zeros": lambda x, i: torch.cat([x.new_zeros(x.shape[0], 2), x], 1),
    "zeros alike": lambda x, i: torch.zeros_like(x),
    "ones": lambda x, i: torch.ones(x.shape[0], 4, dtype=torch.int64) * i,
    "new ones": lambda x, i: x.new_ones(x.shape[0], 4) - x,
    "full": lambda x, i: torch.full((x.shape[0], 4), -2.5) * x,
    "full alike": lambda x, i: torch.full_like(i, 7) - i,
    "new full": lambda x, i: x.new_full((x.shape[0], 4), 0.5) + x,
    "whole numbers less than others": lambda x, i: torch.arange(4) < i,
    "whole numbers at least others": lambda x, i: i >= i[:, :1],
    "floats above others": lambda x, i: x > x[:, 1:2],
    "floats at most others": lambda x, i: x <= x * x,
    "floats and whole numbers": lambda x, i: x == i,
    "differing": lambda x, i: (x != i) & (i != i[:, 2:3]),
    "lower triangle": lambda x, i: (x[:, :, None] * x[:, None, :]).tril(),
    "upper triangle": lambda x, i: (i[:, :, None] + i[:, None, :]).triu(1),
    "lower triangle of a mask": lambda x, i: (i[:, :, None] > 1).expand(-1, -1, 4).tril(-1),
    "one of two numbers": lambda x, i: torch.where(i > 1, 0.25, -10000.0) + x,
    "a number or an element": lambda x, i: torch.where(i > 1, 3.0, x),
    "an element or a number": lambda x, i: torch.where(i > 1, x, -1.5),
    "filled by a tensor": lambda x, i: x.masked_fill(i > 1, torch.tensor(-7.0)),
    "softmax over an inner axis": lambda x, i: torch.softmax(x[:, :, None] * x[:, None, :], 1),
    "columns by constant indices": lambda x, i: x[:, torch.tensor([3, 0, -1])] * 2,
    "matrices by constant indices": lambda x, i: (x[:, :, None] * x[:, None, :])[:, :, torch.tensor([[2, 0], [1, 3]])],
    "columns selected": lambda x, i: i.index_select(1, torch.tensor([2, 2, 1])),
    "counts of what is spread": lambda x, i: i[:, :, None].expand(-1, -1, 5).sum(1) + 1,
    "counts of a turned matrix": lambda x, i: (
        (i[:, :, None] * i[:, None, :] + i[:, :, None]).transpose(1, 2).sum(1) + 1
    ),
    "counts of ones": lambda x, i: torch.ones(x.shape[0], 3, 4, dtype=torch.int64).sum(1) + i,
    "counts of repeats": lambda x, i: i[:, :1].repeat(1, 5)[:, :, None].repeat(1, 1, 3).sum(1),
    "sums of every other column": lambda x, i: (x[:, :, None] * x[:, None, :])[:, :, ::2].sum(1) * 2,
    "every other column as rows": lambda x, i: (x[:, ::2] * 2).reshape(-1, 2, 1).expand(-1, 2, 3).flatten(1),
    "both of whole numbers": lambda x, i: torch.logical_and(i, i + 1),
    "either of whole numbers": lambda x, i: torch.logical_or(i, i * 2 - 2),
    "error function of little": lambda x, i: torch.erf(x * 1e-6) * 1e6,
    "error function": lambda x, i: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "logarithm": lambda x, i: torch.log(x.abs() + 0.1),
}


#: Of floats [B, 2, 3, 4] and [B, 5, 4].
EINSUMS = [
    "bfhd,bgd->bfhg",
    "bfhd,bgd->bghf",
    "bfhd,bgd->bhgf",
    "bfhd,bgd->bfhgd",
    "bfhd,bgd->dbghf",
    "bghd,bfd->fbgh",
]


@pytest.mark.parametrize("equation", EINSUMS)
@pytest.mark.parametrize("turned", [False, True])
def test_einsum(equation: str, turned: bool) -> None:
    """Products of matrices and of elements, the sides in either order, dimensions anywhere."""
    rng = generator(3)
    batch = torch.export.Dim("batch", min=1, max=100)
    left, right = torch.randn(3, 2, 3, 4, generator=rng), torch.randn(3, 5, 4, generator=rng)

    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        inputs, output = equation.split("->")
        one, other = inputs.split(",")
        found = torch.einsum(f"{other},{one}->{output}", right, left) if turned else torch.einsum(equation, left, right)
        return found.transpose(0, output.index("b")).contiguous()

    for run in lower_everywhere(product, [left, right], dynamic_shapes=(({0: batch}, {0: batch}),)):
        for rows in (1, 3):
            torch.testing.assert_close(run(left[:rows], right[:rows])[0], product(left[:rows], right[:rows]))


#: Of floats [B, 3, 4], and of matrices [3, 4], [4, 5], [5, 3, 4] that are the same for every row.
CONSTANT_EINSUMS: dict[str, tuple[str, tuple[int, ...]]] = {
    "a mix of places": ("bsd,st->btd", (0, 1)),
    "a mix of places, turned": ("ts,bsd->btd", (1, 0)),
    "a layer a head": ("bsd,hsd->bhs", (0, 3)),
    "experts": ("bsd,hsd->bh", (0, 3)),
    "experts with places": ("bsd,hkd->bshk", (0, 3)),
    "a layer on another axis": ("bsd,sk->bkd", (0, 1)),
    "columns first": ("de,bsd->ebs", (2, 0)),
    "three": ("bsd,st,de->bte", (0, 1, 2)),
    "three, both of the batch": ("bsd,bsd,de->bse", (0, 0, 2)),
    "three, summed at the end": ("bsd,hsd,bsd->bh", (0, 3, 0)),
    "four": ("bsd,st,de,bsd->bste", (0, 1, 2, 0)),
}


@pytest.mark.parametrize("name", CONSTANT_EINSUMS)
@pytest.mark.parametrize("held", [False, True], ids=["inputs", "constants"])
def test_einsum_with_the_same_matrix_for_every_row(name: str, held: bool) -> None:
    equation, which = CONSTANT_EINSUMS[name]
    rng = generator(5)
    drawn = [torch.randn(shape, generator=rng) for shape in ((3, 3, 4), (3, 3), (4, 5), (5, 3, 4))]
    batch = torch.export.Dim("batch", min=1, max=100)

    def product(*given: torch.Tensor) -> torch.Tensor:
        found = torch.einsum(equation, *(given[i] for i in which))
        return found.transpose(0, equation.partition("->")[2].index("b")).contiguous()

    inputs, state = (drawn[:1], drawn[1:]) if held else (drawn, [])
    shapes = ({0: batch}, *({} for _ in inputs[1:]))
    for run in lower_everywhere(product, inputs, state, dynamic_shapes=(shapes,)):
        for rows in (1, 3):
            given = [drawn[0][:rows], *drawn[1:]]
            near_enough = {"rtol": 1e-5, "atol": 1e-5}
            torch.testing.assert_close(run(*given[: len(inputs)])[0], product(*given), **near_enough)


@pytest.mark.parametrize("dims", [([-1], [0]), ([2], [1])])
def test_tensordot_with_a_constant(dims: Any) -> None:
    rng = generator(4)
    x, weight = torch.randn(3, 5, 6, generator=rng), torch.randn(6, 6, generator=rng)
    near(lambda x, w: torch.tensordot(x, w, dims), [x], [weight], 1e-5, 1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_of_width_one(bias: bool) -> None:
    rng = generator(5)
    x, weight, shift = (torch.randn(*s, generator=rng) for s in ((3, 7, 5), (4, 7, 1), (4,)))
    near(lambda x, w, b: torch.conv1d(x, w, b if bias else None).relu(), [x], [weight, shift], 1e-5, 1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_odds_and_ends(name: str) -> None:
    rng = generator(7)
    x, i = 3 * torch.randn(3, 4, generator=rng), torch.randint(0, 4, (3, 4), generator=rng)
    x[0, 0], x[1, 1] = 2.0, 0.0
    near(FUNCTIONS[name], [x, i], [], 2e-6, 2e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_batches(name: str) -> None:
    rng = generator(8)
    batch = torch.export.Dim("batch", min=1, max=100)
    x, i = torch.randn(5, 4, generator=rng), torch.randint(0, 4, (5, 4), generator=rng)
    runs = lower_everywhere(FUNCTIONS[name], [x, i], dynamic_shapes=(({0: batch}, {0: batch}),))
    for rows in (1, 5, 70):
        x, i = torch.randn(rows, 4, generator=rng), torch.randint(0, 4, (rows, 4), generator=rng)
        expected = FUNCTIONS[name](x, i)
        for run in runs:
            (found,) = run(x, i)
            torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)


def test_floats_beyond_whole_numbers() -> None:
    """Converted as on x86, as torch does there."""
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 2.0**62, -2.9, 0.9]])
    expected = [-(2**63)] * 5 + [2**62, -2, 0]
    for run in lower_everywhere(lambda x: x.long(), [x]):
        assert run(x)[0].tolist() == [expected]


def test_floats_beyond_32_bits() -> None:
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 3e9, -3e9, 2.0**31 - 128, -(2.0**31), -2.9]])
    expected = [-(2**31)] * 5 + [2**31 - 128, -(2**31), -2]
    for run in lower_everywhere(lambda x: x.to(torch.int32), [x]):
        assert run(x)[0].tolist() == [expected]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize(
    "how",
    [lambda t: t.repeat(1, 3), lambda t: t.repeat_interleave(2, 1), lambda t: t.reshape(-1, 2, 2).mT.reshape(-1, 4)],
)
def test_what_no_step_copies_stays_with_torch(dtype: torch.dtype, how: Callable[..., Any]) -> None:
    x = torch.randint(0, 200, (3, 4)).to(dtype)
    made = partition(program_of(how, [x]), LEVELS[0])
    assert made.refused
    assert torch.equal(flat_function(made.region)(x)[0], how(x))


def test_ids_in_floats_are_checked() -> None:
    table = torch.randn(5, 3)

    def look(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(x[:, 0].long(), table)

    x = torch.tensor([[1.0], [4.0]])
    for run in lower_everywhere(look, [x], [table]):
        assert torch.equal(run(x)[0], table[[1, 4]])
        for wrong in (5.0, -1.0, float("nan")):
            with pytest.raises(Exception, match=r"out of range|outside"):
                run(torch.tensor([[1.0], [wrong]]))


REFUSED: dict[str, Callable[..., Any]] = {
    "repeated along the batch": lambda x: x.repeat(2, 1),
    "repeated as often as a tensor says": lambda x: x.repeat_interleave(torch.tensor([1, 2, 1, 1]), 1, output_size=5),
    "flattened": lambda x: x.repeat_interleave(2),
    "summed over one side alone": lambda x: torch.einsum("bi,bj->b", x, x),
    "a diagonal": lambda x: torch.einsum("bii,bj->bij", x[:, :, None] * x[:, None, :], x),
    "summed over the batch": lambda x: torch.einsum("bi,bj->ij", x, x),
    "a summed letter that is spread": lambda x: torch.einsum(
        "bij,bjk->bik", x[:, :, None], x[:, :, None] * x[:, None, :]
    ),
    "a batch that is spread": lambda x: torch.einsum("bij,bjk->bik", torch.ones(1, 2, 4), x[:, :, None]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_with_torch(name: str) -> None:
    x = torch.randn(3, 4)
    batch = torch.export.Dim("batch", min=1, max=100)
    made = partition(program_of(REFUSED[name], [x], dynamic_shapes=(({0: batch},),)), LEVELS[0])
    assert made.refused


def _raising(error: Exception) -> Callable[[Any, Any], None]:
    def rule(builder: Any, node: Any) -> None:
        raise error

    return rule


@pytest.mark.parametrize("error", [TypeError("a size"), IndexError("no argument"), ZeroDivisionError("by zero")])
def test_a_rule_that_does_not_know_its_arguments_leaves_the_node_to_torch(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES, torch.ops.aten.relu.default, _raising(error))
    made = partition(program_of(lambda x: torch.relu(x) + 1, [torch.randn(3, 4)]), LEVELS[0])
    (reason,) = made.refused.values()
    assert reason.startswith("its rule does not take these arguments")
    monkeypatch.setitem(RULES, torch.ops.aten.relu.default, _raising(RuntimeError("a fault of the backend")))
    with pytest.raises(RuntimeError, match="a fault"):
        partition(program_of(lambda x: torch.relu(x) + 1, [torch.randn(3, 4)]), LEVELS[0])
