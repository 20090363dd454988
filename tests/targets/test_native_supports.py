"""The verdicts of the native backend's dry run, compared with its lowering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from native_kit import LEVELS, needs_kernels, partition, program_of
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from recfx.capture import capture
from recfx.driver.placed import lower_regions
from recfx.ir import Program
from recfx.ir.region import Region, split
from recfx.passes import NATIVE_PIPELINE
from recfx.pipeline import Pipeline
from recfx.runtime.flat import flat_function
from recfx.runtime.schedule import schedule
from recfx.targets import EagerBackend, NativeBackend, Refused
from recfx.targets.base import is_operator
from recfx.targets.native.weights import Packer
from recfx.testing import rec_graphs
from recfx.zoo import MODELS

pytestmark = needs_kernels
NATIVE = NativeBackend()


@settings(deadline=None, max_examples=40)
@given(program=rec_graphs(max_steps=14))
def test_lowering_takes_what_the_dry_run_says(program: Program) -> None:
    """Every operator has a verdict, every region of supported operators is one plan, and the answers are the program's."""
    verdicts = NATIVE.supports(program)
    operators = [node for node in program.graph.nodes if is_operator(node)]
    assert set(operators) <= set(verdicts)
    assert all(bool(verdict) is not bool(verdict.reason) for verdict in verdicts.values())
    found = split(program, {node: "native" if verdicts[node] else "eager" for node in operators})
    backends = {"native": NATIVE, "eager": EagerBackend()}
    lowered = lower_regions(found, lambda index, region: backends[found.backends[index]].lower(region))
    for region in lowered:
        if region.backend == "native":
            plans = [node for node in region.body.graph.nodes if hasattr(node.target, "plan")]
            views_alone = len(found.regions) == 1 and not plans
            assert len(plans) == 1 or views_alone
    run = schedule(found, [region.body for region in lowered])
    for got, want in zip(run(*program.example), flat_function(program)(*program.example), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4, equal_nan=True)


@settings(deadline=None, max_examples=15)
@given(program=rec_graphs(max_steps=10))
def test_the_dry_run_changes_nothing_and_says_the_same_again(program: Program) -> None:
    before = str(program)
    first, second = NATIVE.supports(program), NATIVE.supports(Region.whole(program))
    assert first == second
    assert str(program) == before


class _Copies(TorchDispatchMode):
    """The tensors of several elements that operators make in main memory."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.device.type == "cpu" and found.numel() > 1 and not found._is_view():
            self.made.append(f"{func} {tuple(found.shape)}")
        return found


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_dry_run_packs_and_copies_no_weight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = MODELS[name].small().eval()  # type: ignore[attr-defined]
    program = Pipeline(NATIVE_PIPELINE).run(capture(model, model.example_inputs(5), {})).program
    packed: list[Tensor] = []
    monkeypatch.setattr(Packer, "pack", lambda self, weight: packed.append(weight))
    with _Copies() as copies:
        verdicts = NATIVE.supports(program)
    assert any(verdicts.values())
    assert not packed
    assert not copies.made


def test_a_rule_that_reads_numbers_of_a_weight_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from recfx.targets.native.builder import PlanBuilder
    from recfx.targets.native.rules.registry import RULES

    sound = RULES[torch.ops.aten.linear.default]
    sums: list[float] = []

    def reads(builder: PlanBuilder, node: fx.Node) -> None:
        sums.append(float(builder.tensor(node.args[1]).sum()))
        sound(builder, node)

    monkeypatch.setitem(RULES, torch.ops.aten.linear.default, reads)
    weight = torch.randn(3, 4)
    program = program_of(lambda x, w: torch.nn.functional.linear(x, w), [torch.randn(2, 4)], [weight])
    assert all(NATIVE.supports(program).values())
    assert sums == [float(weight.sum())]


def _running_maximum(x: Tensor) -> Tensor:
    return torch.cummax(x, -1).values


#: Name -> function of [batch, 4], with the most plans that it needs.
MIXED: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "torch between two plans": (lambda x: _running_maximum(x.relu()) * 2, 2),
    "torch first": (lambda x: _running_maximum(x).relu() * 2, 1),
    "torch last": (lambda x: _running_maximum(x.relu() * 2), 1),
    "torch beside a plan": (lambda x: _running_maximum(x) + x.relu(), 1),
    "two chains": (lambda x: (_running_maximum(x.relu()).tanh(), _running_maximum(x).relu().sum(1, keepdim=True)), 2),
    "views between two operators of torch": (
        lambda x: _running_maximum(_running_maximum(x)[:, 1:3].unsqueeze(1)).relu(),
        1,
    ),
    "a view that torch and a plan read": (lambda x: (_running_maximum(x[:, 1:]), x[:, 1:].relu()), 1),
    "a view that leaves": (lambda x: (x[:, 1:], x.relu()), 1),
    "parts": (lambda x: (_running_maximum(x.chunk(2, 1)[0]), x.chunk(2, 1)[1].relu()), 1),
    "sizes of computed tensors": (lambda x: _running_maximum(x.relu()).reshape(x.relu().shape[0], 2, 2).tanh(), 2),
    "the batch inside": (lambda x: (x.relu().t().reshape(-1), x.relu() * 2), 2),
    "a tensor of the batch from a size": (lambda x: (_running_maximum(x), torch.ones(x.shape[0], 4).relu() * 3), 1),
    "a multiple of the batch from a size": (
        lambda x: (_running_maximum(x), (torch.ones(x.shape[0] * 2, 4) * 2).reshape(-1, 8)),
        1,
    ),
    "a constant for every row": (lambda x: (_running_maximum(x), torch.arange(4.0).expand(x.shape[0], 4) * 2), 1),
    "row numbers": (lambda x: (_running_maximum(x), torch.arange(x.shape[0]) * 2), 1),
    "parts and positions": (lambda x: (x.relu().max(1).values, _running_maximum(x).max(1)[1], *x.chunk(2, 1)), 2),
    "rows that data chooses": (lambda x: x.relu()[x.relu().sum(1) > 0.5] * 2, 1),
    "torch alone": (_running_maximum, 0),
}


@pytest.mark.parametrize("name", MIXED)
def test_regions_of_mixed_programs(name: str) -> None:
    function, most = MIXED[name]
    for level in LEVELS:
        made = partition(program_of(function, [torch.randn(5, 4)]), level)
        assert made.plans <= most
        run = flat_function(made.region)
        for rows in (1, 2, 5, 70):
            x = torch.randn(rows, 4)
            wanted = function(x)
            for got, want in zip(run(x), wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_a_plan_without_tensors_of_the_batch_is_told_by_a_size() -> None:
    function = MIXED["a tensor of the batch from a size"][0]
    made = partition(program_of(function, [torch.randn(5, 4)]), LEVELS[0])
    (call,) = made.calls
    assert [isinstance(source.meta["val"], torch.SymInt) for source in call.args] == [True]


def test_a_region_with_an_operator_that_no_plan_holds_is_refused_with_its_reason() -> None:
    program = program_of(lambda x: _running_maximum(x.relu()) * 2, [torch.randn(5, 4)])
    with pytest.raises(Refused) as caught:
        NATIVE.lower(Region.whole(program))
    assert caught.value.reasons == {"cummax": "no kernel for aten.cummax.default"}
    by_name = {node.name: verdict.reason for node, verdict in NATIVE.supports(program).items() if not verdict}
    assert by_name == caught.value.reasons
