"""`CompiledModel.profile`: measured once, kept by model, placement and machine, for every kind of batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs

import recfx
import recfx.driver.profile as driver_profile
from recfx.cost.profile import Profile
from recfx.errors import InputError


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(driver_profile, "_POINT_SECONDS", 0.001)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(scope="module")
def fast() -> recfx.CompiledModel:
    return recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(6), measure=False)


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*args: Any) -> Profile:
        raise AssertionError("measured again")

    monkeypatch.setattr(driver_profile, "_measured", measured)


def test_a_profile_has_times_by_rows_and_threads(fast: recfx.CompiledModel) -> None:
    found = fast.profile(threads=[1, 2])
    assert found.rows == [1, 4, 16, 64, 256, 1024]
    assert found.threads == [1, 2]
    assert found.model == "TinyCtr"
    assert found.seconds(1024, 1) > found.seconds(1, 1) > 0
    assert torch.get_num_threads() == 1


def test_a_profile_is_measured_once(fast: recfx.CompiledModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = fast.profile(rows=[1, 8])
    forbid(monkeypatch)
    assert fast.profile(rows=[8, 1, 1]) == found
    other = recfx.optimize(TinyCtr(1), example_inputs=tiny_inputs(6), measure=False)
    assert other.profile(rows=[1, 8]) == found
    for call in (
        lambda: fast.profile(rows=[1, 9]),
        lambda: fast.profile(rows=[1, 8], threads=[2]),
        lambda: fast.profile(rows=[1, 8], again=True),
        lambda: fast.profile(rows=[1, 8], cache=False),
        lambda: recfx.optimize(TinyCtr(), target="eager", example_inputs=tiny_inputs(6), measure=False).profile([1, 8]),
    ):
        with pytest.raises(AssertionError, match="measured again"):
            call()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"sha256": "0", "content": {}}'])
def test_a_damaged_file_is_measured_again(fast: recfx.CompiledModel, damage: bytes, tmp_path: Path) -> None:
    fast.profile(rows=[2])
    (file,) = (tmp_path / "recfx").glob("profile-*.json")
    file.write_bytes(damage)
    assert fast.profile(rows=[2]).rows == [2]
    assert file.read_bytes() != damage


def test_a_file_of_another_machine_is_measured_again(
    fast: recfx.CompiledModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fast.profile(rows=[2])
    (file,) = (tmp_path / "recfx").glob("profile-*.json")
    content = file.read_bytes()
    here = driver_profile.identity(0)
    monkeypatch.setattr(driver_profile, "identity", lambda threads: ("another", *here[1:]))
    found = fast.profile(rows=[2])
    (new,) = set((tmp_path / "recfx").glob("profile-*.json")) - {file}
    assert found.cpu == "another"
    new.write_bytes(content)
    forbid(monkeypatch)
    with pytest.raises(AssertionError, match="measured again"):
        fast.profile(rows=[2])


@pytest.mark.parametrize("rows", [[0], [-1], [10**9], []])
def test_rows_that_the_model_does_not_take(fast: recfx.CompiledModel, rows: list[int]) -> None:
    with pytest.raises(InputError, match="rows"):
        fast.profile(rows=rows)


@pytest.mark.parametrize("threads", [[0], [], [-2, 1]])
def test_threads_that_do_not_exist(fast: recfx.CompiledModel, threads: list[int]) -> None:
    with pytest.raises(InputError, match="threads"):
        fast.profile(rows=[1], threads=threads)


def test_the_largest_batch_limits_the_sizes() -> None:
    small = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(6), measure=False, max_batch=20)
    assert small.profile().rows == [1, 4, 16]
    with pytest.raises(InputError, match="1 to 20 rows"):
        small.profile(rows=[21])


def test_a_fixed_batch_has_one_size() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(7, 3).sum(0)

    fixed = recfx.optimize(
        Fixed().eval(), example_inputs=(torch.ones(7, 3),), dynamic_shapes={"x": None}, measure=False
    )
    assert fixed.profile().rows == [7]
    with pytest.raises(InputError, match="7 rows only"):
        fixed.profile(rows=[8])


def test_one_row_with_a_program_of_its_own() -> None:
    class Squeezed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).squeeze().relu()

    squeezed = recfx.optimize(Squeezed().eval(), example_inputs=(torch.ones(5, 4),), measure=False)
    assert squeezed.profile().rows[0] == 1
