"""Models that hide the batch from a tracer are captured, or refused with the input and a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hidden_batch_models import MODELS, Base, BatchSizeInFeed, feed, ids
from hypothesis import given, settings
from hypothesis import strategies as st

import recfx
from recfx.capture import capture
from recfx.capture.size_lines import Line, line_through
from recfx.errors import ArtifactError, CaptureError, InputError
from recfx.ir.batch_axes import Arrangement, Axis, find_arrangement
from recfx.ir.rebuild_signature import decode_signature
from recfx.ir.serialize import to_json

_SLOW = ("state first", "heads by split", "[[token]] * rows", "[0] * rows", "float(rows)", "batch_size argument")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in _SLOW else ()) for n in MODELS])
def test_hidden_batch(name: str) -> None:
    cls, make = MODELS[name]
    model = cls().eval()
    fast = recfx.optimize(model, example_inputs=make(6), measure=False)
    for rows in (1, 2, 3, 6, 9):
        inputs = make(rows)
        torch.testing.assert_close(fast(*inputs), model(*inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["flattened ids", "state", "state first", "batch second", "feed['batch_size']"])
def test_an_example_of_one_row(name: str) -> None:
    cls, make = MODELS[name]
    model = cls().eval()
    fast = recfx.optimize(model, "eager", example_inputs=make(1), measure=False)
    for rows in (1, 2, 5):
        inputs = make(rows)
        torch.testing.assert_close(fast(*inputs), model(*inputs), atol=1e-5, rtol=1e-5)


def test_saved_and_loaded_with_a_batch_size_among_the_inputs(tmp_path: Path) -> None:
    model = BatchSizeInFeed().eval()
    fast = recfx.optimize(model, example_inputs=(feed(6),), measure=False)
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    for rows in (1, 4):
        inputs = feed(rows)
        for compiled in (fast, loaded):
            torch.testing.assert_close(compiled(inputs), model(inputs))
    for wrong in (5, 3, "4", None):
        with pytest.raises(InputError, match=r"expected the size of batch, 4, got") as caught:
            loaded({**feed(4), "batch_size": wrong})
        assert caught.value.where == "input feed['batch_size']"
        assert caught.value.hint == "pass the number of rows of the other inputs as feed['batch_size']"


def test_a_saved_size_names_a_dimension() -> None:
    program = capture(BatchSizeInFeed().eval(), (feed(6),))
    document = to_json(program)[0]["signature"]
    assert decode_signature(document, (), "signature") == program.signature
    next(leaf for leaf in document["leaves"] if leaf["kind"] == "size")["value"] = "width"
    with pytest.raises(ArtifactError, match="'width' is not one of the dimensions batch"):
        decode_signature(document, (), "signature")


class TopK(Base):
    def forward(self, history, k):
        return self.items(history).mean(1).topk(k, 1).values


def test_an_integer_that_equals_the_batch_by_chance_stays_a_constant() -> None:
    model = TopK().eval()
    fast = recfx.optimize(model, example_inputs=(ids(6, 5), 6), measure=False)
    history = ids(3, 5)
    torch.testing.assert_close(fast(history, 6), model(history, 6))
    with pytest.raises(InputError, match="the value 6 was built into the model"):
        fast(history, 3)


class IgnoresItsBatchSize(Base):
    def forward(self, feed):
        return self.items(feed["history"]).mean(1)


class DividesByBatchSize(Base):
    def forward(self, feed):
        return self.items(feed["history"]).sum(1) / feed["batch_size"]


@pytest.mark.parametrize("cls", [IgnoresItsBatchSize, DividesByBatchSize])
def test_a_batch_size_that_fixes_no_shape(cls: type[Base]) -> None:
    model = cls().eval()
    fast = recfx.optimize(model, example_inputs=({"history": ids(6, 5), "batch_size": 6},), measure=False)
    for rows in (1, 3):
        inputs = {"history": ids(rows, 5), "batch_size": rows}
        torch.testing.assert_close(fast(inputs), model(inputs))


def test_an_integer_called_like_the_batch_that_is_not_its_size_gets_a_notice() -> None:
    model = DividesByBatchSize().eval()
    fast = recfx.optimize(model, example_inputs=({"history": ids(6, 5), "batch_size": 4},), measure=False)
    assert (
        "the input feed['batch_size'] = 4 is built in: its name refers to the batch size, but the example has 6 rows"
        in fast.report.notices
    )
    inputs = {"history": ids(3, 5), "batch_size": 4}
    torch.testing.assert_close(fast(inputs), model(inputs))


class LoopsOverRows(Base):
    def forward(self, history):
        return torch.stack([self.items(history[i]).mean(0) for i in range(history.size(0))])


class LoopMended(Base):
    def forward(self, history):
        return self.items(history).mean(1)


class PicksByRow(Base):
    """A constant with different rows is neither a tile nor a range."""

    def forward(self, history):
        weights = torch.tensor([float(i * i) for i in range(len(history))])
        return self.items(history).mean(1) * weights[:, None]


class PicksMended(Base):
    def forward(self, history):
        weights = torch.arange(len(history), dtype=torch.float32) ** 2
        return self.items(history).mean(1) * weights[:, None]


class LiteralSize(Base):
    def forward(self, history):
        return self.items(history).reshape(6, -1)


class LiteralMended(Base):
    def forward(self, history):
        return self.items(history).reshape(history.shape[0], -1)


REFUSED = [
    (
        LoopsOverRows,
        LoopMended,
        "runs another number of operators at another batch size",
        "replace the Python loop over the rows by operators over the whole batch, such as stack, gather or a mask",
    ),
    (
        PicksByRow,
        PicksMended,
        "fixes a dimension that must be free",
        "take the size from x.shape[0] or write -1, never a literal; or pass dynamic_shapes for inputs that do not vary; a part of the "
        "model can be optimized separately: recfx.optimize(model.submodule, ...)",
    ),
    (
        LiteralSize,
        LiteralMended,
        "fixes a dimension that must be free",
        "take the size from x.shape[0] or write -1, never a literal; or pass dynamic_shapes for inputs that do not vary; a part of the "
        "model can be optimized separately: recfx.optimize(model.submodule, ...)",
    ),
]


@pytest.mark.parametrize(("cls", "mended", "what", "hint"), REFUSED)
def test_refused_with_the_mend_that_works(cls: type[Base], mended: type[Base], what: str, hint: str) -> None:
    with pytest.raises(CaptureError, match=what) as caught:
        recfx.optimize(cls().eval(), example_inputs=ids(6, 5), measure=False)
    assert caught.value.hint == hint
    assert "test_hidden_batch.py" in str(caught.value.where)
    model, history = mended().eval(), ids(4, 5)
    torch.testing.assert_close(recfx.optimize(model, example_inputs=ids(6, 5), measure=False)(history), model(history))


@given(
    batches=st.lists(st.integers(2, 99), min_size=3, max_size=3, unique=True),
    factor=st.integers(-99, 99),
    base=st.integers(-999, 999),
    floating=st.booleans(),
)
@settings(deadline=None, max_examples=50)
def test_lines(batches: list[int], factor: int, base: int, floating: bool) -> None:
    values = [factor * b + base for b in batches]
    found = line_through(batches, [float(v) for v in values] if floating else values)
    assert found == Line(factor, base, floating)
    bent = [*values[:2], values[2] + 1]
    assert line_through(batches, bent) is None


@given(dim=st.integers(0, 2), step=st.integers(1, 4), rows=st.integers(2, 6), batch=st.integers(1, 9))
@settings(deadline=None, max_examples=50)
def test_the_arrangement_of_an_input_is_found(dim: int, step: int, rows: int, batch: int) -> None:
    step = step if dim == 0 else 1
    sizes = [13, 17, 19]
    sizes[dim] = rows * step
    leaf, other = torch.arange(float(np.prod(sizes))).reshape(sizes), torch.zeros(rows)

    def run(leaves: Any) -> Any:
        x, y = leaves
        return x.movedim(dim, 0).reshape(y.shape[0], step, -1)

    found = find_arrangement(run, [leaf, other], rows)
    assert found == Arrangement((Axis(dim, step), Axis(0)), frozenset())
    resized = found.resized([leaf, other], rows, batch)[0].movedim(dim, 0).reshape(batch, step, -1)
    apart = leaf.movedim(dim, 0).reshape(rows, step, -1)
    assert all(torch.equal(resized[i], apart[i % rows]) for i in range(batch))


@pytest.mark.parametrize("most", [40, 4000])
def test_a_branch_on_a_hidden_batch_limits_the_program(most: int) -> None:
    """Traces of fixed shapes do not record it, and no batch of the comparison is as large."""

    class Branching(Base):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            places = torch.tensor(list(range(len(x))))[:, None]
            return x * 2 + places if len(x) > most else x.exp() + places

    model = Branching().eval()
    fast = recfx.optimize(model, "eager", example_inputs=torch.randn(6, 3), measure=False)
    assert fast.program.signature.dims["batch"] == (2, most)
    assert [n for n in fast.report.notices if f"limits the program to batches 2 to {most}: it computes larger" in n]
    x = torch.randn(most + 1, 3)
    torch.testing.assert_close(fast(x[:most]), model(x[:most]))
    with pytest.raises(InputError, match="the model treats larger batches in another way"):
        fast(x)
