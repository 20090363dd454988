"""The rewrite of graphs into ATen: kept operators, provenance of new ones, and constants."""

from __future__ import annotations

import torch
from models import TinyCtr, tiny_inputs

from recfx.capture import capture
from recfx.ir.operators import DIALECT
from recfx.ir.program import Program
from recfx.ir.provenance import module_path, user_line
from recfx.ir.region import Region
from recfx.ops import decompose, decompose_module, interaction, mlp
from recfx.passes import NATIVE_PIPELINE
from recfx.pipeline import Pipeline
from recfx.runtime.flat import flat_function
from recfx.testing.builder import GraphBuilder


def fused() -> Program:
    captured = capture(TinyCtr().eval(), tiny_inputs(6), {})
    return Pipeline(NATIVE_PIPELINE).run(captured).program


def dialect(program: Program) -> set[object]:
    return {node.target for node in program.graph.nodes} & set(DIALECT)


def test_operators_to_keep_stay() -> None:
    program = fused()
    before = str(program)
    assert mlp.mlp in dialect(program)
    assert len(dialect(program)) > 1
    assert dialect(decompose(program, keep={mlp.mlp})) == {mlp.mlp}
    assert dialect(decompose(program, keep=DIALECT)) == dialect(program)
    assert not dialect(decompose(program))
    assert str(program) == before


def test_new_operators_come_from_where_the_old_one_came_from() -> None:
    program = fused()
    known = {module_path(n): user_line(n) for n in program.graph.nodes if n.target in DIALECT}
    assert len(known) > 1
    old = {n.name for n in program.graph.nodes}
    made = [n for n in decompose(program).graph.nodes if n.op == "call_function" and n.name not in old]
    assert {module_path(n): user_line(n) for n in made} == known


def test_answers_stay() -> None:
    program = fused()
    made = decompose(program)
    for batch in (1, 2, 7):
        leaves = program.signature.flatten(tiny_inputs(batch), {})
        torch.testing.assert_close(made.run(leaves), program.run(leaves))


def test_a_region_is_rewritten_in_place() -> None:
    region = Region.whole(fused()).clone()
    assert decompose_module(region.module) > 0
    assert not decompose_module(region.module)
    leaves = list(tiny_inputs(3))
    torch.testing.assert_close(list(flat_function(region)(*leaves)), region.run(leaves))


def test_values_that_are_alike_are_told_apart() -> None:
    """Fake values may be shared by inputs of the same shape."""
    builder = GraphBuilder({"x": ("batch", 3)})
    weights = [builder.state(f"w{i}", torch.full((3, 3), float(i))) for i in range(2)]
    weights[1].meta["val"] = weights[0].meta["val"]
    made = builder.call(mlp.mlp, builder.inputs["x"], weights, *mlp.encode([mlp.Layer(1)]))
    found = decompose(builder.build(made)).run([torch.ones(2, 3)])
    assert torch.equal(found[0], torch.full((2, 3), 3.0))


def test_constants_of_two_operators_have_names_of_their_own() -> None:
    builder = GraphBuilder({"x": ("batch", 3, 2)})
    dots = [
        builder.call(interaction.dot_interaction, builder.inputs["x"], None, diagonal, True)
        for diagonal in (False, True)
    ]
    program = builder.build(*dots)
    made = decompose(program)
    assert len(made.state()) == 2
    leaves = [torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(made.run(leaves), program.run(leaves))
