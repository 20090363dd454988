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
