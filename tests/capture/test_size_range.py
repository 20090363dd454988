"""A program accepts the batch sizes at which its recorded sizes are true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pass_cases import Function
from torch import fx
from torch.nn import functional

import recfx
from recfx.capture import capture
from recfx.capture.one_row import needs_one_row
from recfx.errors import InputError
from recfx.ir import Program

#: Slices of x [batch, 3]. A small batch has fewer of their rows, or none.
WINDOWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "[1:2]": lambda x: x[1:2],
    "[2:3]": lambda x: x[2:3],
    "[2:4]": lambda x: x[2:4],
    "[-3:-2]": lambda x: x[-3:-2],
    "[-3:-1]": lambda x: x[-3:-1],
    "[-9:-7]": lambda x: x[-9:-7],
    "[-2:]": lambda x: x[-2:],
    "[:-3]": lambda x: x[:-3],
    "[3:]": lambda x: x[3:],
    "[:2][1:]": lambda x: x[:2][1:],
    "rows of pairs": lambda x: x.flatten()[3:6].reshape(-1, 3),
}

#: Operators that ask whether a size is one, and operators that only pass it on.
BEHIND: dict[str, Callable[[torch.Tensor], Any]] = {
    "times a number": lambda y: y * 2,
    "plus a row": lambda y: y + torch.ones(3),
    "flattened": lambda y: (y * 2).flatten() * 3,
    "viewed": lambda y: (y * 2).view(-1, 3, 1) * 2,
    "turned": lambda y: y.mT * 2,
    "all pairs": lambda y: y[:, None] * y[None],
    "a product": lambda y: y @ y.mT,
    "linear": lambda y: functional.linear(y, torch.ones(4, 3)) * 2,
    "layer norm": lambda y: functional.layer_norm(y, [3]),
    "joined": lambda y: torch.cat([y, y * 2]) * 2,
    "narrowed": lambda y: (y[:, ::2]).narrow(1, 0, 1) * 2,
    "running sum": lambda y: y.cumsum(0),
    "sum": lambda y: y.sum(0) * 2,
    "looked up": lambda y: functional.embedding((y * 0).long(), torch.ones(4, 5)) * 2,
}


def model_of(window: str, behind: str) -> Function:
    return Function(lambda m, x: BEHIND[behind](WINDOWS[window](x * 2))).eval()


class _Sizes(fx.Interpreter):
    """Compares the recorded sizes of a program with those of a run."""

    def run_node(self, n: fx.Node) -> Any:
        found, recorded = super().run_node(n), n.meta.get("val")
        if isinstance(found, torch.Tensor) and isinstance(recorded, torch.Tensor):
            assert [self._at(size) for size in recorded.shape] == list(found.shape), n.format_node()
        return found

    def _at(self, size: Any) -> int:
        rows = len(self.module.rows)
        return (
            size
            if isinstance(size, int)
            else int(size.node.expr.subs(dict.fromkeys(size.node.expr.free_symbols, rows)))
        )


def check_sizes(program: Program, rows: int) -> None:
    x = torch.randn(rows, 3)
    program.module.rows = x
    _Sizes(program.module).run(x)


def check_range(window: str, behind: str) -> None:
    """The recorded sizes are those of a run, at every batch of the range that the model takes."""
    model = model_of(window, behind)
    program = capture(model, (torch.randn(12, 3),), check=False)
    low, _ = program.signature.dims["batch"]
    for rows in range(low, 14):
        try:
            model(torch.randn(rows, 3))
        except RuntimeError:
            continue
        check_sizes(program, rows)


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("window", ["[1:2]", "[-3:-2]"])
def test_one_row_of_large_batches(window: str, behind: str) -> None:
    check_range(window, behind)


@pytest.mark.parametrize("window", WINDOWS)
def test_every_slice(window: str) -> None:
    check_range(window, "times a number")


@pytest.mark.slow
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("window", WINDOWS)
def test_every_slice_and_operator(window: str, behind: str) -> None:
    check_range(window, behind)


#: (slice, operator) -> the smallest batch: the number of rows from which on the recorded sizes are true.
SMALLEST = {
    ("[1:2]", "times a number"): 2,
    ("[2:3]", "times a number"): 3,
    ("[-3:-2]", "plus a row"): 3,
    ("[-9:-7]", "times a number"): 1,
    ("[-2:]", "times a number"): 1,
    ("[2:4]", "turned"): 1,
    ("[-3:-2]", "a product"): 1,
}


@pytest.mark.parametrize(("window", "behind"), SMALLEST)
def test_the_smallest_batch(window: str, behind: str) -> None:
    program = capture(model_of(window, behind), (torch.randn(12, 3),))
    assert program.signature.dims["batch"][0] == SMALLEST[window, behind]
    assert needs_one_row(program.signature) == (SMALLEST[window, behind] == 2)
    named = [notice for notice in program.notices if "a slice of the batch at" in notice and "fewer rows" in notice]
    assert bool(named) == (SMALLEST[window, behind] > 1)


@pytest.mark.parametrize("rows", [2, 12])
def test_smaller_batches_are_refused_with_the_number_of_rows(rows: int) -> None:
    model = model_of("[-3:-2]", "flattened")
    fast = recfx.optimize(model, "native", example_inputs=torch.randn(rows, 3), verify="off", measure=False)
    for few in (1, 2):
        with pytest.raises(InputError, match="outside the captured range 3 to 65536"):
            fast(torch.randn(few, 3))
    with pytest.raises(InputError, match="a slice of the batch needs 3 rows"):
        fast(torch.randn(0, 3))
    for many in (3, 4, 9):
        x = torch.randn(many, 3)
        torch.testing.assert_close(fast(x), model(x))


def test_one_row_has_its_own_program() -> None:
    model = model_of("[1:2]", "flattened")
    fast = recfx.optimize(model, example_inputs=torch.randn(6, 3), measure=False)
    for rows in (1, 2, 5):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(fast(x), model(x))


def test_sizes_of_a_users_own_range() -> None:
    """Also where the user names the dimensions; other dimensions keep their ranges."""
    batch, length = torch.export.Dim("batch", min=1, max=50), torch.export.Dim("length", min=2, max=9)
    model = Function(lambda m, x, y: x[2:3] * 2 + y.sum()).eval()
    shapes = ({0: batch}, {0: length})
    program = capture(model, (torch.randn(5, 3), torch.randn(4)), dynamic_shapes=(shapes,), check=False)
    assert sorted(program.signature.dims.values()) == [(2, 9), (3, 50)]


def test_sizes_that_are_multiples_of_the_batch() -> None:
    """Three rows of `x` for each row of the batch; no input has the size of the batch itself."""
    batch = torch.export.Dim("batch", min=1, max=50)
    model = Function(lambda m, x: x.view(-1, 3, 2)[2:3] * 2).eval()
    program = capture(model, (torch.randn(12, 2),), dynamic_shapes=(({0: 3 * batch},),), check=False)
    assert program.signature.dims == {"batch": (3, 50)}


def test_a_slice_of_another_dimension_limits_no_batch() -> None:
    batch, length = torch.export.Dim("batch", min=1, max=50), torch.export.Dim("length", min=2, max=9)
    model = Function(lambda m, x, y: (x * 2, y[2:3] * 2)).eval()
    program = capture(
        model, (torch.randn(5, 3), torch.randn(4)), dynamic_shapes=(({0: batch}, {0: length}),), check=False
    )
    assert program.signature.dims["batch"] == (1, 50)
