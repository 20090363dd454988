"""Ids outside their table, in every form in which a lookup takes them: an error that names the id, and no row is read.

Every kernel that reads rows checks its ids itself, for speed. The tables below reach each of these checks: by width (whole vectors in
registers, or any), by pooling (a bag, rows side by side, a single row copied), by ids (fixed or jagged bags, 32 or 64 bits), and by format.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from ids_kit import FORMS, ROWS, guarded, inputs, made, rows_in
from native_kit import LEVELS, lower, needs_kernels, program_of

from recfx.errors import InputError
from recfx.ops import lookup

pytestmark = needs_kernels

WRONG = [-1, ROWS, 2**40, 2**63 - 1, -(2**63)]
WRONG_32 = [-1, ROWS, 2**31 - 1, -(2**31)]
FORMATS = [32, 16, -16, 8, 4, 2, 1]

#: Vectors of 1, 2, 4 and 8 at some level, more than one step of 8, and no whole vector at any.
WIDTHS = [16, 32, 64, 128, 192, 13]


def check(form: str, kind: int, width: int, dtype: torch.dtype, level: str) -> None:
    """Every wrong number as the first id and as the last, of one row and of several."""
    run = made(form, kind, width, dtype, level)
    for batch in (1, 4):
        dense, ids, factors, offsets = inputs(form, dtype, batch)
        run(dense, ids, factors, offsets)
        for bad in WRONG if dtype is torch.int64 else WRONG_32:
            for place in (0, ids.numel() - 1):
                wrong = ids.clone()
                wrong.view(-1)[place] = bad
                row = place * batch // ids.numel()
                with pytest.raises(InputError, match=rf"id {bad} in row {row} is outside its table of {ROWS} rows"):
                    run(dense, wrong, factors, offsets)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("form", FORMS)
def test_wrong_ids_are_an_error(form: str, kind: int, level: str) -> None:
    """In every form and format; with one width that this level keeps in registers, and one width that it does not."""
    check(form, kind, WIDTHS[FORMATS.index(kind) % 4], torch.int64, level)
    check(form, kind, 13, torch.int32, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", FORMS)
def test_no_id_is_read_outside_the_ids(form: str, level: str) -> None:
    """Rows are asked for ahead: of later ids, of the next feature, and of the next batch row."""
    for width, dtype in itertools.product((16, 13), (torch.int64, torch.int32)):
        run = made(form, 32, width, dtype, level)
        for batch in (1, 2, 7, 100):  # more rows than are asked for ahead
            dense, ids, factors, offsets = inputs(form, dtype, batch)
            (want,) = run(dense, ids, factors, offsets)
            for at_end in (True, False):
                held = [guarded(x, at_end=at_end) for x in (ids, factors, offsets)]
                assert torch.equal(run(dense, *held)[0], want)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", WIDTHS)
def test_wrong_ids_of_every_width(width: int, level: str) -> None:
    for form in ("one row", "a bag", "side by side", "jagged"):
        for dtype in (torch.int64, torch.int32):
            check(form, 32, width, dtype, level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("function", ["embedding", "index_select", "index"])
def test_wrong_ids_of_plain_lookups(function: str, level: str) -> None:
    """`nn.functional.embedding` and picks of rows by an index; those of `table[ids]` count from the end when they are negative."""
    calls: dict[str, Callable[..., torch.Tensor]] = {
        "embedding": lambda ids, table: torch.nn.functional.embedding(ids, table) * 1.0,
        "index_select": lambda ids, table: table.index_select(0, ids) * 1.0,
        "index": lambda ids, table: table[ids] * 1.0,
    }
    table = torch.randn(ROWS, 16)
    for dtype in (torch.int64, torch.int32):
        ids = torch.tensor([0, ROWS - 1, 2, 1], dtype=dtype)
        run = lower(program_of(calls[function], [ids], [table], dynamic_shapes=False), level)
        assert torch.equal(run(ids)[0], table[ids.long()])
        for bad in WRONG if dtype is torch.int64 else WRONG_32:
            if function == "index" and bad == -1:
                bad = -ROWS - 1
            for place in (0, 3):
                wrong = ids.clone()
                wrong[place] = bad
                with pytest.raises(InputError, match=rf"id {bad} .*outside"):
                    run(wrong)


@pytest.mark.parametrize("level", LEVELS)
def test_wrong_ids_in_float_columns(level: str) -> None:
    """Ids that come as floating-point numbers, cast by the model."""
    table = torch.randn(ROWS, 16)

    def look(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(x[:, 1].long(), table) * 1.0

    x = torch.tensor([[0.5, 0.0], [0.5, 4.0], [0.5, 2.0]])
    run = lower(program_of(look, [x], [table], dynamic_shapes=False), level)
    assert torch.equal(run(x)[0], table[[0, 4, 2]])
    for bad in (-1.0, 5.0, 2.0**40, 2.0**63, -(2.0**63), 1e30, float("inf"), -float("inf"), float("nan")):
        wrong = x.clone()
        wrong[2, 1] = bad
        with pytest.raises(InputError, match="outside its table"):
            run(wrong)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bad", [-1, ROWS, 2**40, 2**63 - 1, -(2**63)])
def test_wrong_positions(bad: int, level: str) -> None:
    """A gather along a sequence by a number of each row."""

    def last(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return x.gather(1, lengths[:, None, None].expand(-1, 1, 8)).squeeze(1) * 1.0

    x, lengths = torch.randn(3, ROWS, 8), torch.tensor([0, 4, 2])
    run = lower(program_of(last, [x, lengths], [], dynamic_shapes=False), level)
    assert torch.equal(run(x, lengths)[0], x[torch.arange(3), lengths])
    lengths[1] = bad
    with pytest.raises(InputError, match=rf"id {bad} .*outside"):
        run(x, lengths)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", FORMATS)
def test_no_row_is_read_outside_a_table(kind: int, level: str) -> None:
    """The memory next to a table ends the process when it is read. The largest and smallest ids do not read it."""
    table = guarded(rows_in(kind, 16))
    features = [lookup.Feature(0, 0, 16, 0, length=3, bits=32 if abs(kind) >= 16 else kind)]
    numbers = lookup.encode(features)

    def look(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return lookup.grouped_lookup([table], [ids], [], [], [], numbers, [], 16)

    ids = torch.tensor([[0, 4, 4], [4, 0, 4]])
    run = lower(program_of(look, [ids], [table], dynamic_shapes=False), level)
    assert torch.equal(run(ids)[0][0, :8], run(ids.roll(1, 0))[0][1, :8])
    for bad in (-1, ROWS, 2**40, 2**63 - 1, -(2**63)):
        ids[1, 2] = bad
        with pytest.raises(InputError, match=f"id {bad} "):
            run(ids)
