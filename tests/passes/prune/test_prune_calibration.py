"""Batches of calibration data, and runs whose operands are seen and replaced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from channel_cases import VIEWS, Graph, aten

from recfx.capture import capture
from recfx.capture.capture_one_row import capture_one_row
from recfx.errors import IdError, InputError
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
        {"click": LABELS, "ids": IDS, "x": X},
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
        (
            [(X, IDS), {"x": X, "click": LABELS}],
            "batch 1 of the calibration data does not fit the model: missing argument.*'ids'",
        ),
        ([(torch.full_like(X, torch.nan), IDS)], "batch 0 of the calibration data has NaN"),
    ],
)
def test_wrong_data_is_refused(data: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        list(batches(chain(), data))
    assert caught.value.hint


class OneDict(torch.nn.Module):
    def forward(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        return features["x"].sum(1) + features["ids"].sum(1)


@pytest.mark.parametrize(
    "batch",
    [
        *({"ids": IDS, "x": X}, ({"x": X, "ids": IDS},), ({"x": X, "ids": IDS}, LABELS)),
        *({"click": LABELS, "ids": IDS, "x": X}, ({"x": X, "ids": IDS, "click": LABELS}, LABELS)),
    ],
)
def test_a_dict_that_is_the_one_argument_may_hold_more_than_the_inputs(batch: Any) -> None:
    program = capture(OneDict().eval(), ({"x": X, "ids": IDS},))
    ((x, ids),) = batches(program, [batch])
    assert x is X
    assert ids is IDS
    with pytest.raises(InputError, match="lacks 'x'"):
        list(batches(program, [{"ids": IDS, "click": LABELS}]))


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


class DropsOneRow(torch.nn.Module):
    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return (x.sum(1, keepdim=True) + ids.sum(1, keepdim=True)).squeeze()


def test_a_program_of_one_row_gets_the_rows_one_by_one() -> None:
    model = DropsOneRow().eval()
    whole = capture(model, (X, IDS))
    one = capture_one_row(model, (X, IDS), {}, whole)
    assert isinstance(one, Program)
    found = list(batches(one, [(X, IDS, LABELS)]))
    assert torch.equal(torch.cat([x for x, _ in found]), X)
    assert torch.equal(torch.cat([ids for _, ids in found]), IDS)
    assert len(list(batches(one, [(X.repeat(40, 1), IDS.repeat(40, 1))]))) == 64
    with pytest.raises(InputError, match="batch 0 of the calibration data does not fit"):
        list(batches(one, [(X, IDS[:3])]))


def test_ids_outside_a_table_are_refused_and_the_table_is_named() -> None:
    program = capture(torch.nn.Sequential(torch.nn.Embedding(9, 4)).eval(), (IDS[:, 0],))
    with pytest.raises(IdError, match="outside its table") as caught:
        run_with(program, [torch.tensor([9])], lambda node, values: {})
    assert caught.value.where == "0.weight"
