"""Transformed functions, such as those of `torch.vmap`, are captured as the operators of all rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from recfx.capture import capture
from recfx.capture.function_transforms import without_transforms
from recfx.ir.verify import verify_structure


class Experts(nn.Module):
    """The mean of several layers over the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 3) for _ in range(3)])

    def forward(self, ids: Tensor) -> Tensor:
        weights, buffers = stack_module_state(list(self.layers))
        rows = self.table(ids)
        return torch.vmap(lambda w, b: functional_call(self.layers[0], (w, b), (rows,)))(weights, buffers).mean(0)


class Rows(nn.Module):
    """A function of one row, and one of each pair of a row and its items."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items, self.layer = nn.Embedding(20, 4), nn.Embedding(30, 4), nn.Linear(4, 4)

    def one(self, user: Tensor, items: Tensor) -> Tensor:
        return torch.softmax(self.layer(items) @ self.layer(user), 0) @ items

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        u, i = self.users(users), self.items(items)
        scores = torch.vmap(torch.vmap(torch.dot, in_dims=(None, 0)))(u, i)
        return torch.vmap(self.one)(u, i), scores


def _ids(rows: int, *sizes: int) -> Tensor:
    return torch.randint(0, 20, (rows, *sizes), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize(
    ("model", "sizes"), [(Experts(), ((),)), (Rows(), ((), (5,)))], ids=["experts", "rows and pairs"]
)
def test_transforms_are_applied(model: nn.Module, sizes: tuple[tuple[int, ...], ...]) -> None:
    program = capture(model.eval(), tuple(_ids(6, *size) for size in sizes))
    verify_structure(program)
    assert not [n for n in program.graph.nodes if "batch_dim" in n.name or "nesting" in n.name]
    for rows in (1, 2, 9):
        inputs = [_ids(rows, *size) for size in sizes]
        with torch.no_grad():
            wanted = model(*inputs)
        found = program.run(inputs)
        for want, got in zip(*((wanted if isinstance(wanted, tuple) else (wanted,)), found), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_other_exports_are_left_as_they_are() -> None:
    exported = torch.export.export(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), (torch.randn(2, 4),), strict=False)
    assert without_transforms(exported) is exported
