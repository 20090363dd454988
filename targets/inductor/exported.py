"""Regions as exported programs, which Inductor compiles."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import fx

from recfx.errors import TargetError
from recfx.ir.dead_code import remove_dead_code
from recfx.ir.program import get_state
from recfx.ir.region import Region
from recfx.ir.sizes import linear_size
from recfx.ops.to_aten import decompose_module
from recfx.targets.region_sizes import expression_of, is_size

#: The first size that stands for a dimension while the region is traced. Sizes of 0 and 1 would be fixed.
_FIRST_SIZE = 6
_LARGEST = 1 << 24


@dataclasses.dataclass(frozen=True)
class Exported:
    """A region for Inductor.

    Attributes:
        program: The exported program, in which operators of the dialect are decomposed.
        inputs: Indices of the region's inputs that it takes.
        results: The nodes of the region whose values it returns.
        state: Its constants by their names in the program, which do not depend on the names in the model.
    """

    program: Any
    inputs: tuple[int, ...]
    results: tuple[fx.Node, ...]
    state: dict[str, torch.Tensor]


def computed_outputs(region: Region) -> tuple[fx.Node, ...]:
    """The outputs that operators compute, each once; not sizes, inputs and state."""
    returned = next(iter(reversed(region.graph.nodes))).args[0]
    nodes = (
        node for node in returned if isinstance(node, fx.Node) and node.op == "call_function" and not is_size(node)
    )
    return tuple(dict.fromkeys(nodes))


def export(region: Region) -> Exported:
    """Exports a region.

    Raises:
        TargetError: The region has inputs that are sizes, or torch cannot export it.
    """
    names = {node.name for node in computed_outputs(region)}
    copied = region.clone()
    results = [node for node in copied.graph.nodes if node.name in names]
    (output,) = copied.graph.find_nodes(op="output")
    output.args = (tuple(results),)
    decompose_module(copied.module)
    remove_dead_code(copied.graph)
    placeholders = copied.placeholders()
    used = [index for index, node in enumerate(placeholders) if node.users]
    for node in placeholders:
        if not node.users:
            copied.graph.erase_node(node)
        elif is_size(node):
            raise TargetError("a region with sizes as inputs is not compiled", hint="give it to another backend")
    root, state = _with_plain_names(copied)
    inputs, shapes = _inputs(copied.placeholders())
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(fx.GraphModule(root, copied.graph), inputs, dynamic_shapes=shapes)
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise TargetError(
            f"torch cannot export the region: {type(error).__name__}: {line[:200]}",
            hint="give the region to another backend, such as 'eager'",
        ) from error
    by_name = {node.name: node for node in region.graph.nodes}
    return Exported(program, tuple(used), tuple(by_name[name] for name in (n.name for n in results)), state)


def _with_plain_names(region: Region) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Renames the state to state_0, state_1, ... in the order of its use."""
    root, state = torch.nn.Module(), dict[str, torch.Tensor]()
    renamed: dict[str, str] = {}
    for node in region.graph.find_nodes(op="get_attr"):
        old = str(node.target)
        if old not in renamed:
            renamed[old] = f"state_{len(renamed)}"
            tensor = get_state(region.module, old).detach()
            root.register_buffer(renamed[old], tensor)
            state[renamed[old]] = tensor
        node.target = renamed[old]
    return root, state


def _inputs(nodes: list[fx.Node]) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
    """Inputs of the sizes that tracing uses, and their free dimensions in torch.export's form."""
    dims: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    tensors, shapes = [], []
    for node in nodes:
        held = node.meta["val"]
        free: dict[int, Any] = {}
        shape = []
        for axis, size in enumerate(map(expression_of, held.shape)):
            if isinstance(size, int):
                shape.append(size)
                continue
            linear = linear_size(size, ())
            if linear is None:
                raise TargetError(
                    f"the size {size} of an input is not linear in a dimension",
                    hint="give the region to another backend, such as 'eager'",
                )
            symbol, factor, base = linear
            if symbol not in dims:
                sizes[symbol] = _FIRST_SIZE + 2 * len(dims)
                dims[symbol] = torch.export.Dim(f"d{len(dims)}", min=1, max=_LARGEST)
            shape.append(factor * sizes[symbol] + base)
            scaled = dims[symbol] if factor == 1 else factor * dims[symbol]
            free[axis] = scaled + base if base else scaled
        tensors.append(torch.zeros(shape, dtype=held.dtype))
        shapes.append(free)
    return tuple(tensors), tuple(shapes)
