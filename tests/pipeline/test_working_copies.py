"""Copies of the graph that passes edit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recfx.capture import capture
from recfx.ir import program as program_module
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.pipeline import Pass, PassContext, PassSpec, Pipeline
from recfx.pipeline.copies import WorkingCopies
from recfx.pipeline.pipeline import run_pass

_aten = torch.ops.aten


class _Model(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """[B, 3] -> [B, 3]."""
        return torch.relu(torch.relu(x) + 1)


@dataclasses.dataclass(frozen=True)
class _Idle(Pass):
    spec = PassSpec("idle", "Changes nothing.", idempotent=False)

    def run(self, program: Program, ctx: PassContext) -> None:
        """Looks at the nodes."""
        ctx.nodes()


@dataclasses.dataclass(frozen=True)
class _Silent(Pass):
    """Changes the graph without asking the gate."""

    spec = PassSpec("silent", "Drops a relu.")

    def run(self, program: Program, ctx: PassContext) -> None:
        """Drops the first relu whose input is one."""
        node = ctx.nodes(_aten.relu.default)[0]
        ctx.replace(node, node.args[0])  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class _Renames(Pass):
    """Leaves an equal graph with another recorded value."""

    spec = PassSpec("renames", "Records other values.")

    def run(self, program: Program, ctx: PassContext) -> None:
        """Copies a recorded value."""
        node = ctx.nodes(_aten.relu.default)[0]
        node.meta["val"] = node.meta["val"].clone()


@pytest.mark.parametrize("count", [1, 10])
def test_passes_that_change_nothing_share_one_copy(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture(_Model().eval(), (torch.randn(4, 3),))
    made: list[Any] = []
    plain = program_module.copy_module
    monkeypatch.setattr(program_module, "copy_module", lambda module: made.append(module) or plain(module))
    result = Pipeline([_Idle()] * count).run(program).program
    assert len(made) == 2
    assert result.module is not program.module


def test_a_change_without_the_gate_is_kept_and_reaches_no_earlier_program() -> None:
    program = capture(_Model().eval(), (torch.randn(4, 3),))
    x = torch.randn(4, 3)
    result = Pipeline([_Idle(), _Silent(), _Idle()]).run(program, verify=Level.STRUCTURE).program
    assert result.operator_count() == program.operator_count() - 1
    torch.testing.assert_close(program(x), _Model()(x))


def test_a_copy_with_other_values_is_not_used_again() -> None:
    program = capture(_Model().eval(), (torch.randn(4, 3),))
    seen: list[int] = []

    @dataclasses.dataclass(frozen=True)
    class Looks(Pass):
        spec = PassSpec("looks", "Notes a recorded value.")

        def run(self, program: Program, ctx: PassContext) -> None:
            """Notes which value is recorded."""
            seen.append(id(ctx.nodes(_aten.relu.default)[0].meta["val"]))

    Pipeline([Looks(), _Renames(), Looks()]).run(program)
    assert seen[0] == seen[1]


def _last(program: Program) -> Any:
    """The last operator."""
    return [node for node in program.graph.nodes if node.op == "call_function"][-1]


def _rewires(program: Program) -> None:
    """Reads the input in place of the last value but one."""
    last = _last(program)
    last.args = (program.placeholders()[0],)


def _rewires_and_back(program: Program) -> None:
    """Rewires a node and undoes it."""
    last = _last(program)
    before = last.args
    _rewires(program)
    last.args = (before[0],)


def _adds_an_unread_node(program: Program) -> None:
    with program.graph.inserting_after(program.placeholders()[0]):
        program.graph.call_function(_aten.relu.default, (program.placeholders()[0],)).meta.update(
            program.placeholders()[0].meta
        )


def _renames_an_operator(program: Program) -> None:
    _last(program).target = _aten.sigmoid.default


def _replaces_the_state(program: Program) -> None:
    name = next(iter(program.state()))
    program_module.set_state(program.module, name, torch.zeros(3))


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3] -> [B, 3]."""
        return torch.relu(torch.relu(x) * self.scale)


@pytest.mark.parametrize(
    ("edit", "changes"),
    [
        (_rewires, True),
        (_rewires_and_back, False),
        (_renames_an_operator, True),
        (_replaces_the_state, True),
        (_adds_an_unread_node, False),  # swept behind the pass
        (lambda program: None, False),
    ],
    ids=["rewired", "rewired back", "another operator", "another tensor", "unread", "untouched"],
)
def test_a_change_without_the_gate_is_found(edit: Any, changes: bool) -> None:
    program = capture(_Scaled().eval(), (torch.randn(4, 3),))

    @dataclasses.dataclass(frozen=True)
    class Edits(Pass):
        spec = PassSpec("edits", "Edits the graph behind the gate's back.")

        def run(self, program: Program, ctx: PassContext) -> None:
            """Edits the graph."""
            edit(program)

    copies = WorkingCopies()
    for _ in range(2):  # the second time on a copy that an idle pass left
        untouched, _ = run_pass(_Idle(), program, verify=Level.OFF, copies=copies)
        assert untouched.module is program.module
        after, _ = run_pass(Edits(), program, verify=Level.OFF, copies=copies)
        assert (after.module is not program.module) == changes
