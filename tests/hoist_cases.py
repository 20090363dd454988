"""Helpers of the hoist-requests tests: small programs with request inputs, and the checks of every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pass_cases import Function, run
from torch import Tensor, nn

from recfx.analysis.batch_axis import rows_of
from recfx.capture import capture
from recfx.capture.requests import share_requests
from recfx.ir import Exactness, Program, same_graph, verify_meta, verify_numeric
from recfx.passes import HoistRequests

PASS = HoistRequests(least_columns=1, least_fields=1)
R, C = torch.randn(5, 6), torch.randn(5, 4)
KEYS, QUERY = torch.randn(5, 7, 4), torch.randn(5, 4)


def shared(body: Callable[..., Any], inputs: tuple[Tensor, ...], *, many: bool = False, **state: Any) -> Program:
    """The program of a function whose first input belongs to the request."""
    torch.manual_seed(0)
    program = capture(Function(body, **state), inputs)
    return share_requests(program, [program.signature.leaves[0].name], many=many)


def narrow_share(program: Program, target: Any) -> tuple[int, int]:
    """Returns how many operators of a kind compute one row per request, and how many compute all candidates."""
    batch = next(reversed(program.placeholders())).meta["val"].shape[0].node.expr
    found = [rows_of(n.meta["val"], batch) is not None for n in program.graph.nodes if n.target is target]
    return found.count(False), found.count(True)


def check(program: Program, item: Any = PASS) -> Program:
    """Runs the pass, and checks that the result verifies, computes the same, and does not change in a second run."""
    result = run(item, program).program
    verify_meta(result)
    verify_numeric(program, result, Exactness.REASSOC, extremes=[])  # splitting q - k changes the results of infinities
    again = run(item, result)
    assert again.records[0].fired == 0, [str(r) for r in again.rewrites]
    assert same_graph(result, again.program) is None
    return result


def linear(out: int, width: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, out, bias=bias)
