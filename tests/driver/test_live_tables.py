"""New rows become visible to whole calls, all of an update at once, in every format and after every way of loading."""

from __future__ import annotations

import copy
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live_rows_kit import NAMES, ROWS, Tables, drawn, inputs, optimize, with_rows
from torch import nn

import recfx
from recfx.driver import live_tables
from recfx.errors import IdError
from recfx.targets import BACKENDS
from recfx.zoo import MODELS

FORMATS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"extra_passes": {"after:mlp": "quantize-tables{bits=16,format=fp16}"}},
    "int8": {"precision": "int8"},
    "4 bits": {"extra_passes": {"after:mlp": "quantize-tables{bits=4}"}},
    "2 bits, refined": {"extra_passes": {"after:mlp": "quantize-tables{bits=2,refine=true}"}},
    "1 bit": {"extra_passes": {"after:mlp": "quantize-tables{bits=1}"}},
    "eager": {"target": "eager"},
}


@pytest.mark.parametrize("name", FORMATS)
def test_updated_models_equal_models_compiled_from_the_new_weights(name: str) -> None:
    model = Tables().eval()
    fast = optimize(model, **FORMATS[name])
    weights = {n: p.clone() for n, p in model.named_parameters()}
    old, other = fast(*inputs()), model
    for seed in range(3):
        updates = drawn(NAMES, 30, seed)
        assert fast.update_tables(updates) == seed + 1
        other = with_rows(other, updates)  # type: ignore[assignment]
    want = optimize(other, **FORMATS[name])
    for batch in (1, 6, 9):
        assert torch.equal(fast(*inputs(batch)), want(*inputs(batch)))
    assert not torch.equal(fast(*inputs()), old)
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())  # the user's weights never change


@settings(max_examples=10)
@given(data=st.data())
def test_drawn_updates(data: Any) -> None:
    """Any sequence of updates of any tables, with repeated ids, leaves what a fresh compilation of the last weights has."""
    model = Tables().eval()
    fast = optimize(model)
    for _ in range(data.draw(st.integers(1, 4))):
        names = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
        updates = {}
        for name in names:
            ids = torch.tensor(data.draw(st.lists(st.integers(0, ROWS - 1), max_size=8)), dtype=torch.int64)
            updates[name] = ids, torch.randn(len(ids), 16)
        fast.update_tables(updates)
        model = with_rows(model, updates).eval()  # type: ignore[assignment]
    batch = data.draw(st.integers(1, 20))
    torch.testing.assert_close(fast(*inputs(batch)), model(*inputs(batch)))


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**30),
    updates=st.integers(1, 6),
    rows=st.integers(1, 2 * ROWS),
    batch=st.sampled_from([1, 3, 200]),
    precision=st.sampled_from(["fp32", "int8"]),
)
def test_a_call_sees_all_rows_of_an_update_or_none(
    seed: int, updates: int, rows: int, batch: int, precision: str
) -> None:
    """Every answer of threads that call meanwhile is that of one version, and versions do not go back."""
    fast = optimize(Tables().eval(), precision=precision)
    alone = copy.deepcopy(fast)
    leaves = inputs(batch)
    want = [alone(*leaves)]
    changes = [drawn(NAMES, rows, seed + number) for number in range(updates)]
    for change in changes:
        alone.update_tables(change)
        want.append(alone(*leaves))
    answers: list[list[torch.Tensor]] = [[], []]
    begun, ended = threading.Barrier(3), threading.Event()

    def call(found: list[torch.Tensor]) -> None:
        begun.wait()
        while not ended.is_set() and len(found) < 20_000:
            found.append(fast(*leaves))

    threads = [threading.Thread(target=call, args=(found,)) for found in answers]
    for thread in threads:
        thread.start()
    begun.wait()
    for change in changes:
        fast.update_tables(change)
        time.sleep(1e-3)
    ended.set()
    for thread in threads:
        thread.join()
    for found in answers:
        version = 0
        for answer in found:
            while version < updates and not torch.equal(answer, want[version]):
                version += 1
            assert torch.equal(answer, want[version])
    assert torch.equal(fast(*leaves), want[-1])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_loaded_models_take_new_rows_and_their_files_do_not_change(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECFX_HUGE_PAGES", "0")

    class Large(nn.Module):
        """A table that stays mapped to its file."""

        def __init__(self) -> None:
            super().__init__()
            self.items = nn.Embedding(300_000, 64)

        def forward(self, item: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.items(item).sin()
            return found

    model = Large().eval()
    ids = torch.tensor([0, 299_999, 7, 150_000])
    optimize(model, (ids,), precision=precision).save(tmp_path / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    fast = recfx.load(tmp_path / "model")
    updates = drawn(("items.weight",), 500, 1, 300_000, 64)
    updates["items.weight"][0][:3] = ids[:3]
    fast.update_tables(updates)
    want = optimize(with_rows(model, updates).eval(), (ids,), precision=precision)
    for item in (ids, updates["items.weight"][0]):
        assert torch.equal(fast(item), want(item))
    assert {path: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_tables_become_live_one_after_another() -> None:
    model = Tables().eval()
    fast = optimize(model)
    other: nn.Module = model
    for seed, name in enumerate((*NAMES, *NAMES)):
        updates = drawn((name,), 20, seed)
        fast.update_tables(updates)
        other = with_rows(other, updates)
    assert torch.equal(fast(*inputs()), optimize(other.eval())(*inputs()))


def test_unusual_calls_read_one_version() -> None:
    """Batches above the largest, lists and wrong inputs take the same way as without updates."""
    fast = optimize(Tables().eval(), max_batch=8)
    updates = drawn(NAMES, 30, 1)
    fast.update_tables(updates)
    want = fast(*inputs(8))
    user, item, tags = inputs(8)
    many = fast(*(torch.cat([t, t, t]) for t in (user, item, tags)))
    assert torch.equal(many, torch.cat([want, want, want]))
    assert torch.equal(fast(user.tolist(), item, tags), want)
    with pytest.raises(IdError):
        fast(user + ROWS, item, tags)
    with pytest.raises(recfx.InputError):
        fast(user)


def test_an_update_waits_for_calls_that_began_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs does not delay the rows of one update; the next update is refused, and is taken when the call has ended."""
    model = Tables().eval()
    fast = optimize(model)
    fast.prepare_updates()
    live = fast._live
    assert live is not None
    monkeypatch.setattr(live_tables, "_LONGEST_CALL", 0.05)
    side = live._active
    side.calls.append(None)  # a call
    first, second = drawn(NAMES, 20, 1), drawn(NAMES, 20, 2)
    fast.update_tables(first)
    want = fast(*inputs())
    assert torch.equal(want, optimize(with_rows(model, first).eval())(*inputs()))
    with pytest.raises(recfx.TargetError, match="has not ended"):
        fast.update_tables(second)
    assert torch.equal(fast(*inputs()), want)
    side.calls.pop()
    fast.update_tables(second)
    assert torch.equal(fast(*inputs()), optimize(with_rows(with_rows(model, first), second).eval())(*inputs()))


class OneRow(nn.Module):
    """One row is computed in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ROWS, 16)

    def forward(self, item: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.items(item).squeeze().sin()
        return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_plan_for_one_row_has_the_rows(precision: str) -> None:
    model = OneRow().eval()
    example = (torch.tensor([1, 2, 3]),)
    fast = optimize(model, example, precision=precision)
    assert fast.report.one_row is not None
    updates = drawn(("items.weight",), 30, 1)
    fast.update_tables(updates)
    want = optimize(with_rows(model, updates).eval(), example, precision=precision)
    for item in (torch.arange(ROWS), updates["items.weight"][0][:1]):
        assert torch.equal(fast(item), want(item))


def test_a_backend_that_copies_tables_is_named() -> None:
    if BACKENDS["openvino"].unavailable():
        pytest.skip("OpenVINO is not installed")
    fast = optimize(Tables().eval(), target="openvino")
    with pytest.raises(recfx.InputError, match="the openvino backend keeps a copy"):
        fast.update_tables(drawn(NAMES, 3))
    assert fast.table_version == 0


def test_updates_inside_inference_mode() -> None:
    model = Tables().eval()
    fast = optimize(model)
    first, second = drawn(NAMES, 20, 1), drawn(NAMES, 20, 2)
    with torch.inference_mode():
        fast.update_tables(first)
    fast.update_tables(second)
    assert torch.equal(fast(*inputs()), optimize(with_rows(with_rows(model, first), second).eval())(*inputs()))


@pytest.mark.parametrize("name", ["din", "two-tower", "sasrec", "dlrm"])
def test_models_of_the_zoo(name: str) -> None:
    model = MODELS[name].small().eval()  # type: ignore[attr-defined]
    example = model.example_inputs(6)
    fast = optimize(model, example, precision="int8")
    updates: dict[str, Any] = {}
    for record in fast.tables:
        assert not record.refused
        updates |= drawn(record.names[:1], record.rows, 1, record.rows, record.columns)
    fast.update_tables(updates)
    want = optimize(with_rows(model, updates).eval(), example, precision="int8")
    assert torch.equal(fast(*example), want(*example))


def test_rows_of_two_models_become_visible_together_or_not_at_all() -> None:
    """The exchange of one model lies within that of the other; an error before it leaves both, also after further updates."""
    model = Tables().eval()
    one, other = optimize(model), optimize(model, precision="int8")
    updates, late = drawn(NAMES, 20, 1), drawn(NAMES[:1], 5, 2)
    before = one(*inputs()), other(*inputs())
    errors: list[Exception] = [ValueError("the disk is full")]

    def outer(swap: Any) -> None:
        other.update_tables(updates, exchange=lambda inner: both(swap, inner))

    def both(*swaps: Any) -> None:
        if errors:
            raise errors.pop()
        for swap in swaps:
            assert torch.equal(one(*inputs()), before[0])
            swap()

    with pytest.raises(ValueError, match="disk is full"):
        one.update_tables(updates, exchange=outer)
    assert (one.table_version, other.table_version) == (0, 0)
    for fast, precision in ((one, None), (other, "int8")):
        fast.update_tables(late)
        want = optimize(with_rows(model, late).eval(), **({"precision": precision} if precision else {}))
        assert torch.equal(fast(*inputs()), want(*inputs()))
    before = one(*inputs()), before[1]
    errors.clear()
    one.update_tables(
        updates, exchange=lambda swap: other.update_tables(updates, exchange=lambda inner: [swap(), inner()])
    )  # type: ignore[arg-type, return-value]
    want = optimize(with_rows(with_rows(model, late), updates).eval())
    assert torch.equal(one(*inputs()), want(*inputs()))
    assert (one.table_version, other.table_version) == (2, 2)
