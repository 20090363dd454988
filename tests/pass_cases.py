"""Helpers of the tests of passes: they run one pass on a small model, and check the properties of every pass."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from hypothesis import settings
from other_dims import with_other_dims
from torch import nn

from recfx import zoo
from recfx.capture import capture
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.ir.printer import operator_name
from recfx.ir.program import get_state
from recfx.passes import DEFAULT_PIPELINE
from recfx.pipeline import Pass, Pipeline, PipelineResult

#: Tests that capture a model for each example, which takes a tenth of a second: 10 examples by default, 200 at night.
few_models = settings(deadline=None, max_examples=max(10, settings().max_examples // 10))


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of a pass's table.

    Attributes:
        model: Makes the model, in eval mode.
        inputs: Example inputs.
        fired: The expected number of rewrites.
        after: Operator -> its expected number afterwards.
        reason: For a case that must not fire: part of the expected reason; None if no rule matches the case, so that no
            reason is given.
    """

    model: Callable[[], nn.Module]
    inputs: tuple[torch.Tensor, ...]
    fired: int = 1
    after: dict[str, int] = dataclasses.field(default_factory=dict)
    reason: str | None = ""


class Function(nn.Module):
    """A function of parameters and inputs as a module: `Function(lambda m, x: ..., weight=...)`."""

    def __init__(self, body: Callable[..., Any], **state: Any) -> None:
        super().__init__()
        self.body = body
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.body(self, *inputs)


def program_of(case: Case) -> Program:
    """The captured program of a case. A case that several tests share is captured once per session; each test gets a
    copy of the program."""
    return captured(case.model, case.inputs)


def captured(make: Callable[[], nn.Module], inputs: tuple[torch.Tensor, ...]) -> Program:
    """A copy of the program of the model that `make` builds with torch's seed 0, captured once per session for the same
    arguments."""
    program = _captured(make, inputs)
    torch.manual_seed(0)
    return program.clone()


@lru_cache(maxsize=256)  # tensors are compared by identity; drawn cases occur once, so the oldest are dropped
def _captured(make: Callable[[], nn.Module], inputs: tuple[torch.Tensor, ...]) -> Program:
    torch.manual_seed(0)
    return capture(make(), inputs)


@cache
def small_model(name: str, batch: int, **options: Any) -> tuple[nn.Module, tuple[torch.Tensor, ...], Program]:
    """A small model of the zoo by its class name, example inputs, and its program, captured once per session. Clone the
    program before editing it.
    """
    torch.manual_seed(0)
    model = getattr(zoo, name).small(**options).eval()
    inputs = model.example_inputs(batch)
    return model, inputs, capture(model, inputs)


@cache
def default_program(name: str, batch: int) -> Program:
    """`small_model`'s program after the default pipeline, made once per session. Clone it before editing it."""
    return Pipeline(DEFAULT_PIPELINE).run(small_model(name, batch)[2]).program


def run(item: Pass | str, program: Program) -> PipelineResult:
    """Runs one pass with verification, on a canonical program if the pass prefers it."""
    return Pipeline([item]).run(canonical(item, program))


def canonical(item: Pass | str, program: Program) -> Program:
    """The program in the form that the pass prefers: made canonical if the pass prefers that."""
    wanted = "canonical" in Pipeline([item]).passes[0].spec.prefers - program.properties
    return Pipeline("canonicalize").run(program).program if wanted else program


def operators(program: Program) -> Counter[str]:
    """Operator -> its number in the program."""
    return Counter(operator_name(n.target) for n in program.graph.nodes if n.op == "call_function")


def new_state(before: Program, after: Program) -> list[str]:
    """The parameters and buffers that a program reads and that an earlier program does not hold with the same
    values."""
    names = {str(node.target) for node in after.graph.find_nodes(op="get_attr")}
    held = dict(
        [*before.module.named_parameters(remove_duplicate=False), *before.module.named_buffers(remove_duplicate=False)]
    )
    return [
        name for name in sorted(names) if name not in held or not torch.equal(held[name], get_state(after.module, name))
    ]


def check_fires(item: Pass | str, case: Case, exactness: Exactness) -> Program:
    """Asserts that the pass fires as often as the case says, leaves the operators that the case lists, preserves the
    results on batches 1, 2 and 7, and does nothing in a second run."""
    program = program_of(case)
    result = run(item, program)
    (record,) = result.records
    assert record.fired == case.fired, (record.fired, str(program), record.misses)
    counts = operators(result.program)
    assert {name: counts[name] for name in case.after} == case.after, str(result.program)
    verify_meta(result.program)
    verify_numeric(program, result.program, exactness)
    assert Pipeline([item]).passes[0].spec.changes_state or not new_state(program, result.program)
    again = run(item, result.program)
    assert again.records[0].fired == 0
    assert same_graph(result.program, again.program) is None
    _check_other_dims(item, program, case, exactness)
    return result.program


def _check_other_dims(item: Pass | str, program: Program, case: Case, exactness: Exactness) -> None:
    """Asserts that the pass fires as often, with the same results, where dimensions are counted from the other end."""
    respelled = with_other_dims(program)
    result = run(item, respelled)
    assert result.records[0].fired == case.fired, (result.records[0].fired, str(respelled), result.records[0].misses)
    verify_numeric(program, result.program, exactness)


def check_does_not_fire(item: Pass | str, case: Case) -> None:
    """Asserts that the pass does not change the case, and gives the reason; no reason if the case's reason is None."""
    assert case.reason != "", "name the reason"
    program = program_of(case)
    result = run(item, program)
    (record,) = result.records
    # The pass removes export's own assertions in any case.
    assert [r for r in result.rewrites if r.rule != "assertion"] == []
    reasons = [miss.reason for miss in record.misses]
    if case.reason is None:
        assert reasons == []
    else:
        assert any(case.reason in reason for reason in reasons), (case.reason, reasons)
    assert operators(result.program) <= operators(canonical(item, program))
