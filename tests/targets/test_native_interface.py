"""The library's C functions and Python module refuse unknown levels, other structs and wrong arguments."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import pytest
import torch
from native_kit import LEVELS, needs_kernels, partition, program_of

from recfx.kernels.abi import STRUCTS, CBpr, CError, CSlot, CStep
from recfx.kernels.codes import Place
from recfx.kernels.library import library
from recfx.kernels.row_writes import CRowUpdate
from recfx.kernels.search_structs import Queries, Rescore, Search

pytestmark = needs_kernels
UNKNOWN = b"no-such-level"


def call(name: str, *arguments: Any) -> Any:
    return library().calls[name](*arguments)


def test_every_function_refuses_a_level_that_this_processor_has_not() -> None:
    assert call("recfx_panel_columns", UNKNOWN) == -1
    assert call("recfx_unit_depth", UNKNOWN, 0) == -1
    assert call("recfx_bpr", UNKNOWN, ctypes.addressof(CBpr()), 1) == 4
    offsets = torch.zeros(2, dtype=torch.int64)
    weights = (ctypes.c_float * 1)(1.0)
    operands = (None, None, None, offsets.data_ptr(), None, 0, None, 1, 0, ctypes.addressof(weights), 0, 0, 1)
    assert call("recfx_propagate", UNKNOWN, *operands) == 4
    assert call("recfx_plan_new", UNKNOWN, (CSlot * 0)(), 0, (CStep * 0)(), 0, 1) is None
    for struct, name in ((Search, "recfx_search"), (Rescore, "recfx_rescore")):
        assert call(name, UNKNOWN, ctypes.byref(struct(struct_bytes=ctypes.sizeof(struct))), 1) == 1


@pytest.mark.parametrize("level", LEVELS)
def test_no_samples_and_no_rows_are_no_error(level: str) -> None:
    assert call("recfx_bpr", level.encode(), ctypes.addressof(CBpr(negative_count=1)), 1) == 0
    assert call("recfx_bpr", level.encode(), ctypes.addressof(CBpr(negative_count=0)), 1) == 0
    offsets, weights = torch.zeros(1, dtype=torch.int64), (ctypes.c_float * 1)(1.0)
    operands = (None, None, None, offsets.data_ptr(), None, 0, None, 0, 4, ctypes.addressof(weights), 0, 0, 1)
    assert call("recfx_propagate", level.encode(), *operands) == 0


@pytest.mark.parametrize("kinds", list(itertools.product([Place.INPUT, Place.OUTPUT], repeat=2)))
@pytest.mark.parametrize("arguments", [(0, 1), (1, 0)])
def test_every_argument_of_a_plan_has_memory(kinds: tuple[Place, Place], arguments: tuple[int, int]) -> None:
    slots = (CSlot * 2)(*(CSlot(kind=kind) for kind in kinds))
    for slot, argument in zip(slots, arguments, strict=True):
        slot.argument = argument
    plan = call("recfx_plan_new", LEVELS[0].encode(), slots, 2, (CStep * 0)(), 0, 1)
    error = CError()
    try:
        assert library().run(plan, 1, 1, 8, 8) == 0
        for missing in range(2):
            assert library().run(plan, 1, 1, *(0 if i == missing else 8 for i in range(2))) == 4
            call("recfx_last_error", ctypes.byref(error))
            assert (error.code, error.argument) == (4, missing)
    finally:
        call("recfx_plan_free", plan)


def test_packing_for_an_unknown_level_writes_nothing() -> None:
    weight, packed = torch.ones(1, 1), torch.full((64,), 7, dtype=torch.int32)
    call("recfx_pack", UNKNOWN, 0, weight.data_ptr(), 1, 1, packed.data_ptr())
    assert bool((packed == 7).all())


@pytest.mark.parametrize("level", LEVELS)
def test_units_have_a_depth_in_every_format_and_in_no_other(level: str) -> None:
    assert [call("recfx_unit_depth", level.encode(), format_) > 0 for format_ in (-1, 0, 1, 2, 3)] == [
        False,
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("other", [-8, 8])
def test_structs_of_another_size_are_refused(other: int) -> None:
    """A library of other sources would read other fields."""
    level = library().search_levels[0].encode()
    for struct, name, code in ((Search, "recfx_search", 3), (Rescore, "recfx_rescore", 3)):
        assert call(name, level, ctypes.byref(struct(struct_bytes=ctypes.sizeof(struct) + other)), 1) == code
    queries = Queries(struct_bytes=ctypes.sizeof(Queries) + other)
    assert call("recfx_round_queries", ctypes.byref(queries)) == -2
    assert call("recfx_round_queries", ctypes.byref(Queries(struct_bytes=ctypes.sizeof(Queries)))) == -1
    update = CRowUpdate(struct_bytes=ctypes.sizeof(CRowUpdate) + other)
    assert call("recfx_update_rows", ctypes.byref(update), 1, None, 0, None) == 0
    update.struct_bytes = ctypes.sizeof(CRowUpdate)
    assert call("recfx_update_rows", ctypes.byref(update), 1, None, 0, None) == -1


def test_sizes_of_structs_are_told_for_those_there_are() -> None:
    sizes = [call("recfx_struct_bytes", which) for which in range(-1, len(STRUCTS) + 1)]
    assert sizes == [-1, *map(ctypes.sizeof, STRUCTS), -1]


def test_arguments_of_a_plan_are_checked() -> None:
    found = library()
    for run in (found.run, found.run_counted):
        with pytest.raises(TypeError, match="takes its handle, the batch, the threads"):
            run(1, 2)
        with pytest.raises(TypeError):
            run(1, 1, 1, "x", 0)
        with pytest.raises(TypeError):
            run(1, 1, 1, 0, "x")
        with pytest.raises(OverflowError):
            run(1, 1, 1, 2**64, 0)
        with pytest.raises(OverflowError):
            run(1, 1, 1, 0, 2**64)
    with pytest.raises(TypeError, match="takes its handle"):
        found.run_counted(1, 1, 1, 0)


def test_a_plan_of_no_rows_does_nothing() -> None:
    """A call takes any pointers, also -1, which Python's conversion uses for an error."""
    program = program_of(lambda x: x * 2.0 + 1.0, [torch.ones(2, 3)], [])
    made = partition(program, LEVELS[0])
    plan = next(node.target.plan for node in made.region.graph.nodes if hasattr(node.target, "plan"))
    for batch in (0, -1):
        assert library().run(plan.handle, batch, 1, -1, -1) == 0
        assert library().run_counted(plan.handle, batch, 1, -1, -1, 0, 0) == 0
        assert library().run(plan.handle, batch, 1, 0, 0) == 0
        assert library().run(plan.handle, batch, 1) == library().run_counted(plan.handle, batch, 1) == 0
    assert library().run(plan.handle, 1, 1, 0, 0) == 4
