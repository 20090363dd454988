"""Plans: regions, their true cost, the search, and which plans are worth lowering."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_kit import RandomCosts, TableCosts, aten, chain, named_backends, table_of

from recfx.cost.estimate import Estimate
from recfx.ir.program import Program
from recfx.ir.region import split
from recfx.placement.costs import CostTable, cost_table
from recfx.placement.moves import Moves
from recfx.placement.plans import _variations, best_plans, in_order, plan_of, single_plans
from recfx.placement.regions import assignment_of, costed_regions, total
from recfx.placement.search import candidates, may_gain, predicted_best
from recfx.testing import GraphBuilder, rec_graphs

NAMES = ("native", "other", "eager")


def diamond() -> Program:
    """linear -> (tanh, relu) -> cat, with a softmax on one branch."""
    b = GraphBuilder({"x": ("batch", 4)})
    y = b.call(aten.linear.default, b.inputs["x"], b.state("w", torch.randn(4, 4)))
    left = b.call(aten.softmax.int, b.call(aten.tanh.default, y), 1)
    right = b.call(aten.relu.default, y)
    return b.build(b.call(aten.cat.default, [left, right], 1))


def label(table: CostTable, **of: str) -> tuple[int, ...]:
    """Labels from the first operator of each unit; other units are native."""
    names = table.graph.backends
    return tuple(names.index(of.get(unit.nodes[0].name, "native")) for unit in table.graph.units)


def test_a_tensor_that_a_region_reads_twice_is_handed_over_once() -> None:
    program = diamond()
    table = table_of(program, TableCosts({}, byte=1.0, default=0.0), NAMES)
    linear = table.graph.units[0].nodes[0].name
    labels = label(table, **{linear: "other"})
    first, second = costed_regions(table, labels)
    assert (first.backend, second.backend) == ("other", "native")
    assert first.call.seconds == 16  # the input
    assert second.call.seconds == 16 + 32  # what both branches read, and the output


def test_units_of_one_backend_around_another_are_two_regions_with_two_calls() -> None:
    program = diamond()
    table = table_of(program, TableCosts({}, call={"native": 1.0, "other": 10.0, "eager": 5.0}, default=0.0), NAMES)
    softmax = next(unit.nodes[0].name for unit in table.graph.units if "softmax" in str(unit.nodes[-1].target))
    labels = label(table, **{softmax: "other"})
    regions = costed_regions(table, labels)
    assert [region.backend for region in regions] == ["native", "other", "native"]
    assert total(regions).seconds == 12.0
    better = Moves(table).improved(labels)
    assert better == label(table)
    assert plan_of(table, better).cost.seconds == 1.0


@settings(deadline=None, max_examples=15)
@given(rec_graphs(max_steps=6), st.integers(0, 1000), st.sampled_from([0.0, 1e-6, 2e-5]))
def test_the_best_plan_is_the_cheapest_of_all_choices(program: Program, seed: int, call: float) -> None:
    costs = RandomCosts(seed, call={"native": call, "other": 2 * call, "eager": call / 4}, byte=1e-9, handoff=1e-6)
    table = table_of(program, costs, NAMES)
    units = len(table.graph.units)
    if units > 6:
        return
    every = [plan_of(table, labels).cost.seconds for labels in itertools.product(range(3), repeat=units)]
    found = best_plans(table)
    assert found[0].cost.seconds == pytest.approx(min(every))
    assert [p.cost.seconds for p in found] == sorted(p.cost.seconds for p in found)
    assert {p.labels for p in single_plans(table)} <= {p.labels for p in found}


@settings(deadline=None, max_examples=15)
@given(rec_graphs(max_steps=8), st.data())
def test_the_regions_are_those_of_the_split_program(program: Program, data: st.DataObject) -> None:
    table = table_of(program, TableCosts({}), NAMES)
    labels = [data.draw(st.integers(0, 2)) for _ in table.graph.units]
    by_name = assignment_of(table, labels)
    assignment = {node: by_name[node.name] for node in table.graph.unit_of}
    regions = costed_regions(table, labels)
    found = split(program, assignment)
    assert [region.backend for region in regions] == list(found.backends)
    assert sorted(unit for region in regions for unit in region.units) == list(range(len(table.graph.units)))
    assert total(regions).seconds == pytest.approx(
        sum(table.own[unit][label].seconds for unit, label in enumerate(labels))
    )


@settings(deadline=None, max_examples=15)
@given(rec_graphs(max_steps=8), st.data())
def test_moves_count_regions_of_units_like_regions_of_operators(program: Program, data: st.DataObject) -> None:
    """Sizes can make fewer regions of units than of operators, and never make a difference on one backend."""
    table = table_of(program, TableCosts({}, call={"native": 1e-3, "other": 2e-3, "eager": 0.0}, byte=1e-9), NAMES)
    labels = [data.draw(st.integers(0, 2)) for _ in table.graph.units]
    regions = Moves(table).regions(labels)
    if regions is None:
        return
    assert sorted(unit for region in regions for unit in region[1]) == list(range(len(table.graph.units)))
    exact = total(costed_regions(table, labels)).seconds
    assert sum(region[2] + region[3] for region in regions) == pytest.approx(exact, rel=0.5, abs=5e-3)
    if len(set(labels)) == 1 and labels:
        assert len(regions) == 1


def test_an_unsupported_unit_is_never_given_to_the_backend() -> None:
    program = diamond()
    softmax = next(n.name for n in program.graph.nodes if n.target is aten.softmax.int)
    costs = TableCosts({"native": {}, "other": {}, "eager": {}}, default=1.0)
    table = table_of(program, costs, NAMES, {"native": [softmax], "other": [softmax]})
    for plan in best_plans(table):
        assert math.isfinite(plan.cost.seconds)
        assert assignment_of(table, plan.labels)[softmax] == "eager"
    assert in_order(table, ["native"]).name == "native + eager"


def test_plans_that_cannot_be_faster_are_not_lowered() -> None:
    program = diamond()
    near = TableCosts({"native": {}, "other": {}}, default=1.0, spread=1.0)
    slow_other = TableCosts({"other": dict.fromkeys((n.name for n in program.graph.nodes), 9.0)}, default=1.0)
    assert [c.name for c in candidates([table_of(program, near, ["native", "eager"])], ["native"])] == ["native"]
    table = table_of(program, slow_other, ["native", "other", "eager"])
    assert all("other" not in c.name for c in candidates([table], ["native"]))


def test_a_plan_whose_interval_reaches_below_the_first_is_lowered_but_not_trusted() -> None:
    program = diamond()
    names = [n.name for n in program.graph.nodes if n.op == "call_function"]
    costs = TableCosts(
        {"other": dict.fromkeys(names, 1.1), "eager": dict.fromkeys(names, 99.0)}, default=1.0, spread=1.5
    )
    table = table_of(program, costs, NAMES)
    found = candidates([table], ["native"])
    assert found[0].name == "native"
    assert "other" in [c.name for c in found]
    assert predicted_best(found, 1) is found[0]
    costs.own["other"].update(dict.fromkeys(names, 0.5))  # type: ignore[attr-defined]
    found = candidates([table_of(program, costs, NAMES)], ["native"])
    assert predicted_best(found, 1).name == "other"


def test_each_batch_size_has_its_best() -> None:
    class ByRows(TableCosts):
        def launch(self, backend: str, threads: int) -> Estimate:
            return Estimate.exactly(1.0 if backend == "other" else 0.0)

        def unit(self, backend, region, rows, threads):  # type: ignore[no-untyped-def]
            return Estimate.exactly(rows * {"native": 0.5, "other": 0.1, "eager": 9.0}[backend])

    program = chain(aten.linear.default)
    tables = [table_of(program, ByRows({}), NAMES, rows=rows) for rows in (1, 100)]
    found = candidates(tables, ["native"])
    assert [predicted_best(found, rows).name for rows in (1, 100)] == ["native", "other"]


def test_every_backend_is_a_candidate_alone_and_with_the_first_one_beside_it() -> None:
    program = diamond()
    softmax = next(n.name for n in program.graph.nodes if n.target is aten.softmax.int)
    names = [n.name for n in program.graph.nodes if n.op == "call_function"]
    costs = TableCosts({"other": dict.fromkeys(names, 0.9)}, default=1.0, spread=2.0)
    table = table_of(program, costs, NAMES, {"other": [softmax]})
    found = {assignment_of(table, plan.labels)[softmax]: plan for plan in single_plans(table) if "other" in plan.name}
    assert sorted(found) == ["eager", "native"]
    assert {plan.labels for plan in found.values()} <= {c.labels for c in candidates([table], ["native"])}


def test_plans_that_hardly_differ_are_not_both_lowered() -> None:
    program = chain(*[aten.linear.default] * 60)
    names = [n.name for n in program.graph.nodes if n.op == "call_function"]
    costs = TableCosts({"other": {name: 0.5 if at < 58 else 1.1 for at, name in enumerate(names)}}, default=1.0)
    table = table_of(program, costs, NAMES)
    found = candidates([table], ["native"])
    assert [len(set(c.labels)) for c in found[:2]] == [1, 2]
    for a, b in itertools.combinations(found, 2):
        assert sum(x != y for x, y in zip(a.labels, b.labels, strict=True)) > 3


def test_nothing_can_be_gained_where_every_other_backend_costs_more() -> None:
    program = diamond()
    names = [n.name for n in program.graph.nodes if n.op == "call_function"]
    backends = named_backends(NAMES)
    for seconds, gain in ((9.0, False), (0.1, True)):
        costs = TableCosts({"other": dict.fromkeys(names, seconds), "eager": dict.fromkeys(names, 9.0)}, default=1.0)
        graph = table_of(program, costs, NAMES).graph
        table = cost_table(graph, backends, costs, 1, 1)
        assert may_gain(table, in_order(table, ["native"])) is gain


def test_variations_come_in_one_order_and_contain_torch() -> None:
    """Sets have no order of their own, so that the plans would differ from one process to the next."""
    found = [sorted(allowed) for allowed, _ in _variations(5, 2)]
    whole = [labels for labels in found if len(labels) == 5]
    rest = found[len(whole) :]
    assert found[: len(whole)] == whole
    assert all(2 in labels for labels in found)
    others = [[label for label in labels if label != 2] for labels in rest]
    assert others == sorted(others)
    assert len({tuple(labels) for labels in others}) == len(others) == 4 + 4 + 6
