"""The report, its JSON, `explain`, and the placement name every operator that torch runs, with its reason and its share of the time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import TinyCtr, tiny_inputs
from native_kit import needs_kernels

import recfx
from recfx.driver.torch_operators import TorchOperator, described, in_percent

pytestmark = needs_kernels


class RunningMaximum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cummax(x, -1).values


class Layers(torch.nn.Module):
    """Linears, some of them followed by a running maximum."""

    def __init__(self, running_ones: set[int], count: int = 3) -> None:
        super().__init__()
        blocks = [
            torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), *[RunningMaximum()] * (i in running_ones))
            for i in range(count)
        ]
        self.blocks = torch.nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


@given(st.sets(st.integers(0, 2)))
@settings(max_examples=6, deadline=None)
def test_every_operator_in_torch_is_named_everywhere(places: set[int]) -> None:
    fast = recfx.optimize(Layers(places).eval(), example_inputs=torch.randn(16, 8), measure=False)
    operators = fast.report.torch_operators
    assert [(item.operator, item.module) for item in operators] == [
        ("aten.cummax.default", f"blocks.{i}.2") for i in sorted(places)
    ]
    assert fast.placement.torch_operators == operators
    assert [(item["operator"], item["reason"]) for item in fast.report.to_json()["torch_operators"]] == [
        *fast.report.left_to_torch
    ]
    for text in (str(fast.report), recfx.explain(fast), repr(fast.placement)):
        assert ("aten.cummax.default" in text) is bool(places)
        assert ("no kernel for aten.cummax.default" in text) is bool(places)
        for place in places:
            assert f"blocks.{place}.2" in text


def test_shares_of_the_time_are_measured() -> None:
    fast = recfx.optimize(Layers({0, 2}).eval(), example_inputs=torch.randn(64, 8))
    shares = [item.share for item in fast.report.torch_operators]
    assert len(shares) == 2
    assert all(share is not None and 0 < share < 1 for share in shares)
    assert sum(share or 0.0 for share in shares) < 1
    for text in (str(fast.report), recfx.explain(fast), repr(fast.placement)):
        assert "% of the time" in text
    json.dumps(fast.report.to_json())


def test_shares_are_saved_and_stay_at_a_refresh(tmp_path: Path) -> None:
    model = Layers({1}).eval()
    fast = recfx.optimize(model, example_inputs=torch.randn(16, 8))
    fast.save(tmp_path / "model")
    again = recfx.load(tmp_path / "model")
    assert again.report.torch_operators == fast.report.torch_operators
    assert repr(again.placement) == repr(fast.placement)
    measured = fast.report.torch_operators
    fast.refresh()
    assert fast.report.torch_operators == measured


def test_a_model_on_torch_alone_has_the_whole_time() -> None:
    fast = recfx.optimize(TinyCtr(), target="eager", example_inputs=tiny_inputs(8))
    assert sum(item.share or 0.0 for item in fast.report.torch_operators) == pytest.approx(1)
    assert len(fast.report.torch_operators) == fast.report.lowered_operators
    assert "run in torch" not in str(fast.report)  # the user asked for it


def test_a_model_with_a_plan_for_one_row_names_those_of_both() -> None:
    class Squeezed(Layers):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).squeeze()

    fast = recfx.optimize(Squeezed({1}).eval(), example_inputs=torch.randn(16, 8), measure=False)
    assert fast.report.one_row is not None
    assert Counter(item.operator for item in fast.placement.torch_operators)["aten.cummax.default"] == 2
    assert str(fast.report).count("no kernel for aten.cummax.default") == 2


def test_operators_of_one_kind_are_one_line_and_the_slowest_come_first() -> None:
    def made(name: str, share: Any, module: str = "") -> TorchOperator:
        return TorchOperator(name, "why", module, share)

    lines = described([made("a", 0.1, "x"), made("b", 0.5), made("a", 0.2, "y"), made("c", 0.0)])
    assert lines == ["b: why, 50% of the time", "a (2 times) in x, y: why, 30% of the time", "c: why, 0% of the time"]
    assert described([made("a", None, "x")]) == ["a in x: why"]
    assert in_percent([]) == ""
    assert described([made("a", 0.1, str(i)) for i in range(5)])[0].startswith("a (5 times) in 0, 1, 2, ...: why")


def test_the_users_own_model_is_named_where_it_runs_instead() -> None:
    import dataclasses

    fast = recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(8), measure=False)
    assert not fast.placement.kept_eager
    fast.parts.report = dataclasses.replace(fast.report, kept_eager=True)
    assert "on your own model instead of native" in str(fast.report)
    assert "your own model runs" in repr(fast.placement)
