"""Operators over part of the batch do not limit it; an operator that does is named with its line and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pass_cases import Function
from torch import nn

import recfx
from recfx.capture import capture
from recfx.capture.batch_guards import doubtful_batches
from recfx.errors import CaptureError
from recfx.ir.fake_kernels import REPLACED, batch_free_kernels

BATCHES = (1, 2, 3, 5, 6, 9, 30)
table = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))

#: Functions that torch computes at every batch size.
FREE: dict[str, Callable[[torch.Tensor], Any]] = {
    "distances": lambda y: torch.cdist(y, table),
    "distances of order one": lambda y: torch.cdist(y, table, p=1),
    "last three": lambda y: y[-3:],
    "first three": lambda y: y[:3],
    "middle": lambda y: y[2:5],
    "middle from the end": lambda y: y[-3:-1],
    "all but the last": lambda y: y[:-1],
    "all but the first": lambda y: y[1:],
    "half": lambda y: y[: y.shape[0] // 2],
    "at most four": lambda y: y[: min(4, y.shape[0])],
    "halves changed": lambda y: torch.cat([y[y.shape[0] // 2 :], y[: y.shape[0] // 2]]),
    "differences of neighbours": lambda y: y[1:] - y[:-1],
    "last three beside their mean": lambda y: y[-3:] - y[-3:].mean(0),
    "flipped": lambda y: y.flip(0),
    "first of two chunks": lambda y: torch.chunk(y, 2)[0],
    "tensor_split": lambda y: torch.cat(torch.tensor_split(y, 2)[::-1]),
    "first pair": lambda y: torch.split(y, 2)[0],
    "first and last": lambda y: y[[0, -1]],
}


@pytest.mark.parametrize("name", FREE)
def test_the_batch_stays_free(name: str) -> None:
    model = Function(lambda m, x: FREE[name](x * 2))
    compiled = recfx.optimize(model, example_inputs=(torch.randn(6, 4),), measure=False)
    assert not any("limits the program" in notice for notice in compiled.report.notices), compiled.report.notices
    for rows in BATCHES:
        x = torch.randn(rows, 4)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


#: Models that raise errors below a batch size, with the least size that they accept.
REFUSING: dict[str, tuple[int, Callable[[torch.Tensor], Any]]] = {
    "row 2": (3, lambda y: y[2]),
    "narrow": (2, lambda y: y.narrow(0, 0, 2)),
    "index_select": (2, lambda y: y.index_select(0, torch.tensor([0, 1]))),
    "windows": (2, lambda y: y.unfold(0, 2, 1)),
    "second chunk": (2, lambda y: torch.cat(torch.chunk(y, 2)[:2]) + torch.chunk(y, 2)[1].sum()),
    "largest two": (2, lambda y: y.topk(2, dim=0)[0]),
}


@pytest.mark.parametrize("name", REFUSING)
def test_a_limit_of_the_model_itself_is_told_as_one(name: str) -> None:
    first, body = REFUSING[name]
    model = Function(lambda m, x: body(x * 2))
    compiled = recfx.optimize(model, example_inputs=(torch.randn(6, 4),), measure=False)
    (notice,) = [n for n in compiled.report.notices if "batch" in n or "one row" in n]
    assert "itself fails at batch" in notice or "refuses one row" in notice
    for rows in (first, 5, 12):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_python_branch_is_named_with_its_line_and_a_mend_that_works() -> None:
    model = Function(lambda m, x: x * 2 if x.shape[0] > 3 else x)
    program = capture(model, (torch.randn(6, 4),))
    (notice,) = [n for n in program.notices if "limits the program" in n]
    assert "a branch on the batch size in forward" in notice
    assert "x * 2 if x.shape[0] > 3" in notice
    assert "batches 4 to 65536" in notice
    small = capture(model, (torch.randn(3, 4),))  # the remedy: another example
    x = torch.randn(2, 4)
    assert torch.equal(small(x), model(x))


def test_an_operator_that_limits_the_batch_is_named() -> None:
    kernel = torch.ones(1, 4, 3)
    model = Function(lambda m, x: nn.functional.conv1d((x * 2).T.unsqueeze(0), kernel))
    program = capture(model, (torch.randn(6, 4),))
    (notice,) = [n for n in program.notices if "limits the program" in n]
    assert notice.startswith("aten.conv1d.default at")
    assert "branch" not in notice
    assert "example of another batch size" in notice


def test_a_number_of_parts_that_varies_is_refused_with_the_operator() -> None:
    model = Function(lambda m, x: torch.cat(torch.split(x * 2, 2)))
    with pytest.raises(
        CaptureError, match=r"aten.split.Tensor(.|\n)*another number of parts(.|\n)*reshape the batch to"
    ):
        capture(model, (torch.randn(6, 4),))
    mended = Function(lambda m, x: (x * 2).reshape(-1, 2, 4).flatten(0, 1))
    assert capture(mended, (torch.randn(6, 4),)).signature.dims["batch"][1] == 65536


@pytest.mark.parametrize("rows", [13, 333])
def test_a_branch_for_one_batch_size_is_not_overlooked(rows: int) -> None:
    model = Function(lambda m, x: x * 2 if x.shape[0] != rows else x)
    with pytest.raises(CaptureError):
        capture(model, (torch.randn(6, 4),))


@pytest.mark.parametrize("divisor", [2, 1000])
def test_a_branch_on_a_remainder_is_not_overlooked(divisor: int) -> None:
    model = Function(lambda m, x: x * 2 if x.shape[0] % divisor else x)
    with pytest.raises(CaptureError):
        capture(model, (torch.randn(6 if divisor != 2 else 7, 4),))


def exported(body: Callable[[torch.Tensor], Any]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim.AUTO(min=1, max=65536)
    return torch.export.export(Function(lambda m, x: body(x)), (torch.randn(6, 4),), dynamic_shapes=(({0: batch},),))


def test_sizes_at_which_guards_fail() -> None:
    assert doubtful_batches(exported(lambda x: x * 2)) == ()
    assert doubtful_batches(exported(lambda x: x * 2 if x.shape[0] != 13 else x)) == (13,)
    assert doubtful_batches(exported(lambda x: x * 2 if x.shape[0] not in (4000, 9) else x)) == (9, 4000)
    assert doubtful_batches(exported(lambda x: x * 2 if x.shape[0] % 2 == 0 else x)) is None
    assert doubtful_batches(exported(lambda x: x * 2 if x.shape[0] % 1000 else x)) is None


@pytest.mark.parametrize("part", [slice(None, -5), slice(-6, -5)])
def test_a_part_of_one_row_in_the_example_does_not_fix_the_batch(part: slice) -> None:
    model = Function(lambda m, x: torch.cat([(x * 2), (x * 2)[part]]))
    program = capture(model, (torch.randn(6, 3),))
    low, high = program.signature.dims["batch"]
    assert low <= 7
    assert high == 65536
    assert low <= 2 or any("limits the program" in notice for notice in program.notices)
    for rows in (7, 8, 12):
        x = torch.randn(rows, 3)
        assert torch.equal(program(x), model(x))


def test_the_kernels_of_torch_are_put_back() -> None:
    from torch._subclasses.fake_impls import op_implementations_dict

    own = op_implementations_dict[torch.ops.aten.slice.Tensor]
    with batch_free_kernels(), batch_free_kernels():
        assert op_implementations_dict[torch.ops.aten.slice.Tensor] is not own
    assert op_implementations_dict[torch.ops.aten.slice.Tensor] is own
    assert not torch.ops.aten.cdist.default.py_kernels
    assert torch.ops.aten.slice.Tensor in REPLACED
