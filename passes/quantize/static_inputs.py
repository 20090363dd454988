"""Calibrated scales for the int8 layers of a program that has been quantised: each row's own scale becomes one for all rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.program import Program, get_state
from recfx.passes.quantize.calibrated_layers import observe
from recfx.passes.quantize.input_scales import Method, input_scale
from recfx.passes.quantize.layer_kinds import KINDS, Matrix


def dynamic_layers(program: Program) -> list[fx.Node]:
    """The operators that hold an int8 layer whose input is quantised by a scale of each row."""
    return [
        node
        for node in program.graph.nodes
        if node.target in KINDS and any(_is_dynamic(program, node, *pair) for pair in _matrices(node))
    ]


def with_static_inputs(program: Program, rows: Sequence[list[Any]], method: Method) -> Program:
    """A program whose int8 layers have calibrated scales; those that have one keep it.

    Args:
        program: The program, which stays as it is.
        rows: Flat inputs of some batches.
        method: A method of `input_scale`.

    Returns:
        The program. Layers whose input is zero on these rows, or is not finite, keep a scale for each row.
    """
    made = program.clone()
    nodes = dynamic_layers(made)
    seen = observe(made, rows, nodes)
    for node in nodes:
        kind, arguments = KINDS[node.target], _arguments(node)
        layers, params = kind.layers(arguments), arguments[kind.params]
        number = 0
        for position, layer in enumerate(layers):
            for fields in kind.matrices(layer):
                if _is_dynamic(made, node, layers[position], fields):
                    x = seen[node, number].inputs
                    at = getattr(layer, fields.factor) if fields.factor else -1
                    if at >= 0:
                        x = x * get_state(made.module, str(params[at].target)).detach()
                    scale = {fields.input_scale: input_scale(x, method)}
                    layers[position] = dataclasses.replace(layers[position], **scale)
                number += 1
        node.args = kind.with_layers(arguments, params, layers)
    made.module.recompile()
    return made


def _arguments(node: fx.Node) -> list[Any]:
    return list(node.args)


def _matrices(node: fx.Node) -> list[tuple[Any, Matrix]]:
    kind = KINDS[node.target]
    return [(layer, fields) for layer in kind.layers(node.args) for fields in kind.matrices(layer)]


def _is_dynamic(program: Program, node: fx.Node, layer: Any, fields: Matrix) -> bool:
    params: Any = node.args[KINDS[node.target].params]
    read = params[getattr(layer, fields.weight)]
    weight = get_state(program.module, str(read.target)) if read.op == "get_attr" else None
    whole = isinstance(weight, torch.Tensor) and weight.dtype is torch.int8
    return whole and getattr(layer, fields.input_scale) <= 0
