"""Assertions about numbers that a model reads from its inputs stay; assertions that every input satisfies go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import recfx
from recfx.capture import capture
from recfx.errors import InputError
from recfx.passes.clean.canonicalize import Canonicalize
from recfx.pipeline import run_pass


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)


class Bounded(_Model):
    def forward(self, x, n):
        torch._check(n.max().item() <= 9)
        return self.head(x) * n.float().mean()


class Factor(_Model):
    def forward(self, x, n):
        k = n.sum().item()
        torch._check(k >= 0)
        return self.head(x) * k


class Order(_Model):
    def forward(self, x, n):
        low, high = n.min().item(), n.max().item()
        torch._check(low + 4 >= high)
        return self.head(x) * n.float().mean()


class BoundedSize(_Model):
    def forward(self, x, n):
        k = n.max().item()
        torch._check(k <= 9)
        return self.head(x).unsqueeze(2).expand(-1, -1, k).sum(2)


class AtLeastOne(_Model):
    def forward(self, x, n):
        k = n.max().item()
        torch._check(k >= 1)
        return self.head(x).unsqueeze(2).expand(-1, -1, k).sum(2)


class Picked(_Model):
    """A position that is not the size of a tensor; operators would take a negative one."""

    def forward(self, x, n):
        k = n.max().item()
        torch._check(k >= 0)
        torch._check(k < 4)
        return self.head(x) * x.select(1, k).unsqueeze(1)


class Rolled(_Model):
    def forward(self, x, n):
        k = n.max().item()
        torch._check(k >= 0)
        return self.head(x.roll(k, 1))


class Sliced(_Model):
    def forward(self, x, n):
        k = n.max().item()
        torch._check(k >= 1)
        torch._check(k < 4)
        return self.head(x) + x[:, k:].sum(1, keepdim=True)


class FoundOne(_Model):
    def forward(self, x, n):
        found = n[n > 2]
        torch._check(found.shape[0] >= 1)
        return self.head(x) * found.float().sum()


class FoundFewer(_Model):
    def forward(self, x, n):
        found = torch.nonzero(n)
        torch._check(found.shape[0] < n.shape[0])
        return self.head(x) * found.float().sum()


class Asynchronous(_Model):
    def forward(self, x, n):
        torch._assert_async((n <= 9).all(), "an n above 9")
        return self.head(x) * n.float().mean()


class Lengths(_Model):
    """Without a check of its own: the tracer adds that the size is not negative."""

    def forward(self, x, n):
        return self.head(x).unsqueeze(2).expand(-1, -1, n.max().item()).sum(2)


class Found(_Model):
    """Sizes that operators find: the tracer adds that they are not negative."""

    def forward(self, x, n):
        return self.head(x) * (n[n > 2].float().sum() + torch.nonzero(n).shape[0])


def inputs(rows: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 4, generator=generator), torch.full((rows,), number)


#: Model -> a number that satisfies its check, and one that does not.
CHECKED = {
    Bounded: (3, 30),
    Factor: (3, -3),
    BoundedSize: (3, 30),
    AtLeastOne: (3, 0),
    Picked: (3, -1),
    Rolled: (3, -1),
    Sliced: (3, 0),
    FoundOne: (3, 0),
    FoundFewer: (0, 3),
    Asynchronous: (3, 30),
}


@pytest.mark.parametrize("kind", CHECKED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("rows", [1, 6])
def test_inputs_that_the_model_refuses_are_refused(kind: type[_Model], rows: int) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    taken, refused = CHECKED[kind]
    fast = recfx.optimize(model, example_inputs=inputs(4, taken), measure=False)
    torch.testing.assert_close(fast(*inputs(rows, taken)), model(*inputs(rows, taken)))
    with pytest.raises(RuntimeError):
        model(*inputs(rows, refused))
    with pytest.raises(InputError):
        fast(*inputs(rows, refused))


def test_an_order_of_two_numbers_is_checked() -> None:
    model = Order().eval()
    fast = recfx.optimize(model, example_inputs=inputs(4, 3), measure=False)
    x, _ = inputs(3, 0)
    near, far = torch.tensor([1, 5, 2]), torch.tensor([1, 6, 2])
    torch.testing.assert_close(fast(x, near), model(x, near))
    with pytest.raises(RuntimeError):
        model(x, far)
    with pytest.raises(InputError):
        fast(x, far)


def _positive(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose first number is positive, and those whose first number is above 0.001: the same rows of almost all inputs."""
    return x[x[:, 0] > 0], x[x[:, 0] > 1e-3]


def _checked(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    torch._check(a.shape[0] == b.shape[0])
    return a * 2


#: Functions of two tensors of equal sizes that operators find.
EQUAL = {
    "view": lambda a, b: (a * 2).view(b.shape[0], 4) * 2,
    "reshape": lambda a, b: (a * 2).reshape(b.shape[0], 2, 2) * 2,
    "expand": lambda a, b: (a * 2).expand(b.shape[0], 4) * 2,
    "expand_as": lambda a, b: (a * 2).expand_as(b).reshape_as(b) * 2,
    "check": _checked,
    "stack": lambda a, b: torch.stack([a * 2, b * 3], 1),
    "cat": lambda a, b: torch.cat([a * 2, b * 3], 1)[:, :4] * 2,
    "sum": lambda a, b: (a * 2) + (b * 3),
    "zeros": lambda a, b: (a * 2) + torch.zeros(b.shape[0], 4),
    "copy": lambda a, b: a.copy_(b) * 2,
    "product": lambda a, b: (a * 2).t() @ (b * 3),
}


class Equal(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return EQUAL[self.name](*_positive(x))


@pytest.mark.parametrize("name", EQUAL)
def test_sizes_that_operators_find_are_equal_at_the_call(name: str) -> None:
    """A call whose sizes differ raises an error or gives the model's result, also where the model repeats a single row."""
    model = Equal(name).eval()
    first = torch.tensor([1.0, 2, -1, 3])
    x = torch.stack([first, *torch.randn(3, 4)], 1)
    fast = recfx.optimize(model, "native", example_inputs=x, verify="off", measure=False)
    torch.testing.assert_close(fast(x), model(x.clone()))
    for others in ([1.0, 5e-4, -1], [1.0, 2, 5e-4, -1], [5e-4, -1], [5e-4, 5e-4, -1], [1.0, -1, -1]):
        y = torch.stack([torch.tensor(others), *torch.randn(3, len(others))], 1)
        try:
            found = fast(y)
        except InputError:
            assert any(0 < number < 1e-3 for number in others)
        else:
            torch.testing.assert_close(found, model(y.clone()))


@pytest.mark.parametrize("kind", [Lengths, Found])
def test_sizes_are_not_asserted_to_be_sizes(kind: type[_Model]) -> None:
    program = capture(kind().eval(), inputs(4, 3))
    assert _assertions(program)
    found, record = run_pass(Canonicalize(), program)
    assert not _assertions(found)
    assert not [m for m in record.misses if m.rule == "assertion"]


@pytest.mark.parametrize("kind", [Bounded, Factor, Order, BoundedSize, AtLeastOne, FoundOne, FoundFewer])
def test_a_kept_assertion_is_a_named_miss(kind: type[_Model]) -> None:
    taken, _ = CHECKED.get(kind, (3, 30))
    found, record = run_pass(Canonicalize(), capture(kind().eval(), inputs(4, taken)))
    assert _assertions(found)
    assert {m.reason for m in record.misses if m.rule == "assertion"} == {"it depends on the inputs' values"}


def _assertions(program: recfx.Program) -> list[str]:
    return [n.name for n in program.graph.nodes if n.target is torch.ops.aten._assert_scalar.default]
