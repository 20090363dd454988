"""Large tables move to large pages with their addresses and contents unchanged."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from native_kit import needs_kernels, program_of

from recfx.cost.timing import compare
from recfx.ir.region import Region
from recfx.kernels import huge_pages
from recfx.ops import lookup
from recfx.targets.native.backend import NativeBackend

needs_large_pages = pytest.mark.skipif(huge_pages.unavailable() is not None, reason=str(huge_pages.unavailable()))


def on_large_pages(tensor: torch.Tensor) -> int:
    """KiB on large pages of the mapping that holds a tensor's middle."""
    middle, inside = tensor.data_ptr() + tensor.numel() * tensor.element_size() // 2, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split(maxsplit=1)[0]
        if "-" in head and not head.endswith(":"):
            first, last = (int(part, 16) for part in head.split("-"))
            inside = first <= middle < last
        elif inside and head == "AnonHugePages:":
            return int(line.split()[1])
    raise AssertionError("the tensor is in no mapping")


@needs_large_pages
def test_a_large_table_moves_and_keeps_address_and_contents() -> None:
    table = torch.arange(24 << 20, dtype=torch.float32)
    address, total = table.data_ptr(), table.double().sum()
    thread = huge_pages.move_tables([table])
    assert thread is not None
    thread.join(60)
    assert not thread.is_alive()
    assert table.data_ptr() == address
    assert table.double().sum() == total
    if on_large_pages(table) == 0:
        pytest.skip("the system has no large page left")
    assert on_large_pages(table) >= (24 << 20) * 4 // 1024 - 2 * 2048


@needs_large_pages
def test_nothing_moves_while_something_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    advised: list[int] = []
    monkeypatch.setattr(huge_pages, "_advise", lambda address, bytes_, advice: advised.append(bytes_))
    table = torch.empty(huge_pages.LEAST_BYTES // 4)
    threads: list[threading.Thread] = []

    def timed() -> None:
        if not threads:
            threads.append(huge_pages.move_tables([table]))  # type: ignore[arg-type]
        assert threads[0].is_alive()
        assert not advised

    compare({"call": timed}, seconds=0.01, min_rounds=2)
    threads[0].join(10)
    assert advised


@pytest.mark.parametrize("size", [0, 1, huge_pages.LEAST_BYTES // 4 - 1])
def test_small_tables_are_left_alone(size: int) -> None:
    assert huge_pages.move_tables([torch.zeros(size)]) is None


def test_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECFX_HUGE_PAGES", "0")
    assert huge_pages.unavailable() == "switched off by RECFX_HUGE_PAGES=0"
    assert huge_pages.move_tables([torch.zeros(huge_pages.LEAST_BYTES // 4)]) is None


@needs_kernels
def test_lowering_moves_the_tables_of_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[torch.Tensor] = []
    monkeypatch.setattr(huge_pages, "move_tables", moved.extend)
    tables = [torch.randn(50, 8), torch.randn(30, 4)]
    fields = lookup.encode([lookup.Feature(0, 0, 8, 0, column=0), lookup.Feature(1, 0, 4, 8, column=1)])
    program = program_of(
        lambda ids, *held: torch.ops.recfx.grouped_lookup(list(held), [ids], [], [], [], fields, [], 12),
        [torch.randint(0, 30, (4, 2))],
        tables,
    )
    NativeBackend().lower(Region.whole(program))
    assert [t.shape for t in moved] == [t.shape for t in tables]
