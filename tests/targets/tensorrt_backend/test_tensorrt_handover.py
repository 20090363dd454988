"""The programs that TensorRT gets: their numbers against eager, 32-bit ids, and the bounds of free sizes."""

from __future__ import annotations

import operator
import sys
from pathlib import Path
from typing import Any

import dialect_cases
import pytest
import torch
from handed_over import HandedOverBackend
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import recfx
from recfx.errors import TargetError
from recfx.ir.numeric import Exactness, compare_outputs
from recfx.ir.reference_run import Reference
from recfx.ir.region import Region, region_of
from recfx.ir.special_rows import EXTREME
from recfx.targets import BACKENDS
from recfx.targets.tensorrt.handover import BATCH, OTHER, HandedOver, hand_over
from recfx.testing.builder import GraphBuilder
from recfx.zoo import build

_aten = torch.ops.aten
sys.path.append(str(Path(__file__).parent.parent / "conformance"))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> HandedOverBackend:
    """The backend in the place of the real one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = HandedOverBackend()
    monkeypatch.setitem(BACKENDS._held, "tensorrt", made)
    return made


@pytest.mark.parametrize("name", ["dlrm", "din"])
def test_a_model_of_the_zoo_equals_eager(backend: HandedOverBackend, name: str) -> None:
    torch.manual_seed(0)
    model = build(name).eval()
    fast = recfx.optimize(model, example_inputs=model.example_inputs(6), target="tensorrt", measure=False)
    assert "tensorrt" in fast.placement.values()
    for batch in (1, 2, 33):
        inputs = model.example_inputs(batch)
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    operators = {str(node.target) for handed in backend.built for node in handed.exported.program.graph.nodes}
    assert not [name for name in operators if name.startswith("recfx") or "embedding_bag" in name]


class Bags(nn.Module):
    """Bags of ids and a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(30, 8, mode="mean", padding_idx=0)
        self.layer = nn.Linear(8, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layer(self.bag(ids))


def test_the_bags_of_a_model_are_gathered(backend: HandedOverBackend) -> None:
    model = Bags().eval()
    ids = torch.randint(0, 30, (6, 5))
    fast = recfx.optimize(model, example_inputs=ids, target="tensorrt", measure=False)
    assert set(fast.placement.values()) == {"tensorrt"}
    for batch in (1, 2, 40):
        ids = torch.randint(0, 30, (batch, 5))
        with torch.no_grad():
            torch.testing.assert_close(fast(ids), model(ids), rtol=1e-5, atol=1e-6)


def rows(ids: Any) -> HandedOver:
    """A lookup of ids that a function makes of two inputs: ids [batch, 3] and other integers."""
    b = GraphBuilder({"ids": (("batch", 3), torch.int64), "other": (("batch", 3), torch.int64)})
    made, *more = ids(b, b.inputs["ids"], b.inputs["other"])
    row = b.call(_aten.embedding.default, b.state("table", torch.randn(5, 4)), made)
    return hand_over(Region.whole(b.build(row, *more)))


NARROW: dict[str, tuple[Any, set[int]]] = {
    "ids": (lambda b, ids, other: [ids], {0}),
    "a column": (lambda b, ids, other: [b.call(_aten.select.int, ids, 1, 0)], {0}),
    "two inputs": (lambda b, ids, other: [b.call(_aten.cat.default, [ids, other], 1)], {0, 1}),
    "ids that are compared": (lambda b, ids, other: [ids, b.call(_aten.gt.Scalar, ids, 0)], set()),
    "an input that is compared": (lambda b, ids, other: [ids, b.call(_aten.gt.Scalar, other, 0)], {0}),
    "ids that are returned": (lambda b, ids, other: [ids, b.call(_aten.permute.default, ids, [1, 0])], set()),
}


@pytest.mark.parametrize(("make", "narrowed"), NARROW.values(), ids=NARROW.keys())
def test_inputs_that_only_hold_ids_have_32_bits(make: Any, narrowed: set[int]) -> None:
    handed = rows(make)
    assert handed.narrowed == narrowed
    for at, dtype in zip(handed.exported.inputs, handed.dtypes(), strict=True):
        assert dtype is (torch.int32 if at in narrowed else torch.int64)


def test_free_sizes_have_bounds() -> None:
    b = GraphBuilder({"x": ("batch", "length", 4), "ids": (("3*batch",), torch.int64), "fixed": (2, 4)})
    row = b.call(_aten.embedding.default, b.state("table", torch.randn(5, 4)), b.inputs["ids"])
    handed = hand_over(Region.whole(b.build(b.call(_aten.add.Tensor, b.inputs["x"], 1.0), row, b.inputs["fixed"])))
    x, ids = handed.profiles()
    assert x == tuple((batch, length, 4) for batch, length in zip(BATCH, OTHER, strict=True))
    assert ids == tuple((3 * batch,) for batch in BATCH)
    assert len(set(handed.input_names)) == 2
    assert handed.output_names == ["output0", "output1"]


def test_a_size_that_is_not_linear_is_refused() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    region = Region.whole(b.build(b.call(_aten.relu.default, b.inputs["x"])))
    (node,) = region.placeholders()
    squared = node.meta["val"].shape[0] * node.meta["val"].shape[0]
    node.meta["val"] = node.meta["val"].new_empty(squared, 4)
    with pytest.raises(TargetError, match="not linear"):
        hand_over(region)


@pytest.mark.slow
def test_the_conformance_cases() -> None:
    from conformance_cases import CASES
    from conformance_kit import check_numbers, place
    from joined_cases import groups

    backend = HandedOverBackend()
    for cases, program in groups(CASES):
        placed = place(program, backend)
        assert all(reason.strip() for reason in placed.refused.values())
        check_numbers(next((case for case in cases if case.sums), cases[0]), program, placed.run, backend)
    assert len(backend.built) > len(CASES) / 20


@pytest.mark.slow
@pytest.mark.parametrize("target", dialect_cases.CASES, ids=str)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_an_operator_of_the_dialect(target: Any, data: st.DataObject) -> None:
    from conformance_kit import place

    case: dialect_cases.Case = dialect_cases.CASES[target](data.draw)
    placed = place(case.program, HandedOverBackend())
    assert all(reason.strip() for reason in placed.refused.values())
    rounded = any(t.dtype in (torch.bfloat16, torch.int8) for t in case.program.state().values())
    for batch in (1, 2, 33):
        leaves = case.leaves(batch, torch.Generator().manual_seed(batch))
        compare_outputs(
            *(case.program.run(leaves), placed.run(*leaves), Exactness.REASSOC, f"{EXTREME}: {batch} rows"),
            Reference(case.program, leaves),
            slack=256.0 if rounded else 8.0,
            special=True,
            kernels=True,
        )


@pytest.mark.parametrize(("shape", "size"), [("batch", "batch"), ("batch", "4*batch"), ("3*batch", "3*batch")])
def test_a_size_from_another_region_is_read_from_a_tensor(shape: str, size: str) -> None:
    """The region of `full`, whose size another region computes."""
    b = GraphBuilder({"x": (shape, 6)})
    rows = b.call(_aten.sym_size.int, b.inputs["x"], 0)
    factor = 4 if size.startswith("4") else 1
    given = rows if factor == 1 else b.call(operator.mul, rows, factor)
    made = b.call(_aten.full.default, [given, 2], 1.5)
    program = b.build(b.call(_aten.relu.default, b.inputs["x"]), made)
    members = [
        node for node in program.graph.nodes if node.op == "call_function" and node is not rows and node is not given
    ]
    region = region_of(Region.whole(program), members)
    assert any(isinstance(node.meta["val"], torch.SymInt) for node in region.placeholders())
    run = HandedOverBackend().lower(region).run
    for batch in (1, 2, 5):
        x = torch.randn((3 if shape.startswith("3") else 1) * batch, 6)
        found = run(*[x if isinstance(n.meta["val"], torch.Tensor) else len(x) * factor for n in region.placeholders()])
        assert torch.equal(found[region.outputs.index(made.name)], torch.full((len(x) * factor, 2), 1.5))


def test_a_size_that_no_tensor_has_is_refused() -> None:
    b = GraphBuilder({"x": ("batch", 6)})
    rows = b.call(_aten.sym_size.int, b.inputs["x"], 0)
    made = b.call(_aten.full.default, [rows, 2], 1.5)
    region = region_of(Region.whole(b.build(made)), [made])
    with pytest.raises(TargetError, match="no size of its tensors"):
        hand_over(region)
