"""One candidate and several requests per call: models whose shapes differ for one row have a separate plan in this case
too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import recfx


class Ranker(nn.Module):
    """A user and an item; `form` is the operation that depends on the number of rows."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.users, self.items = nn.Embedding(20, 8), nn.Embedding(20, 8)
        self.hidden, self.out = nn.Linear(16, 8), nn.Linear(8, 1)

    def forward(self, user, item):
        rows, candidates = self.users(user), self.items(item)
        if self.form == "squeezed requests":
            return self.out(torch.relu(rows.unsqueeze(1).squeeze() * candidates))
        hidden = self.hidden(torch.cat([rows, candidates], 1))
        if self.form == "squeezed in the middle":
            return self.out(torch.relu(hidden.unsqueeze(1).squeeze()))
        if self.form == "squeezed at the end":
            return self.out(hidden).squeeze()
        return self.out(hidden) if hidden.shape[0] > 1 else self.out(hidden * 2)


FORMS = ("squeezed requests", "squeezed in the middle", "squeezed at the end", "a branch")


def check(compiled: recfx.CompiledModel, model: nn.Module) -> None:
    """Compares outputs for one and several candidates of one and several requests."""
    generator = torch.Generator().manual_seed(2)
    for candidates in (1, 2, 5):
        for requests in (1, 2, 3):
            user = torch.randint(0, 20, (requests,), generator=generator)
            item = torch.randint(0, 20, (candidates,), generator=generator)
            index = torch.randint(0, requests, (candidates,), generator=generator)
            want = model(user[index], item)
            found = compiled(user, item, request_index=index)
            assert found.shape == want.shape
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_one_candidate_has_its_own_plan(form: str, tmp_path: Path) -> None:
    model = Ranker(form).eval()
    example = torch.randint(0, 20, (6,)), torch.randint(0, 20, (6,))
    compiled = recfx.optimize(
        model,
        example_inputs=example,
        request_inputs="user",
        many_requests=True,
        measure=form == "a branch",
    )
    assert compiled.report.one_row is not None
    reasons = [reason for _, reason in compiled.report.left_to_torch]
    assert not any("rank" in reason for reason in reasons), reasons
    check(compiled, model)
    with pytest.raises(recfx.errors.InputError):
        compiled(example[0][:2], example[1][:1], request_index=torch.tensor([2]))
    if form == "squeezed requests":
        compiled.save(tmp_path / "model")
        check(recfx.load(tmp_path / "model"), model)
        with torch.no_grad():
            model.out.weight.mul_(-3)
        compiled.refresh(model)
        check(compiled, model)
