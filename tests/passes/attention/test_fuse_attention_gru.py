"""fuse-attention-gru: a loop over the cells of DIEN's AUGRU becomes one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_cases import Case, Function, check_does_not_fire, check_fires, default_program, operators, program_of, run
from torch import Tensor, nn

from recfx.ir import Exactness, verify_numeric

L, I, H = 3, 4, 5  # noqa: E741
INPUTS = (torch.randn(3, L, I), torch.rand(3, L))
GONE = {"aten.tanh": 0, "aten.sigmoid": 0, "recfx.attention_gru": 1}

Gates = tuple[Tensor, Tensor, Tensor]


def forms(h: Tensor, u: Tensor, c: Tensor) -> dict[str, Tensor]:
    """The new state in the forms of a cell."""
    return {
        "(1 - u) h + u c": (1 - u) * h + u * c,
        "u c + h (1 - u)": u * c + h * (1.0 - u),
        "h + u (c - h)": h + u * (c - h),
        "h - u h + u c": h - u * h + u * c,
    }


def cell(given: Gates, held: Gates, a: Tensor, h: Tensor, form: str = "(1 - u) h + u c") -> Tensor:
    reset = torch.sigmoid(given[0] + held[0])
    update = torch.sigmoid(given[1] + held[1]) * a
    candidate = torch.tanh(given[2] + reset * held[2])
    return forms(h, update, candidate)[form]


def loop(step: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, a: Tensor) -> list[Tensor]:
    states = [x.new_zeros(x.shape[0], H)]
    for place in range(x.shape[1]):
        states.append(step(x[:, place], a[:, place, None], states[-1]))
    return states[1:]


def deepctr(m: Any, x: Tensor, a: Tensor) -> list[Tensor]:
    """Linears of each step with biases, as in deepctr-torch's AUGRUCell."""
    return loop(lambda v, s, h: cell(m.x(v).chunk(3, 1), m.h(h).chunk(3, 1), s.view(-1, 1), h), x, a)


def whole(m: Any, x: Tensor, a: Tensor, form: str = "(1 - u) h + u c") -> list[Tensor]:
    """One linear over the sequence."""
    return loop(lambda v, s, h: cell(v.chunk(3, 1), m.h(h).chunk(3, 1), s, h, form), m.x(x), a)


def separate(m: Any, x: Tensor, a: Tensor) -> list[Tensor]:
    """A linear for each gate."""
    return loop(
        lambda v, s, h: cell(
            (m.xr(v), m.xu(v), m.xn(v)), (m.hr(h), m.hu(h), m.hn(h)), s, h
        ), x, a
    )  # fmt: skip


def another_order(m: Any, x: Tensor, a: Tensor) -> list[Tensor]:
    """Update, reset, candidate."""

    def step(v: Tensor, s: Tensor, h: Tensor) -> Tensor:
        (ui, ri, ni), (uh, rh, nh) = v.split(H, 1), m.h(h).split(H, 1)
        return cell((ri, ui, ni), (rh, uh, nh), s, h)

    return loop(step, m.x(x), a)


class Shares:
    """Attention [B, L, 1] or [B, L, 1, 1] that is read step by step like one [B, L]."""

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __getitem__(self, place: tuple[slice, int, None]) -> Tensor:
        return self.held.select(1, place[1]).reshape(-1, 1)


def linears(bias: bool = True) -> dict[str, nn.Module]:
    return {"x": nn.Linear(I, 3 * H), "h": nn.Linear(H, 3 * H, bias=bias)}


SEPARATE = {f"{side}{gate}": nn.Linear(I if side == "x" else H, H) for side in "xh" for gate in "run"}


def case(body: Callable[..., Any], **state: Any) -> Case:
    return Case(lambda: Function(body, **state), INPUTS, 1, GONE)


FIRES = {
    "deepctr-torch": case(lambda m, x, a: deepctr(m, x, a)[-1], **linears()),
    "one linear": case(lambda m, x, a: whole(m, x, a)[-1], **linears(False)),
    "one linear, with a bias of the state": case(lambda m, x, a: whole(m, x, a)[-1], **linears()),
    "a linear for each gate": case(lambda m, x, a: separate(m, x, a)[-1], **SEPARATE),
    "another order of the gates": case(lambda m, x, a: another_order(m, x, a)[-1], **linears()),
    "all states": case(lambda m, x, a: torch.stack(whole(m, x, a), 1), **linears()),
    "states read in the loop": case(lambda m, x, a: sum(s.relu() for s in whole(m, x, a)), **linears()),
    "softmax": case(lambda m, x, a: whole(m, x, a.softmax(1))[-1] * 2, **linears()),
    "unbound": case(
        lambda m, x, a: loop(
            lambda v, s, h: cell(v.chunk(3, 1), m.h(h).chunk(3, 1), s, h), torch.stack(m.x(x).unbind(1), 1), a
        )[-1], **linears(),
    ),
    "attention of three dimensions": case(
        lambda m, x, a: loop(
            lambda v, s, h: cell(v.chunk(3, 1), m.h(h).chunk(3, 1), s, h), m.x(x), Shares((a * 2)[:, :, None])  # type: ignore[arg-type]
        )[-1], **linears(),
    ),
    **{form: case(lambda m, x, a, form=form: whole(m, x, a, form)[-1], **linears()) for form in list(forms(*[torch.ones(1)] * 3))[1:]},
}  # fmt: skip

LEAVES_ALONE: dict[str, tuple[Callable[..., Any], str | None]] = {
    "one step": (lambda m, x, a: whole(m, x[:, :1], a[:, :1])[-1], "not part of a loop"),
    "no attention": (
        lambda m, x, a: loop(lambda v, s, h: cell(v.chunk(3, 1), m.h(h).chunk(3, 1), 1.0, h), m.x(x), a)[-1], None  # type: ignore[arg-type]
    ),
    "an attention of each column": (
        lambda m, x, a: loop(lambda v, s, h: cell(v.chunk(3, 1), m.h(h).chunk(3, 1), v[:, :H], h), m.x(x), a)[-1], None
    ),
    "a gate without the state": (
        lambda m, x, a: loop(
            lambda v, s, h: cell(v.chunk(3, 1), (v[:, :H], *m.h(h).chunk(3, 1)[1:]), s, h), m.x(x), a
        )[-1], None
    ),
    "another activation": (
        lambda m, x, a: loop(lambda v, s, h: (1 - s) * h + s * torch.relu(v[:, :H] + m.h(h)[:, :H]), m.x(x), a)[-1], None
    ),
    "steps at places that depend on the batch": (
        lambda m, x, a: placed(m, x, a, lambda i: ((x.shape[0] + i) % L, i)), None
    ),
    "attention at places that depend on the batch": (
        lambda m, x, a: placed(m, x, a, lambda i: (i, (x.shape[0] + i) % L)), None
    ),
    "steps of another order than their attention": (lambda m, x, a: placed(m, x, a, lambda i: (i, L - 1 - i)), "not part of a loop"),
    "steps in the last dimension": (
        lambda m, x, a: loop(
            lambda v, s, h: cell(v, m.h(h).chunk(3, 1), s, h), Turned(m.x(x).transpose(1, 2), x), a  # type: ignore[arg-type]
        )[-1], None,
    ),
    "attention of a tensor of another rank": (
        lambda m, x, a: loop(
            lambda v, s, h: cell(v.chunk(3, 1), m.h(h).chunk(3, 1), s, h), m.x(x), Shares((a * 2)[:, :, None, None])  # type: ignore[arg-type]
        )[-1], None,
    ),
    "a step of a tensor of another rank": (
        lambda m, x, a: loop(
            lambda v, s, h: cell(v.flatten(1).chunk(3, 1), m.h(h).chunk(3, 1), s, h),
            m.x(x).reshape(x.shape[0], L, 3, H) * 2, a
        )[-1], None,
    ),
}  # fmt: skip


class Turned:
    """A sequence [B, columns, L] that is read step by step like one [B, L, columns]; a step is its three gates."""

    def __init__(self, held: Tensor, like: Tensor) -> None:
        self.held, self.shape, self.new_zeros = held, like.shape, like.new_zeros

    def __getitem__(self, place: tuple[slice, int]) -> Any:
        return self.held.select(2, place[1]).chunk(3, 1)


def placed(m: Any, x: Tensor, a: Tensor, places: Callable[[int], tuple[Any, Any]]) -> Tensor:
    """A loop whose steps and shares of attention are read at given places."""
    given, h = m.x(x), x.new_zeros(x.shape[0], H)
    for step in range(L):
        of_step, of_share = places(step)
        h = cell(given.select(1, of_step).chunk(3, 1), m.h(h).chunk(3, 1), a.select(1, of_share)[:, None], h)
    return h


@pytest.mark.parametrize("name", FIRES)
def test_fires(name: str) -> None:
    check_fires("fuse-attention-gru", FIRES[name], Exactness.REASSOC)


@pytest.mark.parametrize(
    ("name", "joins"),
    [("one linear", 0), ("deepctr-torch", 0), ("another order of the gates", 1), ("a linear for each gate", 1)],
)
def test_gates_of_one_linear_are_read_as_they_are(name: str, joins: int) -> None:
    """Only gates in another order, or of several linears, are cut out and joined."""
    program = program_of(FIRES[name])
    result = run("fuse-attention-gru", program).program
    assert operators(result).get("aten.cat", 0) == joins
    added = [key for key in result.state() if key.endswith("gates")]
    assert len(added) == joins


@pytest.mark.parametrize("name", LEAVES_ALONE)
def test_leaves_alone(name: str) -> None:
    body, reason = LEAVES_ALONE[name]
    check_does_not_fire("fuse-attention-gru", Case(lambda: Function(body, **linears()), INPUTS, reason=reason))


def test_steps_out_of_order_are_separate_loops() -> None:
    """A loop from the last step to the first is left alone."""

    def backwards(m: Any, x: Tensor, a: Tensor) -> Tensor:
        given, h = m.x(x), x.new_zeros(x.shape[0], H)
        for place in reversed(range(L)):
            h = cell(given[:, place].chunk(3, 1), m.h(h).chunk(3, 1), a[:, place, None], h)
        return h

    check_does_not_fire("fuse-attention-gru", Case(lambda: Function(backwards, **linears()), INPUTS, reason="not part"))


def test_tied_weights_of_two_loops() -> None:
    def twice(m: Any, x: Tensor, a: Tensor) -> Tensor:
        first = torch.stack(whole(m, x, a), 1)
        return whole(m, x * 2, a)[-1] + first.sum(1)

    program = program_of(Case(lambda: Function(twice, **linears(False)), INPUTS))
    result = run("fuse-attention-gru", program).program
    assert operators(result)["recfx.attention_gru"] == 2
    verify_numeric(program, result, Exactness.REASSOC)


def test_models_of_the_zoo() -> None:
    program = default_program("DIEN", 4)
    result = run("fuse-attention-gru", program).program
    assert operators(result)["recfx.attention_gru"] == 1
    assert operators(result)["aten.tanh"] == 0
    verify_numeric(program, result, Exactness.REASSOC)


@settings(deadline=None, max_examples=6)
@given(
    length=st.integers(2, 5),
    first=st.integers(0, 2),
    form=st.sampled_from(list(forms(*[torch.ones(1)] * 3))),
    bias=st.booleans(),
    every=st.booleans(),
)
def test_any_part_of_a_sequence(length: int, first: int, form: str, bias: bool, every: bool) -> None:
    def body(m: Any, x: Tensor, a: Tensor) -> Tensor:
        given, states = m.x(x), [x[:, 0, :1].expand(-1, H)]
        for place in range(first, first + length):
            gates = given[:, place].chunk(3, 1), m.h(states[-1]).chunk(3, 1)
            states.append(cell(*gates, a[:, place, None], states[-1], form))
        return torch.stack(states[1:], 1) if every else states[-1]

    inputs = (torch.randn(3, length + 2, I), torch.rand(3, length + 2))
    program = program_of(Case(lambda: Function(body, **linears(bias)), inputs))
    result = run("fuse-attention-gru", program).program
    assert operators(result)["recfx.attention_gru"] == 1
    verify_numeric(program, result, Exactness.REASSOC)
