"""Plans in which one module runs on another backend."""

from __future__ import annotations

import pytest
import torch
from placement_kit import TableCosts, table_of
from torch import Tensor, nn

from recfx.capture import capture
from recfx.placement.costs import CostTable
from recfx.placement.module_plans import module_plans
from recfx.placement.plans import in_order
from recfx.placement.search import candidates

NAMES = ("native", "other", "eager")


class Towers(nn.Module):
    """Two modules, one of which has a module inside, and an operator of no module."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)))
        self.top = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(torch.cat([x, self.picture(x)], 1))


def costs(picture: float, top: float, other: float = 1.0) -> TableCosts:
    """Seconds of the operators of the two modules on the native kernels, and the multiple of another backend."""
    own = {"softmax": picture / 4, "softmax_1": picture / 4, "linear": picture / 4, "linear_1": picture / 4}
    own |= {"linear_2": top, "cat": 1e-9}
    return TableCosts({"native": own, "other": {n: s * other for n, s in own.items()}, "eager": own}, spread=2.0)


def plans(found: TableCosts) -> tuple[CostTable, list[set[str]]]:
    """The costs, and the operators that each plan gives to the other backend."""
    table = table_of(capture(Towers().eval(), (torch.randn(3, 4),)), found, NAMES)
    base = in_order(table, ["native"]).labels
    names = table.graph.backends
    moved = [
        {unit.nodes[0].name for unit, label in zip(table.graph.units, labels, strict=True) if names[label] != "native"}
        for labels in module_plans(table, base)
    ]
    assert all(names[label] != "eager" for labels in module_plans(table, base) for label in labels)
    return table, moved


def test_the_slow_modules_move_as_wholes_the_slowest_first() -> None:
    table, moved = plans(costs(8e-6, 4e-6))
    operators = {unit.nodes[0].name for unit in table.graph.units}
    inside = {name for name in operators if name.startswith(("linear", "softmax")) and name != "linear_2"}
    assert moved[0] == inside
    assert {"linear_2"} in moved
    assert len(moved) == 3, "the picture, the top, and the module inside the picture"
    assert any(operators < inside for operators in moved)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (costs(1e-9, 8e-6), "a module that takes little time"),
        (costs(8e-6, 8e-6, other=float("inf")), "a backend that cannot run the module"),
        (costs(0.0, 0.0), "a program without any time"),
    ],
)
def test_what_does_not_move(found: TableCosts, reason: str) -> None:
    _, moved = plans(found)
    assert not any("softmax" in operators for operators in moved), reason


@pytest.mark.parametrize(("share", "moves"), [(0.15, False), (0.25, True)])
def test_a_module_moves_from_a_fifth_of_the_time_on(share: float, moves: bool) -> None:
    """Each module counts once, a module inside another one, and operators directly in a module, likewise."""
    _, moved = plans(costs(1e-6 * (1 - share), 1e-6 * share))
    assert ({"linear_2"} in moved) == moves
    _, moved = plans(costs(2e-6 * share, 1e-6 * (1 - 2 * share)))
    inner = {"linear_1", "softmax_1"}
    assert (inner in moved) == moves, "half of the picture's time is that of the module inside"
    assert {"linear", "softmax", *inner} in moved, "the whole picture has twice the share"


def test_the_three_slowest_modules_move() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    own = {"linear": 3e-6, "linear_1": 2e-6, "linear_2": 5e-6, "linear_3": 4e-6}
    table = table_of(
        capture(Chain().eval(), (torch.randn(3, 4),)), TableCosts(dict.fromkeys(NAMES, own), spread=2.0), NAMES
    )
    base = in_order(table, ["native"]).labels
    moved = [
        {u.nodes[0].name for u, label, old in zip(table.graph.units, labels, base, strict=True) if label != old}
        for labels in module_plans(table, base)
    ]
    assert moved == [{"linear_2"}, {"linear_3"}, {"linear"}]


def test_a_plan_of_one_module_competes_although_its_units_alone_are_predicted_to_be_slower() -> None:
    table, _ = plans(costs(8e-6, 4e-6, other=1.2))
    names = table.graph.backends
    found = candidates([table], ["native"])
    chosen = [
        {unit.nodes[0].name for unit, label in zip(table.graph.units, c.labels, strict=True) if names[label] == "other"}
        for c in found
    ]
    assert not chosen[0], "the plan that runs in any case is the first one"
    assert any("softmax" in operators and "linear_2" not in operators for operators in chosen)


def test_the_plans_are_the_same_each_time() -> None:
    assert plans(costs(8e-6, 4e-6))[1] == plans(costs(8e-6, 4e-6))[1]
