"""Special rows: their contents, and detection of a program that is wrong for one kind of row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bag_models import BagAlone, generator, starts
from torch import nn

import recfx
from recfx.capture import capture
from recfx.capture.crosscheck import compare_with_model
from recfx.capture.inputs import normalize_call
from recfx.errors import CaptureError, VerificationError
from recfx.ir import Exactness, Program, verify_numeric
from recfx.ir.special_rows import special_batches

ROWS, LENGTH = 30, 6


class History(nn.Module):
    """A masked mean of a history, and dense features; all rows are independent."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ROWS, 4, padding_idx=0)
        self.users = nn.Embedding(7, 4)
        self.head = nn.Linear(11, 2)

    def forward(self, user, history, length, dense):
        mask = (history != 0).float()
        pooled = (self.items(history) * mask.unsqueeze(-1)).sum(1) / length.clamp(min=1).unsqueeze(-1)
        return self.head(torch.cat([self.users(user), pooled, dense], 1)) * self.extra(user, history, length, dense)

    def extra(self, user, history, length, dense):
        return 1.0


def history_inputs(rows: int = 5) -> tuple[torch.Tensor, ...]:
    """Histories of two to five ids in ascending places, padded on the left."""
    rng = generator(0)
    lengths = 2 + torch.arange(rows) % 4
    history = torch.randint(1, ROWS - 1, (rows, LENGTH), generator=rng)
    history[torch.arange(LENGTH).unsqueeze(0) < (LENGTH - lengths).unsqueeze(1)] = 0
    return torch.randint(1, 5, (rows,), generator=rng), history, lengths, torch.randn(rows, 3, generator=rng)


def where(condition: torch.Tensor) -> torch.Tensor:
    """A factor [B, 1] that is 2 for the rows of a condition and 1 for the others."""
    return 1.0 + condition.float().unsqueeze(-1)


#: Kind of row -> the factor by which a wrong program multiplies its output.
WRONG: dict[str, Callable[..., torch.Tensor]] = {
    "an empty history": lambda u, h, n, d: where((h == 0).all(1)),
    "a length of zero": lambda u, h, n, d: where(n == 0),
    "a history of one id": lambda u, h, n, d: where((h != 0).sum(1) == 1),
    "one id at the front": lambda u, h, n, d: where((h[:, 0] != 0) & (h[:, 1] == 0)),
    "one id at the end": lambda u, h, n, d: where((h[:, -1] != 0) & (h[:, -2] == 0)),
    "equal ids": lambda u, h, n, d: where((h == h[:, :1]).all(1) & (h[:, 0] != 0)),
    "the first row of a table": lambda u, h, n, d: where(u == 0),
    "the last row of a table": lambda u, h, n, d: where(u == 6),
    "the last row in a history": lambda u, h, n, d: where((h == ROWS - 1).any(1)),
    "zeros": lambda u, h, n, d: where((d == 0).all(1)),
    "tiny numbers": lambda u, h, n, d: where((d != 0).any(1) & (d.abs() < 1e-38).all(1)),
    "huge numbers": lambda u, h, n, d: where((d > 1e11).any(1)),
    "huge negative numbers": lambda u, h, n, d: where((d < -1e11).any(1) & d.isfinite().all(1)),
}


def wrong_program(name: str) -> tuple[nn.Module, Program, tuple[torch.Tensor, ...]]:
    """The right model, the program of a model that is wrong for some rows, and the inputs of their capture."""
    torch.manual_seed(0)
    right, wrong = History().eval(), History().eval()
    wrong.load_state_dict(right.state_dict())
    wrong.extra = WRONG[name]  # type: ignore[method-assign]
    inputs = history_inputs()
    return right, capture(wrong, inputs, check=False), inputs


@pytest.mark.parametrize("name", WRONG)
def test_a_program_that_is_wrong_for_one_kind_of_row_is_found(name: str) -> None:
    right, program, inputs = wrong_program(name)
    with torch.no_grad():
        assert torch.equal(program.run(inputs)[0], right(*inputs))  # the example does not show it
    with pytest.raises(CaptureError, match="disagrees"):
        compare_with_model(program, right, normalize_call(right, inputs, {}))
    with pytest.raises(VerificationError):
        verify_numeric(capture(right, inputs, check=False), program, Exactness.REASSOC)


class Forgiving(nn.Module):
    """Replaces NaN by zeros, like an integer kernel."""

    def __init__(self, *, forgives: bool, value: float) -> None:
        super().__init__()
        self.linear, self.forgives, self.value = nn.Linear(4, 4), forgives, value

    def forward(self, x):
        if self.forgives:
            bad = x.isnan() if self.value != self.value else x == self.value
            x = torch.where(bad, 0.0, x)
        return self.linear(x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_program_that_swallows_what_is_not_finite_is_found(value: float) -> None:
    right, wrong = Forgiving(forgives=False, value=value).eval(), Forgiving(forgives=True, value=value).eval()
    wrong.load_state_dict(right.state_dict())
    inputs = (torch.randn(4, 4, generator=generator(0)),)
    with pytest.raises(CaptureError, match="rows with"):
        compare_with_model(capture(wrong, inputs, check=False), right, normalize_call(right, inputs, {}))
    for exactness in (Exactness.EXACT, Exactness.REASSOC):
        with pytest.raises(VerificationError):
            verify_numeric(capture(right, inputs, check=False), capture(wrong, inputs, check=False), exactness)


class BagFault(BagAlone):
    """Adds one to the rows of bags of some lengths."""

    def __init__(self, fault: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, ids, offsets):
        lengths = torch.cat([offsets, offsets.new_full((1,), ids.shape[0])]).diff()
        return super().forward(ids, offsets) + self.fault(lengths).float().unsqueeze(-1)


@pytest.mark.parametrize(
    "fault", [lambda n: n == 0, lambda n: n == 1, lambda n: n > 100], ids=["empty bags", "bags of one id", "long bags"]
)
def test_a_program_that_is_wrong_for_some_bags_is_found(fault: Callable[[torch.Tensor], torch.Tensor]) -> None:
    right, wrong = BagFault(lambda n: n < 0).eval(), BagFault(fault).eval()
    wrong.load_state_dict(right.state_dict())
    inputs = (torch.randint(40, (14,), generator=generator(0)), starts(torch.tensor([2, 3, 4, 5])))
    with pytest.raises(CaptureError, match="special ids"):
        compare_with_model(capture(wrong, inputs, check=False), right, normalize_call(right, inputs, {}))


class Refusing(nn.Module):
    """Accepts no id above 5, although its table has 30 rows, and no zero."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.small, self.head = nn.Embedding(ROWS, 4), nn.Embedding(6, 4), nn.Linear(4, 1)

    def forward(self, ids, dense):
        rows = self.table(ids) + self.small((ids * 1.0 + dense.detach() * 0).long())
        return self.head(rows)


def test_rows_that_the_model_refuses_are_left_out() -> None:
    torch.manual_seed(0)
    inputs = (torch.tensor([1, 5, 2, 3]), torch.randn(4))
    fast = recfx.optimize(Refusing().eval(), example_inputs=inputs, measure=False)
    assert not any("refuses" in notice for notice in fast.report.notices)


class AskedFor(nn.Module):
    """Reads columns in the ways that are common in the field, and records the ids that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shared = nn.Embedding(9, 2), nn.Embedding(21, 2), nn.Embedding(40, 2)
        self.register_buffer("starts", torch.tensor([0, 12]))

    def forward(self, ids, side):
        stacked = torch.stack([ids[:, 2], ids[:, 3]], 1) + self.starts
        cast = side[:, 1].long()
        return torch.cat(
            [self.a(ids[:, 0]), self.b(ids[:, 1:2]).squeeze(1), self.shared(stacked).flatten(1), self.a(cast)], 1
        )


def test_first_and_last_rows_are_found_through_views_casts_and_shifts() -> None:
    ids = torch.randint(1, 8, (4, 4), generator=generator(0))
    side = torch.stack([torch.randn(4, generator=generator(1)), torch.tensor([1.0, 2.0, 3.0, 4.0])], 1)
    program = capture(AskedFor().eval(), (ids, side))
    batch = next(b for b in special_batches(program) if b.name == "rows with special ids")
    rows = dict(zip(batch.kinds, range(len(batch.kinds)), strict=True))
    last, first = rows["last rows of tables"], rows["first rows of tables"]
    assert batch.leaves[0][last].tolist() == [8, 20, 39, 27]
    assert batch.leaves[1][last, 1] == 8
    assert batch.leaves[0][first].tolist() == [0, 0, 0, 0]
    assert batch.leaves[1][first, 1] == 0
    numbers = next(b for b in special_batches(program) if b.name == "rows with zeros and NaN")
    assert not bool(numbers.leaves[1][:, 1].isnan().any())  # a column of ids


@pytest.mark.parametrize("dynamic", [True, False])
def test_every_batch_is_in_range(dynamic: bool) -> None:
    inputs = history_inputs(3)
    options: dict[str, Any] = {"max_batch": 4} if dynamic else {"dynamic_shapes": False}
    program = capture(History().eval(), inputs, **options)
    for batch in special_batches(program):
        program.signature.check(batch.leaves)
        for part in batch.split():
            program.signature.check(part.leaves)


class LeftPadded(nn.Module):
    """Causal attention over a history that is padded on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.mix = nn.Embedding(ROWS, 8, padding_idx=0), nn.Linear(8, 24)

    def forward(self, history):
        q, k, v = self.mix(self.items(history)).unsqueeze(1).chunk(3, -1)
        causal = torch.ones(history.shape[1], history.shape[1], dtype=torch.bool).tril()
        seen = causal & (history != 0)[:, None, None, :]
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).flatten(1)


def test_attention_over_nothing_is_compared_though_no_row_of_the_example_is_short() -> None:
    torch.manual_seed(0)
    model = LeftPadded().eval()
    fast = recfx.optimize(model, example_inputs=torch.randint(1, ROWS, (4, LENGTH)), measure=False)
    short = torch.tensor([[0, 0, 0, 0, 0, 3], [0, 0, 0, 0, 0, 0], [0, 0, 1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.allclose(fast(short), model(short), atol=1e-5, equal_nan=True)
