"""Regions as exported programs, which compilers of torch take, and the outputs of a region from the results of the compiled program."""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from recfx.errors import TargetError
from recfx.ir.dead_code import remove_dead_code
from recfx.ir.program import get_state
from recfx.ir.region import Region
from recfx.ir.sizes import linear_size
from recfx.ops.to_aten import decompose_module
from recfx.targets.region_sizes import InputSizes, expression_of, is_size

#: The first size that stands for a dimension while the region is traced. Sizes of 0 and 1 would be fixed.
_FIRST_SIZE = 6
_LARGEST = 1 << 24

#: A size of an input: a number, or (dimension, factor, base) for `factor * dimension + base`.
Size = int | tuple[str, int, int]


@dataclasses.dataclass(frozen=True)
class Exported:
    """A region for a compiler.

    Attributes:
        program: The exported program, in which operators of the dialect are decomposed.
        inputs: Indices of the region's inputs that it takes.
        results: The nodes of the region whose values it returns.
        state: Its constants by their names in the program, which do not depend on the names in the model.
        shapes: The sizes of each of its inputs.
    """

    program: Any
    inputs: tuple[int, ...]
    results: tuple[fx.Node, ...]
    state: dict[str, torch.Tensor]
    shapes: tuple[tuple[Size, ...], ...]


def computed_outputs(region: Region) -> tuple[fx.Node, ...]:
    """The outputs that operators compute, each once; not sizes, inputs and state."""
    returned = next(iter(reversed(region.graph.nodes))).args[0]
    nodes = (
        node for node in returned if isinstance(node, fx.Node) and node.op == "call_function" and not is_size(node)
    )
    return tuple(dict.fromkeys(nodes))


def export(
    region: Region,
    *,
    prepare: Callable[[Region], object] = lambda region: None,
    largest: Callable[[str], int] = lambda dimension: _LARGEST,
) -> Exported:
    """Exports a region.

    Args:
        region: The region.
        prepare: Rewrites a copy of the region, whose operators of the dialect have been decomposed, before it is traced.
        largest: The largest size of a free dimension, by the name of the dimension in the region.

    Raises:
        TargetError: An input is a size that no tensor among the inputs has, or torch cannot export the region.
    """
    names = {node.name for node in computed_outputs(region)}
    copied = region.clone()
    results = [node for node in copied.graph.nodes if node.name in names]
    (output,) = copied.graph.find_nodes(op="output")
    output.args = (tuple(results),)
    decompose_module(copied.module)
    prepare(copied)
    remove_dead_code(copied.graph)
    _read_sizes(copied)
    placeholders = copied.placeholders()
    used = [index for index, node in enumerate(placeholders) if node.users]
    for node in placeholders:
        if not node.users:
            copied.graph.erase_node(node)
        elif is_size(node):
            raise TargetError(
                f"the size {node.name} is an input of the region and no size of its tensors",
                hint="give the region to another backend, such as 'eager'",
            )
    root, state = _with_plain_names(copied)
    sizes = tuple(_sizes(node) for node in copied.placeholders())
    inputs, dims = _inputs(copied.placeholders(), sizes, largest)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(fx.GraphModule(root, copied.graph), inputs, dynamic_shapes=dims)
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise TargetError(
            f"torch cannot export the region: {type(error).__name__}: {line[:200]}",
            hint="give the region to another backend, such as 'eager'",
        ) from error
    by_name = {node.name: node for node in region.graph.nodes}
    return Exported(program, tuple(used), tuple(by_name[name] for name in (n.name for n in results)), state, sizes)


def _read_sizes(region: Region) -> None:
    """Computes sizes that are inputs from the sizes of the tensors among the inputs, in place."""
    nodes = region.placeholders()
    axes = {
        expression_of(size): (node, axis)
        for node in nodes
        if isinstance(node.meta.get("val"), torch.Tensor)
        for axis, size in enumerate(node.meta["val"].shape)
    }
    for node in nodes:
        if not node.users or not is_size(node):
            continue
        size = expression_of(node.meta["val"])
        linear = None if isinstance(size, int) else linear_size(size, ())
        dimension, factor, base = (size, 1, 0) if size in axes or linear is None else linear
        if dimension in axes:
            with region.graph.inserting_before(next(n for n in region.graph.nodes if n.op != "placeholder")):
                read = region.graph.call_function(torch.ops.aten.sym_size.int, axes[dimension])
                read.meta["val"] = axes[dimension][0].meta["val"].shape[axes[dimension][1]]
                for function, number in ((operator.mul, factor), (operator.add, base)):
                    value = read.meta["val"]
                    read = region.graph.call_function(function, (read, number))
                    read.meta["val"] = function(value, number)
            node.replace_all_uses_with(read)


def output_of(region: Region, value: Any, results: Sequence[fx.Node]) -> Callable[[Sequence[Any], Sequence[Any]], Any]:
    """A function of the region's inputs and the compiled program's results that gives one output of the region.

    Args:
        region: The region.
        value: The output.
        results: The nodes whose values the compiled program returns.

    Raises:
        TargetError: The output is a size that does not follow from the inputs.
    """
    if not isinstance(value, fx.Node):
        return lambda values, made: value
    if value in results:
        at = list(results).index(value)
        return lambda values, made: made[at]
    inputs = region.placeholders()
    if value in inputs:
        index = inputs.index(value)
        return lambda values, made: values[index]
    if value.op == "get_attr":
        state = get_state(region.module, str(value.target)).detach()
        return lambda values, made: state
    code = InputSizes(region).code(value.meta["val"])
    if code is None:
        raise TargetError(
            f"{value.name} does not follow from the sizes of the region's inputs",
            hint="give the region to another backend, such as 'eager'",
        )
    names = ", ".join(f"x{i}" for i in range(len(inputs)))
    size: Callable[..., Any] = eval(f"lambda {names}: {code}", {})
    return lambda values, made: size(*values)


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


def _sizes(node: fx.Node) -> tuple[Size, ...]:
    """The sizes of an input.

    Raises:
        TargetError: A size has another form.
    """
    found: list[Size] = []
    for size in map(expression_of, node.meta["val"].shape):
        linear = size if isinstance(size, int) else linear_size(size, ())
        if linear is None:
            raise TargetError(
                f"the size {size} of an input is not linear in a dimension",
                hint="give the region to another backend, such as 'eager'",
            )
        found.append(linear)
    return tuple(found)


def _inputs(
    nodes: Sequence[fx.Node], sizes: Sequence[tuple[Size, ...]], largest: Callable[[str], int]
) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
    """Inputs of the sizes that tracing uses, and their free dimensions in torch.export's form."""
    dims: dict[str, Any] = {}
    traced: dict[str, int] = {}
    tensors, shapes = [], []
    for node, shape in zip(nodes, sizes, strict=True):
        free: dict[int, Any] = {}
        made = []
        for axis, size in enumerate(shape):
            if isinstance(size, int):
                made.append(size)
                continue
            symbol, factor, base = size
            if symbol not in dims:
                traced[symbol] = _FIRST_SIZE + 2 * len(dims)
                dims[symbol] = torch.export.Dim(f"d{len(dims)}", min=1, max=largest(symbol))
            made.append(factor * traced[symbol] + base)
            scaled = dims[symbol] if factor == 1 else factor * dims[symbol]
            free[axis] = scaled + base if base else scaled
        held = node.meta["val"]
        tensors.append(torch.zeros(made, dtype=held.dtype, device=held.device))
        shapes.append(free)
    return tuple(tensors), tuple(shapes)
