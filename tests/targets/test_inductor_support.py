"""Which operators Inductor compiles, one by one, and the reason for each of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recfx.ir.region import Region
from recfx.targets.id_checks import has_computed_places, is_moved_input
from recfx.targets.inductor import compiler
from recfx.targets.inductor.support import lookups_of, refusals
from recfx.testing import GraphBuilder

aten = torch.ops.aten


def _graph() -> GraphBuilder:
    return GraphBuilder({"x": ("batch", 4), "ids": (("batch", 3), torch.int64)})


def _refused(builder: GraphBuilder, result: Any, *, lowering: bool = False) -> list[str]:
    return list(refusals(Region.whole(builder.build(result)), lowering=lowering).values())


def _ids(b: GraphBuilder) -> Any:
    return b.inputs["ids"]


def _rows(b: GraphBuilder, ids: Any) -> Any:
    return b.call(aten.embedding.default, b.state("table", torch.randn(9, 4)), ids)


REASONS: dict[str, tuple[Any, str]] = {
    "relu": (lambda b: b.call(aten.relu.default, b.inputs["x"]), ""),
    "softmax": (lambda b: b.call(aten.softmax.int, b.inputs["x"], 1), ""),
    "in float64": (lambda b: b.call(aten.to.dtype, b.inputs["x"], torch.float64), ""),
    "remainder of numbers": (lambda b: b.call(aten.remainder.Tensor, b.inputs["x"], b.inputs["x"]), "other results for NaN"),
    "random numbers": (lambda b: b.call(aten.rand_like.default, b.inputs["x"]), "random numbers"),
    "complex numbers": (lambda b: b.call(aten.to.dtype, b.inputs["x"], torch.complex64), "tensors of type torch.complex64"),
    "a lookup": (lambda b: _rows(b, _ids(b)), ""),
    "a lookup of shifted ids": (lambda b: _rows(b, b.call(aten.clamp.default, _ids(b), 0, 3)), ""),
    "places from an input": (
        lambda b: b.call(aten.index_select.default, b.inputs["x"], 1, b.call(aten.select.int, _ids(b), 0, 0)),
        "places that are computed",
    ),
    "constant places": (
        lambda b: b.call(aten.index_select.default, b.inputs["x"], 1, b.state("at", torch.tensor([0, 2]))), ""
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_of_each_operator(name: str) -> None:
    make, reason = REASONS[name]
    builder = _graph()
    found = _refused(builder, make(builder))
    assert len(found) == bool(reason)
    assert all(reason in text for text in found)


def test_ids_of_a_compiled_region_are_its_inputs_or_parts_of_them() -> None:
    for make, reason in (
        (lambda b: b.call(aten.slice.Tensor, _ids(b), 1, 0, 2), ""),
        (lambda b: b.call(aten.reshape.default, _ids(b), [-1]), ""),
        (lambda b: b.call(aten.clamp.default, _ids(b), 0, 3), "ids that are computed in the same region"),
    ):
        builder = _graph()
        ids = make(builder)
        assert is_moved_input(ids) == (not reason)
        found = _refused(builder, _rows(builder, ids), lowering=True)
        assert len(found) == bool(reason)
        assert all(reason in text for text in found)


def test_lookups_have_their_ids_and_rows() -> None:
    builder = _graph()
    region = Region.whole(builder.build(_rows(builder, _ids(builder))))
    ((ids, rows),) = lookups_of(region)
    assert (ids.op, ids.name, rows) == ("placeholder", "ids", 9)


def test_places_of_reads_and_writes() -> None:
    builder = _graph()
    x, ids = builder.inputs["x"], _ids(builder)
    zeros = builder.call(aten.zeros_like.default, x)
    assert has_computed_places(builder.call(aten.gather.default, x, 1, ids))
    assert has_computed_places(
        builder.call(aten.scatter_add.default, zeros, 1, ids, builder.call(aten.slice.Tensor, x, 1, 0, 3))
    )
    assert not has_computed_places(builder.call(aten.add.Tensor, x, x))
    constant = builder.state("at", torch.zeros(1, 3, dtype=torch.int64))
    assert not has_computed_places(
        builder.call(aten.index.Tensor, x, [None, builder.state("one", torch.tensor([1, 2]))])
    )
    assert not has_computed_places(builder.call(aten.take.default, x, constant))


@pytest.mark.parametrize(
    ("given", "found", "present"),
    [
        ("", {"g++"}, True),
        ("", {"clang++"}, True),
        ("", {"icpx"}, False),
        ("icpx", {"icpx"}, True),
        ("ccache icpx", {"icpx"}, True),
        ("ccache icpx", {"ccache"}, False),
        ("icpx", {"g++"}, True),
    ],
)
def test_compilers_that_are_found(given: str, found: set[str], present: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", given)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: f"/bin/{name}" if name in found else None)
    assert (compiler.missing() is None) == present
    assert present or "install g++" in str(compiler.missing())


def test_the_machine_is_named_by_its_instructions() -> None:
    assert torch.backends.cpu.get_cpu_capability() in compiler.machine()
    assert compiler.version() == torch.__version__
