"""Batches of calibration data, and runs whose operands are seen and replaced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from channel_cases import VIEWS, Graph, aten

from recfx.errors import InputError
from recfx.ir import Program
from recfx.passes.prune.calibration import along, batches, run_with

X = torch.randn(4, 5)
IDS = torch.randint(0, 9, (4, 3))


def chain() -> Program:
    return VIEWS["chain"].build(Graph())


LABELS = torch.ones(4)


@pytest.mark.parametrize(
    "batch",
    [
        *((X, IDS), [X, IDS], {"x": X, "ids": IDS}),
        *((X, IDS, LABELS), [X, IDS, LABELS], ((X, IDS), LABELS), ({"x": X, "ids": IDS}, LABELS), [[X, IDS], LABELS]),
    ],
)
def test_batches_are_arguments(batch: Any) -> None:
    ((x, ids),) = batches(chain(), [batch])
    assert x is X
    assert ids is IDS


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "no batch"),
        (None, "iterable"),
        (X, "iterable"),
        ([(X[:, :4], IDS)], "x"),
        ([(X, IDS, IDS, IDS)], "positional"),
        ([(X, X)], "ids"),
        ([(torch.full_like(X, torch.nan), IDS)], "batch 0 of the calibration data has NaN"),
    ],
)
def test_wrong_data_is_refused(data: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        list(batches(chain(), data))
    assert caught.value.hint


def test_operands_are_seen_and_replaced_for_one_operator() -> None:
    program = chain()
    seen = []

    def before(node: Any, values: Any) -> Any:
        if node.target is aten.linear.default:
            seen.append(values[node.args[0]].shape[1])
            return {node.args[0]: values[node.args[0]] * 0}
        return {}

    (out,) = run_with(program, [X, IDS], before)
    assert seen == [5, 6, 4]
    bias = program.state()["w6"].detach()
    torch.testing.assert_close(out, bias.expand_as(out))
    (whole,) = run_with(program, [X, IDS], lambda node, values: {})
    torch.testing.assert_close(whole, program.run([X, IDS])[0])


def test_along_gives_a_column_for_each_place() -> None:
    held = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(along(held, 1)[:, 2], held[:, 2].flatten())
    assert along(held, -1).shape == (6, 4)
