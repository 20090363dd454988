"""Capture refuses models that it cannot capture faithfully, and the errors name the user's own line."""

from __future__ import annotations

import textwrap

import pytest
import torch
from capture_cases import rand, same
from models import TinyCtr, tiny_inputs
from torch import nn

from recfx.capture import capture
from recfx.errors import CaptureError


def test_training_mode_is_refused() -> None:
    with pytest.raises(CaptureError, match="training mode"):
        capture(TinyCtr().train(), tiny_inputs(4))


class ValueBranch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # the line
            return x
        return -x


class ItemSize(nn.Module):
    def forward(self, x, n):
        return x[:, : n.item()]  # the line


def test_batch_literal_is_explained() -> None:
    with pytest.raises(CaptureError, match="fixes a dimension that must be free") as caught:
        capture(BatchLiteral().eval(), (rand(4, 4),))
    assert "x.shape[0]" in str(caught.value.hint)


class Flexible(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Linear(8, 8)

    def forward(self, x):
        from torch.nn.attention.flex_attention import flex_attention

        return flex_attention(self.queries(x), x, x)


def test_flex_attention_is_explained() -> None:
    with pytest.raises(CaptureError, match="flex_attention cannot be traced") as caught:
        capture(Flexible().eval(), (rand(4, 2, 16, 8),))
    assert "scaled_dot_product_attention" in str(caught.value.hint)


class FailsOnItsExample(nn.Module):
    def forward(self, x):
        n = x.abs().long().sum().item()
        return x.sum() + torch.arange(n).reshape(2, -1).sum()


class BatchLiteral(nn.Module):
    def forward(self, x):
        return x.reshape(4, -1) + 1  # the line


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 4, batch_first=True, proj_size=2)

    def forward(self, x):
        lengths = (x[:, :, 0] > 0).sum(1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, False)  # the line
        return self.rnn(packed)[1][0][0]


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("no weights were loaded")  # the line


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (ValueBranch(), (4, 4)),
        (Packed(), (4, 3, 4)),
        (Raises(), (4, 4)),
        (BatchLiteral(), (4, 4)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_error_names_the_users_line_and_a_mend(model: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(model.eval(), (rand(*shape),))
    assert caught.value.hint
    assert "test_capture_errors.py:" in str(caught.value.where) or "test_capture_errors.py" in str(caught.value.where)
    if not isinstance(model, Packed):
        assert "# the line" in str(caught.value.where)


def test_size_from_a_value_is_equal_or_refused() -> None:
    model = ItemSize().eval()
    try:
        program = capture(model, (rand(4, 4), torch.tensor(2)))
    except CaptureError as error:
        assert error.hint  # noqa: PT017
        assert "# the line" in str(error.where)  # noqa: PT017
    else:
        for n in (0, 2, 4):
            same(model, program, rand(3, 4), torch.tensor(n))


def test_model_that_fails_on_its_own_example_is_a_capture_error() -> None:
    with pytest.raises(CaptureError):
        capture(FailsOnItsExample().eval(), (torch.full((3, 1), 1.0),))


class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() * 2)


def test_numpy_is_captured_strictly_or_refused() -> None:
    model = Numpy().eval()
    try:
        program = capture(model, (rand(4, 4),))
    except CaptureError as error:
        assert "numpy" in str(error).lower()  # noqa: PT017
    else:
        assert any("strict" in notice for notice in program.notices)
        same(model, program, rand(3, 4, seed=2))


class WritesBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_write_to_state_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"writes to its (parameter or )?buffer"):
        capture(WritesBuffer().eval(), (rand(4, 4),))


class MaxNorm(nn.Module):
    """Tables with `max_norm`, of modules or as arguments of functions."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.limit = form, 0.5
        bag = nn.EmbeddingBag(10, 4, max_norm=0.7, norm_type=1)
        self.tables = nn.ModuleList([nn.Embedding(10, 4, max_norm=0.5), bag])
        self.weight = nn.Parameter(torch.randn(10, 4))

    def forward(self, ids):
        if self.form == "modules":
            return self.tables[0](ids).sum(1) + self.tables[1](ids)
        if self.form == "embedding":
            return nn.functional.embedding(ids, self.weight, max_norm=self.limit)
        return nn.functional.embedding_bag(ids, self.weight, max_norm=self.limit, norm_type=3)


@pytest.mark.parametrize("form", ["modules", "embedding", "embedding_bag"])
def test_the_mend_of_max_norm_works_when_it_is_pasted(form: str) -> None:
    model = MaxNorm(form).eval()
    ids = torch.randint(0, 10, (6, 3))
    with pytest.raises(CaptureError, match="max_norm writes to the table") as caught:
        capture(model, (ids,))
    with torch.no_grad():
        want = MaxNorm(form).eval()(ids)
    assert caught.value.hint is not None
    exec(textwrap.dedent(caught.value.hint.partition("\n\n")[2]), {"torch": torch, "model": model})
    model.limit = None  # "leave max_norm out of the call"
    assert torch.allclose(capture(model, (ids,))(ids), want, atol=1e-6)


class Random(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


def test_random_model_is_refused() -> None:
    with pytest.raises(CaptureError, match="different answers"):
        capture(Random().eval(), (rand(4, 4),))


class BakedMask(nn.Module):
    def forward(self, x):
        return x * torch.tensor((x.detach() > 0).tolist(), dtype=x.dtype)


class CachedMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask: torch.Tensor | None = None

    def forward(self, x):
        if self.mask is None:
            self.mask = x != 0
        return x.masked_fill(~self.mask[:1], 0.0)


def test_baked_mask_is_refused() -> None:
    with pytest.raises(CaptureError):
        capture(BakedMask().eval(), (rand(4, 4),))
    x = rand(4, 4)
    x[0, 1] = 0
    warm = CachedMask().eval()
    with pytest.raises(CaptureError):
        capture(warm, (x,), dynamic_shapes=False)
