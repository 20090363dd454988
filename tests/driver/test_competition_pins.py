"""The backends that a user names for parts of a model, and in which order backends compete."""

from __future__ import annotations

from typing import Any

import pytest
from competition_kit import ALWAYS, NEVER, Prices, Toy, agrees, optimized
from native_kit import needs_kernels

import recfx


def test_pins_by_module_operator_and_region(toy: Toy, prices: Any) -> None:
    prices(NEVER)
    model, fast = optimized(placement={"tower": "toy"})
    on_toy = [r for r in fast.report.regions if r.backend == "toy"]
    assert on_toy
    assert {module.partition(".")[0] for region in on_toy for module in region.modules} == {"tower"}
    assert any("table" in r.modules or "top" in r.modules for r in fast.report.regions if r.backend != "toy")
    agrees(fast, model)
    _, again = optimized(target="eager", placement={"region 0": "toy"})
    assert set(again.placement.values()) == {"toy"}
    name = next(n.name for n in again.program.graph.nodes if "softmax" in str(n.target))
    _, third = optimized(target="eager", placement={name: "toy", "region 0": "eager", "tower": "eager"})
    assert [r.operators for r in third.report.regions if r.backend == "toy"] == [(("aten.softmax.int", 1),)]


def test_the_longest_module_path_of_the_pins_counts(toy: Toy, prices: Any) -> None:
    prices(None)
    _, fast = optimized(target="eager", placement={"tower.2": "eager", "tower": "toy"})
    on_toy = {module for r in fast.report.regions if r.backend == "toy" for module in r.modules}
    assert on_toy == {"tower.0", "tower.1"}


def test_pins_that_a_backend_refuses_are_noted(toy: Toy, prices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from recfx.targets import Verdict

    prices(None)
    plain = toy.supports

    def supports(program: Any) -> Any:
        return {n: Verdict(False, "no softmax") if "softmax" in str(n.target) else v for n, v in plain(program).items()}

    monkeypatch.setattr(toy, "supports", supports)
    model, fast = optimized(target="eager", placement={"tower": "toy"})
    assert any("refuses it" in n and "no softmax" in n for n in fast.report.notices)
    agrees(fast, model)


@pytest.mark.parametrize(
    ("placement", "error", "message"),
    [
        ("fastest", recfx.InputError, "placement='fastest' is unknown"),
        ({"towr": "toy"}, recfx.InputError, "'towr', which is not a module.*\n.*tower"),
        ({"region 99": "toy"}, recfx.InputError, "region 99"),
        ({"tower": "abacus"}, recfx.TargetError, "unknown backend 'abacus'"),
        ({"": "toy"}, recfx.InputError, "not a module"),
    ],
)
def test_unknown_placements(toy: Toy, prices: Any, placement: Any, error: Any, message: str) -> None:
    prices(None)
    with pytest.raises(error, match=message):
        optimized(placement=placement)


def test_a_pin_to_a_missing_backend_names_the_next_step(toy: Toy, prices: Any) -> None:
    prices(None)
    toy.missing = "pip install 'recfx[toy]'"
    with pytest.raises(recfx.TargetError, match=r"recfx\[toy\]"):
        optimized(placement={"tower": "toy"})
    with pytest.raises(recfx.TargetError, match=r"recfx\[toy\]"):
        optimized(target="toy")
    optimized()


def test_a_list_of_targets_is_an_order_unless_a_placement_is_asked_for(toy: Toy, prices: Any) -> None:
    prices(NEVER)
    _, fast = optimized(target=["toy", "eager"])
    assert set(fast.placement.values()) == {"toy"}
    prices(ALWAYS)
    _, fast = optimized(target=["eager", "toy"])
    assert set(fast.placement.values()) == {"eager"}
    _, fast = optimized(target=["eager", "toy"], placement="model")
    assert set(fast.placement.values()) == {"toy"}


@needs_kernels
def test_a_backend_that_is_slow_to_lower_competes_only_where_torch_runs_much_and_the_target_names_it(
    toy: Toy, prices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices(Prices({"toy": 1e-8, "native": 1e-7, "eager": 1e-6}))
    monkeypatch.setattr(toy, "slow_to_lower", lambda region: True)
    for target, expected in (("cpu", False), (["cpu", "toy"], False), (["eager", "toy"], True)):
        _, fast = optimized(target=target, placement="model")
        assert ("toy" in fast.placement.values()) is expected, target
