"""Effects of rules on a plan: steps that readers absorb, steps of rules that give up, weights that plans share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from native_kit import LEVELS, lower, needs_kernels, partition, program_of
from torch import Tensor, fx

from recfx.kernels.codes import Op
from recfx.runtime.flat import flat_function
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.rules.pointwise import lower_pointwise
from recfx.targets.native.rules.registry import RULES, rule
from recfx.targets.native.steps import Operation
from recfx.targets.native.values import Unsupported
from recfx.targets.native.weights import Packer

pytestmark = needs_kernels
aten = torch.ops.aten

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "turned twice": lambda a: a.t().t(),
    "another dimension and back": lambda a: a.unsqueeze(1).squeeze(1),
    "the only part": lambda a: a.unsqueeze(1).unbind(1)[0],
    "the first of one": lambda a: a.unsqueeze(1)[:, 0],
}


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_read_under_another_name_as_well_is_not_absorbed(name: str) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        a = x.relu()
        return VIEWS[name](a) * 2, a + 1

    x = torch.randn(4, 6)
    run = lower(program_of(function, [x]))
    for found, expected in zip(run(x), function(x), strict=True):
        assert torch.equal(found, expected)


def test_chains_are_one_step() -> None:
    program = program_of(lambda x, y: (x.relu() * 2 + y).abs(), [torch.randn(4, 6), torch.randn(4, 6)])
    steps = [
        len(n.target.plan.steps) for n in partition(program, LEVELS[0]).region.graph.nodes if n.op == "call_function"
    ]
    assert steps == [1]


def test_a_rule_that_gives_up_halfway_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def gives_up(builder: PlanBuilder, node: fx.Node) -> None:
        lower_pointwise(builder, node, [node.args[0]], [Operation(Op.ADD_C, 0, 0, 1.0)])
        raise Unsupported("it changed its mind")

    monkeypatch.setitem(RULES, aten.tanh.default, gives_up)
    function = lambda x: (x * 3).tanh() * 2  # noqa: E731
    x = torch.randn(4, 6)
    made = partition(program_of(function, [x]), LEVELS[0])
    assert list(made.refused.values()) == ["it changed its mind"]
    assert made.plans == 2
    torch.testing.assert_close(flat_function(made.region)(x)[0], function(x))


def test_plans_share_what_they_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Tensor] = []
    pack = Packer.pack

    def counted(self: Packer, weight: Tensor) -> Tensor:
        packed.append(weight)
        return pack(self, weight)

    monkeypatch.setattr(Packer, "pack", counted)

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        middle = torch.nn.functional.linear(x, w, b).logcumsumexp(1)  # which has no kernel
        return torch.nn.functional.linear(middle, w, b)

    x, state = torch.randn(4, 6), [torch.randn(6, 6), torch.randn(6)]
    made = partition(program_of(function, [x], state), LEVELS[0])
    assert made.plans == 2
    assert len(packed) == 1
    torch.testing.assert_close(flat_function(made.region)(x)[0], function(x, *state), rtol=1e-4, atol=1e-4)


def test_the_reason_says_whose_rank_varies() -> None:
    def function(x: Tensor) -> Any:
        return x.squeeze().relu(), x * 2

    batch = torch.export.Dim("batch", min=1, max=100)
    program = program_of(function, [torch.randn(4, 6)], dynamic_shapes=(({0: batch},),))
    made = partition(program, LEVELS[0])
    reasons = {str(node.target): reason for node, reason in made.refused.items()}
    assert reasons["aten.squeeze.default"] == "its rank depends on the batch"
    assert reasons["aten.relu.default"] == "it reads squeeze, whose rank may depend on the batch"


def test_a_second_rule_for_an_operator_is_an_error() -> None:
    with pytest.raises(ValueError, match="has a rule already"):
        rule(torch.ops.aten.relu.default)(lambda builder, node: None)
    with pytest.raises(ValueError, match="has no rule to replace"):
        rule(torch.ops.aten.bernoulli.default, replaces=True)(lambda builder, node: None)
