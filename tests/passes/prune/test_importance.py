"""Importances against their definitions, computed in another way."""

from __future__ import annotations

import pytest
import torch
from channel_cases import PRODUCTS, VIEWS, Graph
from prune_kit import masked_run

from recfx.analysis.channel_groups import channel_groups
from recfx.ir import Program
from recfx.passes.prune.importance import activation_energies, answer_changes, weight_norms
from recfx.testing.inputs import random_leaves


def rows(program: Program, count: int) -> list[torch.Tensor]:
    return random_leaves(program, count, torch.Generator().manual_seed(count))


@pytest.mark.parametrize("power", [1, 2])
def test_norms_are_relative_to_the_mean_of_each_weight(power: int) -> None:
    program = VIEWS["chain"].build(Graph())
    found = channel_groups(program)
    scores = weight_norms(program, found, found.groups, power)
    state = program.state()
    before, after = state["w1"].detach(), state["w3"].detach()
    parts = [w / w.mean() for w in (before.abs().pow(power).sum(1), after.abs().pow(power).sum(0))]
    expected = (sum(parts) / 2) ** (1 / power)  # type: ignore[operator]
    (first, _) = found.groups
    torch.testing.assert_close(torch.tensor([scores[c] for c in first.channels]), expected, rtol=1e-5, atol=1e-6)


def test_tied_weights_count_once() -> None:
    program = PRODUCTS["tied weights"].build(Graph())
    found = channel_groups(program)
    scores = weight_norms(program, found, found.groups, 2)
    assert len(scores) == 4
    assert sum(scores.values()) / 4 == pytest.approx(1, abs=0.3)


def test_energies_are_shares_of_what_a_layer_reads() -> None:
    program = VIEWS["chain"].build(Graph())
    found = channel_groups(program)
    data = rows(program, 50)
    scores = activation_energies(program, found, [data])
    state = program.state()
    hidden = torch.nn.functional.linear(data[0], state["w1"], state["w2"]).detach()
    energy = hidden.square().mean(0) * state["w3"].detach().square().sum(0)
    (first, _) = found.groups
    got = torch.tensor([scores[c] for c in first.channels])
    torch.testing.assert_close(got, (energy / energy.sum()).float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(float(got.sum()), 1.0)


def read_twice() -> Program:
    g = Graph()
    hidden = g.layer(4)
    return g.read(hidden, hidden)


def answers(outputs: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([out.sum(1) for out in outputs]).sum(0)


@pytest.mark.parametrize("name", ["chain", "concatenation", "flattened stack", "read twice"])
def test_changes_of_a_linear_answer_are_those_of_the_masked_run(name: str) -> None:
    """The first-order change is exact where the answer is linear in the channels."""
    program = VIEWS[name].build(Graph()) if name in VIEWS else read_twice()
    found = channel_groups(program)
    data = rows(program, 7)
    scores = answer_changes(program, found, [data])
    exact = answers(program.run(data))
    group = found.groups[-1]
    for channel in group.channels:
        change = answers(masked_run(program, found, [channel], data)) - exact
        torch.testing.assert_close(scores[channel], float(change.double().square().sum()), rtol=1e-3, atol=1e-5)


def test_batches_add_up() -> None:
    program = VIEWS["chain"].build(Graph())
    found = channel_groups(program)
    first, second = rows(program, 5), rows(program, 9)
    both = answer_changes(program, found, [first, second])
    apart = [answer_changes(program, found, [data]) for data in (first, second)]
    for channel, score in both.items():
        assert score == pytest.approx(apart[0][channel] + apart[1][channel], rel=1e-5)
