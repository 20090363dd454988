"""Random models against eager: findings are reported, and a run continues after its stored chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from native_kit import needs_kernels

from benchmarks import random_models
from recfx.errors import MeasureError
from recfx.ir import Program
from recfx.testing import GraphBuilder

aten = torch.ops.aten
pytestmark = needs_kernels


def _masked(*, softmax: bool) -> Program:
    """A linear layer over masked values: -inf, or the softmax of -inf."""
    b = GraphBuilder({"x": ("batch", 4), "mask": (("batch", 4), torch.bool)})
    masked = b.call(aten.masked_fill.Scalar, b.inputs["x"], b.inputs["mask"], float("-inf"))
    masked = b.call(aten.softmax.int, masked, 1) if softmax else masked
    program = b.build(b.call(aten.linear.default, masked, b.state("w", torch.ones(2, 4))))
    program.example[1][:, 1:] = True
    program.example[1][:, :1] = False
    return program


@pytest.mark.parametrize("softmax", [False, True])
def test_infinities_that_are_summed_are_told_from_those_behind_a_softmax(softmax: bool) -> None:
    assert random_models._sums_infinities(_masked(softmax=softmax)) is not softmax


def test_a_wrong_answer_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    program = _masked(softmax=True)
    assert random_models.examine(program) is None
    monkeypatch.setattr(torch.ops.aten.linear.default, "_op", lambda *_: torch.zeros(3, 2))
    found = random_models.examine(_masked(softmax=True))
    assert found is not None
    assert found[0] == "VerificationError"


@pytest.mark.slow
def test_chunks_are_kept_and_gone_on_from(tmp_path: Path) -> None:
    out = tmp_path / "models.jsonl"
    first = list(random_models.measure(4, out, chunk=2))
    assert sorted((c.seed, c.models, len(c.findings)) for c in first) == [(0, 2, 0), (1, 2, 0)]
    assert list(random_models.measure(4, out, chunk=2)) == []
    assert [c.seed for c in random_models.measure(5, out, chunk=2)] == [2]
    assert random_models.summary(random_models.read(out)).startswith("5 random models, 0 findings")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "other.jsonl"
    out.write_text("{}\n")
    with pytest.raises(MeasureError, match="does not hold results of random models"):
        list(random_models.measure(2, out))
