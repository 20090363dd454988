"""Weights that change after compilation: a later call notices them, or a copy excludes them."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import recfx
from recfx.capture import capture
from recfx.driver.weight_watch import WeightWatch, watch_weights

FIELDS = 5


class Ranker(nn.Module):
    """One table per field, a dense layer, and a buffer that scales the result."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(20, 4) for _ in range(FIELDS))
        self.head = nn.Linear(4 * FIELDS, 1)
        self.register_buffer("scale", torch.tensor(2.0))
        self.register_buffer("unused", torch.zeros(3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        vectors = torch.cat([table(ids[:, i]) for i, table in enumerate(self.tables)], 1)
        return self.scale * self.head(vectors)


IDS = torch.arange(6 * FIELDS).reshape(6, FIELDS) % 20


def _compiled(**options: object) -> tuple[Ranker, recfx.CompiledModel]:
    torch.manual_seed(0)
    model = Ranker().eval()
    return model, recfx.optimize(model, example_inputs=IDS, measure=False, **options)  # type: ignore[arg-type]


def _warnings(fast: recfx.CompiledModel, calls: int = 20) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(calls):
            fast(IDS)
    return [str(w.message) for w in caught]


def _optimizer_step(model: Ranker) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(IDS).sum().backward()
    optimizer.step()


def _load(model: Ranker) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


CHANGES: dict[str, tuple[Callable[[Ranker], object], str]] = {
    "an optimizer's step": (_optimizer_step, "tables.0.weight"),
    "new weights loaded": (_load, "tables.0.weight"),
    "one row of the last table": (
        lambda m: m.tables[-1].weight.detach()[3].zero_(),
        f"tables.{FIELDS - 1}.weight",
    ),
    "a dense weight": (lambda m: nn.init.zeros_(m.head.weight), "head.weight"),
    "a buffer": (lambda m: m.scale.fill_(3.0), "scale"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("target", ["native", "eager"])
def test_a_change_is_warned_of_once_with_its_name(name: str, target: str) -> None:
    change, tensor = CHANGES[name]
    model, fast = _compiled(target=target)
    assert _warnings(fast) == []
    change(model)
    (message,) = _warnings(fast)
    assert tensor in message
    assert "refresh()" in message
    assert _warnings(fast) == []


def test_warnings_name_the_line_of_the_caller(tmp_path: Path) -> None:
    called, saved = _compiled(), _compiled()
    for model, _ in (called, saved):
        _load(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(20):
            called[1](IDS)
        saved[1].save(tmp_path / "model")
    assert [w.filename for w in caught] == [__file__] * 2


def test_a_refresh_takes_all_weights_over_and_watches_again() -> None:
    model, fast = _compiled()
    _optimizer_step(model)
    fast.refresh()
    with torch.no_grad():
        torch.testing.assert_close(fast(IDS), model(IDS))
    assert _warnings(fast) == []
    _load(model)
    assert len(_warnings(fast)) == 1


def test_what_the_program_does_not_use_may_change() -> None:
    model, fast = _compiled()
    model.unused.add_(1)
    assert _warnings(fast) == []


@pytest.mark.parametrize("target", ["native", "eager"])
def test_a_copy_of_the_weights_is_a_snapshot(target: str) -> None:
    model, fast = _compiled(target=target, copy_weights=True)
    before = fast(IDS).clone()
    _load(model)
    assert torch.equal(fast(IDS), before)
    assert _warnings(fast) == []
    fast.refresh()
    with torch.no_grad():
        torch.testing.assert_close(fast(IDS), model(IDS))
    again = fast(IDS).clone()
    _load(model)
    assert torch.equal(fast(IDS), again)


def test_a_copy_is_made_at_once_although_the_capture_waits_for_the_first_call() -> None:
    model = Ranker().eval()
    with torch.no_grad():
        before = model(IDS)
    fast = recfx.optimize(model, copy_weights=True)
    _load(model)
    torch.testing.assert_close(fast(IDS), before)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    class Held(Ranker):
        def __deepcopy__(self, memo: object) -> Held:
            raise TypeError("holds a connection")

    with pytest.raises(recfx.InputError, match=r"copy_weights.*holds a connection"):
        recfx.optimize(Held().eval(), example_inputs=IDS, copy_weights=True)


def test_saving_changed_weights_warns(tmp_path: Path) -> None:
    model, fast = _compiled()
    model.head.weight.detach().mul_(2)
    with pytest.warns(UserWarning, match=r"saved model.*"):
        fast.save(tmp_path / "model.recfx")
    loaded = recfx.load(tmp_path / "model.recfx")
    assert _warnings(loaded) == []


def test_nothing_is_kept_alive() -> None:
    table = nn.Parameter(torch.zeros(3))
    watch = WeightWatch({"table": table})
    gone = weakref.ref(table)
    del table
    gc.collect()
    assert gone() is None
    assert watch.changed() == []
    assert watch.compare_next()


def test_writes_through_views_count() -> None:
    model = Ranker().eval()
    watch = watch_weights(model, capture(model, (IDS,), {}))
    model.head.weight.detach()[0, :2].add_(1)
    model.tables[1].weight.detach().view(-1)[5:].fill_(0)
    assert watch.changed() == ["tables.1.weight", "head.weight"]


def test_tensors_without_counters_are_left_out() -> None:
    with torch.inference_mode():
        made = torch.zeros(2)
    assert WeightWatch({"made": made}).changed() == []
