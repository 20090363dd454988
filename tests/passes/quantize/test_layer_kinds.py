"""Operators that hold layers: their matrices in the order of the reference, and arguments taken apart and put together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

from recfx.capture import capture
from recfx.ir import Program
from recfx.passes.quantize.calibrated_layers import products_of, run_together
from recfx.passes.quantize.layer_kinds import KINDS, compact
from recfx.pipeline import Pipeline
from recfx.zoo import DCNv2, XDeepFM


class Chain(nn.Sequential):
    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(6, 5), nn.PReLU(5), nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))


def programs() -> dict[str, tuple[Program, list[Any]]]:
    """Operator -> a program that holds it, and inputs."""
    found: dict[str, tuple[Program, list[Any]]] = {}
    cross, network = DCNv2.small().eval(), XDeepFM.small().eval()
    for model, inputs in (
        (Chain().eval(), (torch.randn(4, 6),)),
        (cross, cross.example_inputs(4)),
        (network, network.example_inputs(4)),
    ):
        text = "canonicalize,fuse-cross,fuse-cin,fuse-mlp"
        program = Pipeline(text).run(capture(model, inputs)).program
        for node in program.graph.nodes:
            if node.target in KINDS:
                found.setdefault(str(node.target), (program, list(inputs)))
    return found


PROGRAMS = programs()
CASES = sorted(PROGRAMS)


def nodes_of(program: Program) -> list[fx.Node]:
    return [node for node in program.graph.nodes if node.target in KINDS]


def test_all_kinds_are_met() -> None:
    assert sorted(str(target) for target in KINDS) == CASES


@pytest.mark.parametrize("name", CASES)
def test_arguments_of_decoded_layers_are_the_arguments(name: str) -> None:
    program, _ = PROGRAMS[name]
    for node in nodes_of(program):
        kind, arguments = KINDS[node.target], list(node.args)
        params: Any = arguments[kind.params]
        again = kind.with_layers(arguments, params, kind.layers(arguments))
        assert again[: len(arguments)] == tuple(arguments)


@pytest.mark.parametrize("name", CASES)
def test_matrices_are_those_that_the_reference_multiplies_in_order(name: str) -> None:
    program, inputs = PROGRAMS[name]
    seen: dict[fx.Node, list[tuple[int, int]]] = {}

    def visit(node: fx.Node, values: Any) -> None:
        if node.target in KINDS:
            products_of(
                node, values[0], lambda number, x, y: seen.setdefault(node, []).append((x.shape[-1], y.shape[-1]))
            )

    run_together(program, [inputs], visit)
    for node in nodes_of(program):
        kind, arguments = KINDS[node.target], list(node.args)
        params: Any = arguments[kind.params]
        weights = [
            params[getattr(layer, fields.weight)].meta["val"]
            for layer in kind.layers(arguments)
            for fields in kind.matrices(layer)
        ]
        assert [(w.shape[1], w.shape[0]) for w in weights] == seen[node]


@pytest.mark.parametrize("name", CASES)
def test_fields_that_are_positions_point_at_parameters(name: str) -> None:
    program, _ = PROGRAMS[name]
    for node in nodes_of(program):
        kind, arguments = KINDS[node.target], list(node.args)
        params: Any = arguments[kind.params]
        layers = kind.layers(arguments)
        read = {getattr(layer, field) for layer in layers for field in kind.names} - {-1}
        assert read == set(range(len(params)))
        assert all(getattr(layer, m.weight) >= 0 for layer in layers for m in kind.matrices(layer))


def test_parameters_that_no_layer_reads_go() -> None:
    (node,) = nodes_of(PROGRAMS[CASES[-1]][0])[:1]
    kind, arguments = KINDS[node.target], list(node.args)
    params: Any = arguments[kind.params]
    layers = kind.layers(arguments)
    kept, again = compact([*params, params[0]], layers, kind.names)
    assert kept == list(params)
    assert again == layers
    fewer, moved = compact(params, layers[1:], kind.names)
    assert 0 < len(fewer) < len(params)
    for old, new in zip(layers[1:], moved, strict=True):
        for field in kind.names:
            at = getattr(old, field)
            assert (at == -1 and getattr(new, field) == -1) or params[at] is fewer[getattr(new, field)]
