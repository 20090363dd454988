"""The programs that TensorRT gets: their numbers against eager, 32-bit ids, and the bounds of free sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from handed_over import HandedOverBackend
from torch import nn

import recfx
from recfx.errors import TargetError
from recfx.ir.region import Region
from recfx.targets import BACKENDS
from recfx.targets.tensorrt.handover import BATCH, OTHER, HandedOver, hand_over
from recfx.testing.builder import GraphBuilder
from recfx.zoo import build

_aten = torch.ops.aten


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
