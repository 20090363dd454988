"""Where a node comes from: the user's module and line, out of what torch's tracers record."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from recfx.ir.provenance import module_path, user_line, where


def _node(**meta: Any) -> fx.Node:
    graph = fx.Graph()
    node = graph.call_function(torch.relu, (graph.placeholder("x"),))
    node.meta.update(meta)
    return node


@pytest.mark.parametrize(
    ("stack", "path"),
    [
        (None, ""),
        ({}, ""),
        ({"a": ("", type)}, ""),
        ({"a": ("", type), "b": ("bottom.0", type)}, "bottom.0"),
        ({"a": ("L['self'].tower", type)}, "tower"),
        ({"a": ("L['self']", type)}, ""),
        ({"a": ("bottom", type), "b": ("_empty_nn_module_stack_from_metadata_hook", type)}, ""),
    ],
)
def test_the_path_of_the_innermost_module(stack: Any, path: str) -> None:
    assert module_path(_node(nn_module_stack=stack) if stack is not None else _node()) == path


USER, INNER = 'File "/home/me/model.py", line 3, in forward', 'File "/home/me/layers.py", line 9, in forward'
TRACER = 'File "/usr/lib/python3/site-packages/torch/fx/proxy.py", line 1, in run'
LAYER = 'File "/usr/lib/python3/site-packages/torch/nn/modules/linear.py", line 2, in forward'


@pytest.mark.parametrize(
    ("trace", "line"),
    [
        (None, None),
        ("", None),
        ("no frames here", None),
        (f"{TRACER}\n  run()", None),
        (f"{USER}\n  y = f(x)", '"/home/me/model.py", line 3, in forward: y = f(x)'),
        (f"{USER}\n  y = f(x)\n{INNER}\n  z\n{TRACER}\n  run()", '"/home/me/layers.py", line 9, in forward: z'),
        (f"{USER}\n  y\n{LAYER}\n  F.linear()", LAYER.removeprefix("File ") + ": F.linear()"),
        (USER, '"/home/me/model.py", line 3, in forward: '),
    ],
)
def test_the_last_line_that_no_tracer_wrote(trace: str | None, line: str | None) -> None:
    assert user_line(_node(stack_trace=trace)) == line


def test_a_description_has_what_is_known() -> None:
    node = _node()
    assert where(node) == f"{node.name} = {node.target}"
    full = _node(nn_module_stack={"a": ("tower", type)}, stack_trace=f"{USER}\n  y = f(x)")
    assert (
        where(full)
        == f"{full.name} = {full.target} in module 'tower' at \"/home/me/model.py\", line 3, in forward: y = f(x)"
    )
