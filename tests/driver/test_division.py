"""Calls in parts of their rows, with what depends on request inputs computed once for all parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import recfx
from recfx import zoo
from recfx.driver.division import Division
from recfx.driver.request_side import RequestSide

#: Model of the zoo -> its request inputs.
REQUESTS = {
    "din": ("user", "history"),
    "dien": ("user", "history"),
    "bst": ("user", "history"),
    "two-tower": ("user", "history"),
    "sasrec": ("history",),
}


def made(name, target="native", **options):
    torch.manual_seed(0)
    model = zoo.MODELS[name].small().eval()
    example = model.example_inputs(8)
    return model, recfx.optimize(model, example_inputs=example, target=target, measure=False, **options)


@pytest.fixture(scope="module")
def requests():
    """Name -> the user's model, and the one that is compiled with request inputs."""
    return {name: made(name, request_inputs=given) for name, given in REQUESTS.items()}


def one_request(model, fast, rows):
    """Flat inputs of one request, and those that the user's model takes for it."""
    signature = fast.parts.program.signature
    whole = dict(zip(signature.parameters, model.example_inputs(rows), strict=True))
    leaves = [whole[leaf.name][:1] if leaf.shape[0] == 1 else whole[leaf.name] for leaf in signature.leaves]
    repeated = [leaf.expand(rows, *leaf.shape[1:]) if leaf.shape[0] == 1 else leaf for leaf in leaves]
    return leaves, repeated


def in_parts(division, run, leaves, bounds, side):
    held = division.side.values(leaves) if side else None
    found = []
    for start, end in bounds:
        cut = division.cut(leaves, start, end)
        found.append(division.side.rows(cut, held) if side else run(*cut))
    return division.joined(found)


@given(data=st.data(), name=st.sampled_from(sorted(REQUESTS)), rows=st.integers(2, 60), side=st.booleans())
def test_any_parts_give_the_outputs_of_one_call(requests, data, name, rows, side):
    model, fast = requests[name]
    division = fast.parts.division
    assert isinstance(division, Division)
    assert isinstance(division.side, RequestSide), division.side
    leaves, repeated = one_request(model, fast, rows)
    cuts = sorted(data.draw(st.sets(st.integers(division.least_rows, rows - 1), max_size=4)))
    bounds = list(zip([0, *cuts], [*cuts, rows], strict=True))
    if any(end - start < division.least_rows for start, end in bounds):
        bounds = [(0, rows)]
    (found,) = in_parts(division, fast.parts.run, leaves, bounds, side)
    (whole,) = fast.parts.run(*leaves)
    with torch.no_grad():
        torch.testing.assert_close(found, model(*repeated), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
    if not side and name in ("din", "two-tower"):
        assert torch.equal(found, whole)  # kernels that compute each row alone


@pytest.mark.parametrize("target", ["native", "eager"])
def test_the_request_side_shares_the_weights_of_the_model(target):
    _, fast = made("din", target, request_inputs=REQUESTS["din"])
    side = fast.parts.division.side
    assert isinstance(side, RequestSide)
    table = next(t for name, t in fast.program.state().items() if name.endswith("item.weight"))
    with torch.no_grad():
        leaves = list(fast.parts.exemplified.example)
        before = side.rows(leaves, side.values(leaves))
        table.mul_(2.0)  # the side reads the same memory as the program
        after, whole = side.rows(leaves, side.values(leaves)), fast.parts.run(*leaves)
    assert not torch.equal(before[0], after[0])
    torch.testing.assert_close(after[0], whole[0], rtol=1e-4, atol=1e-5)


class UserVector(nn.Module):
    """Returns what depends on the user alone beside the scores."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(20, 4), nn.Embedding(20, 4)
        self.tower = nn.Linear(4, 4)

    def forward(self, user, item):
        vector = torch.tanh(self.tower(self.users(user)))
        return (vector * self.items(item)).sum(1), vector


class Mixed(nn.Module):
    """Has an operator without a native kernel between two with one."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(20, 4), nn.Embedding(20, 4)
        self.tower, self.top = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, user, item):
        scores = torch.relu(self.tower(self.users(user))) * self.items(item)
        return self.top(torch.lgamma(scores)).sum(1)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(20, 4)

    def forward(self, user, item):
        return (self.items(item) * self.items(user)).sum(1)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def compiled(model, inputs, target="native", **options):
    return recfx.optimize(model.eval(), example_inputs=inputs, target=target, measure=False, **options).parts


IDS = torch.arange(6), torch.arange(6) + 6

#: Reason -> a model that is not divided, or has no side of its own.
REFUSED = {
    "rows of an output may depend on one another": lambda: compiled(Centred(), (torch.rand(4, 3),)).division,
    "nothing is computed from request inputs alone": lambda: compiled(Plain(), IDS).division.side,
    "the model runs on eager, native": lambda: compiled(Mixed(), IDS, request_inputs=("user",)).division.side,
}


@pytest.mark.parametrize("reason", sorted(REFUSED))
def test_what_is_not_divided_has_a_reason(reason):
    found = REFUSED[reason]()
    assert isinstance(found, str)
    assert reason in found


def test_an_output_of_the_request_alone_has_a_row_for_each_candidate():
    model = UserVector().eval()
    parts = compiled(model, IDS, request_inputs=("user",))
    division = parts.division
    assert isinstance(division, Division)
    user, item = torch.tensor([3]), torch.arange(7)
    with torch.no_grad():
        scores, vector = model(user.expand(7), item)
    found = in_parts(division, parts.run, [user, item], [(0, 3), (3, 7)], side=False)
    torch.testing.assert_close(found[0], scores)
    torch.testing.assert_close(found[1], vector)
    assert isinstance(division.side, RequestSide)
    found = in_parts(division, parts.run, [user, item], [(0, 3), (3, 7)], side=True)
    torch.testing.assert_close(found[0], scores)
    torch.testing.assert_close(found[1], vector)


def test_a_division_is_made_once(requests):
    _, fast = requests["din"]
    assert fast.parts.division is fast.parts.division
    assert fast.parts.division.side is fast.parts.division.side
