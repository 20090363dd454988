"""Passes over graphs with sizes that depend on the inputs' values: where they need to compare such a size, they miss
and give the reason."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

import recfx
from recfx.capture import capture
from recfx.ir import Program
from recfx.passes import FUSED, default_pipeline
from recfx.pipeline import Pass, PassContext, PassSpec, Pipeline, run_pass

REASON = "a size depends on the inputs' values"


class Trimmed(nn.Module):
    """Reads the first columns of padded histories, up to the longest history, and an expanded query."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(20, 4)
        self.query = nn.Linear(3, 4)
        self.scores = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        longest = lengths.max().item()
        torch._check_is_size(longest)
        torch._check(longest <= history.shape[1])
        keys = self.items(history[:, :longest])
        query = self.query(x).unsqueeze(1).expand(-1, longest, -1)
        weights = self.scores(torch.cat([query, keys, query - keys, query * keys], -1))
        mask = torch.arange(longest).unsqueeze(0) < lengths.unsqueeze(1)
        return (weights.masked_fill(~mask.unsqueeze(-1), 0.0) * keys).sum(1)


def inputs(batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    history = torch.randint(0, 20, (batch, 6), generator=rng)
    return torch.randn(batch, 3, generator=rng), history, torch.randint(1, 7, (batch,), generator=rng)


def program() -> Program:
    return capture(Trimmed().eval(), inputs(5))


def test_the_default_pipeline_takes_such_a_model() -> None:
    model = Trimmed().eval()
    fast = recfx.optimize(model, example_inputs=inputs(5), measure=False)
    for batch in (1, 2, 9):
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs(batch, 1)), model(*inputs(batch, 1)), atol=1e-5, rtol=0.0)


def test_no_built_in_pass_raises() -> None:
    result = Pipeline(default_pipeline(requests=False, kernels=FUSED)).run(program())
    assert len(result.records) > 10


def _widths(node: fx.Node, ctx: PassContext) -> Any:
    """Compares the second size of every embedding with one."""
    return node.args[1] if node.meta["val"].shape[1] == 1 else recfx.Miss("wide")


def test_a_rule_that_compares_such_a_size_misses_with_the_reason() -> None:
    rule = recfx.rewrite(torch.ops.aten.embedding.default, name="widths")(_widths)
    before = program()
    after, record = run_pass(rule, before)
    assert [miss.reason for miss in record.misses] == [REASON]
    assert record.fired == 0
    assert len(after.graph.nodes) == len(before.graph.nodes)


class Careless(Pass):
    """Erases unused nodes, then compares a size outside of any rule."""

    spec = PassSpec("careless", "Compares sizes.", exactness=recfx.Exactness.APPROX)

    def run(self, program: Program, ctx: PassContext) -> None:
        for node in ctx.nodes(torch.ops.aten.relu.default):
            if ctx.gate("relu", node):
                ctx.replace(node, node.args[0])  # type: ignore[arg-type]
        for node in ctx.nodes(torch.ops.aten.embedding.default):
            if node.meta["val"].shape[1] == 1:
                ctx.miss("one", node, "one column")


def test_a_pass_that_compares_such_a_size_is_undone_and_recorded_as_a_miss() -> None:
    before = program()
    after, record = run_pass(Careless(), before)
    assert record.fired == 0
    assert [(miss.rule, miss.reason) for miss in record.misses] == [("pass", REASON)]
    assert [n.target for n in after.graph.nodes if n.op == "call_function"] == [
        n.target for n in before.graph.nodes if n.op == "call_function"
    ]
