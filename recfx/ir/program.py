"""`Program`: a captured model, which every pass takes and returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import fx
from torch.fx._lazy_graph_module import _LazyGraphModule

from recfx.ir.bags import Bags
from recfx.ir.graph_checks import quick_argument_checks
from recfx.ir.printer import render
from recfx.ir.program_module import ProgramModule
from recfx.ir.run_graph import run_graph
from recfx.ir.shapes import batch_size
from recfx.ir.signature import Signature
from recfx.ir.state_paths import get_state as get_state

#: The property of a program that is right only up to its largest batch: the model treats larger batches in another way, or refuses them.
ENDS_AT_LARGEST_BATCH = "ends-at-largest-batch"


class Origin(Enum):
    """The origin of an input's rows: one per request, one per candidate, or the same at every call.

    `INDEX` marks the input that gives the request of each candidate.
    """

    REQUEST = "request"
    CANDIDATE = "candidate"
    CONSTANT = "constant"
    INDEX = "index"


@dataclasses.dataclass(frozen=True)
class Applied:
    """One rewrite that a pass applied, or that the gate refused.

    Attributes:
        index: The number of the rewrite among all proposed rewrites of this run, from 0.
        pass_name: The pass that proposed it.
        rule: The rule inside the pass.
        node: Name of the rewritten graph node.
        where: Module path of that node.
        allowed: False when the gate refused the rewrite.
    """

    index: int
    pass_name: str
    rule: str
    node: str
    where: str
    allowed: bool = True


@dataclasses.dataclass
class Program:
    """A model as a functional graph of ATen (training dialect) and recfx operators, with the facts known about it.

    Attributes:
        module: The graph module. Placeholders are the leaves of `signature`, in order; parameters and buffers are
            `get_attr` nodes with the user's names; the output is a flat tuple.
        signature: The calling convention.
        example: One set of leaves, used for checks and measurements.
        properties: Facts that capture found or passes established ("functional", "canonical", ...).
        history: All rewrites so far.
        origins: Leaf name -> origin of its rows; leaves without an entry are `Origin.CANDIDATE`.
        notices: Sentences for the user about the capture.
        bags: Leaves that form bags of ids, by position; jagged tensors describe their own bags.
        cases: Flat inputs that checks use in addition to inputs drawn from the example.
        decided: Names of parameters and buffers whose values decide a branch of forward; the graph holds the branch taken at capture.
        doubtful: Batch sizes that checks use in addition to the usual ones, because they contradict a decision of the tracer.
        branches: The user's lines that limit the batch.
        long_call: Seconds of a call of the user's model on the example, if that is so long that checks and measurements take fewer rows.
        known_runs: Outputs that an earlier check of this program computed; see `recfx.ir.known_runs`.
    """

    module: fx.GraphModule
    signature: Signature
    example: tuple[Any, ...]
    properties: frozenset[str] = frozenset()
    history: tuple[Applied, ...] = ()
    origins: dict[str, Origin] = dataclasses.field(default_factory=dict)
    notices: tuple[str, ...] = ()
    bags: tuple[Bags, ...] = ()
    cases: tuple[Sequence[Any], ...] = ()
    decided: frozenset[str] = frozenset()
    doubtful: tuple[int, ...] = ()
    branches: tuple[str, ...] = ()
    long_call: float | None = None
    known_runs: Any = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def graph(self) -> fx.Graph:
        """The graph of `module`."""
        return self.module.graph

    def clone(self) -> Program:
        """A copy whose graph can be edited freely; tensors are shared, nodes and their `meta` dictionaries are not."""
        return self.with_module(copy_module(self.module))

    def with_module(self, module: fx.GraphModule) -> Program:
        """The same facts about another graph module."""
        return dataclasses.replace(self, module=module, origins=dict(self.origins), known_runs=None)

    def placeholders(self) -> list[fx.Node]:
        """The input nodes, in the order of `signature.leaves`."""
        return list(self.graph.find_nodes(op="placeholder"))

    def state(self) -> dict[str, torch.Tensor]:
        """Parameters, buffers and constants that the graph reads: name -> tensor, in order of first use."""
        found: dict[str, torch.Tensor] = {}
        for node in self.graph.find_nodes(op="get_attr"):
            name = str(node.target)
            if name not in found:
                found[name] = get_state(self.module, name)
        return found

    def example_batch(self) -> int | None:
        """The batch of the example: dimension 0 of the first tensor with dimensions, or the number of bags; None without one."""
        return batch_size(self.signature.nested(self.example), self.bags)

    def operator_count(self) -> int:
        """The number of operators in the graph."""
        return sum(node.op == "call_function" for node in self.graph.nodes)

    def state_bytes(self) -> int:
        """The number of bytes of the state; storage that several names share counts once."""
        storages = {}
        for tensor in self.state().values():
            for part in dense_parts(tensor):
                storages[part.untyped_storage()._cdata] = part.untyped_storage().nbytes()
        return sum(storages.values())

    def run(self, leaves: Sequence[Any]) -> list[Any]:
        """Runs the graph on flat inputs, node by node, without gradients, and returns the flat outputs.

        This slow run defines the meaning of the program; targets make fast versions of it.
        """
        with torch.no_grad():
            return run_graph(self.module, leaves)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the program on inputs nested as the model's forward takes them, and returns its nested outputs.

        Raises:
            InputError: The inputs do not fit the signature.
        """
        leaves = self.signature.flatten(args, kwargs)
        self.signature.check(leaves)
        return self.signature.unflatten(self.run(leaves))

    def as_module(self) -> ProgramModule[Program]:
        """The program as an `nn.Module` to train: called like the captured model, with parameters under the same names where passes kept
        them, and gradients through all operators.

        The parameters and buffers are copies, so that training changes neither this program nor the user's model; tied parameters stay
        tied. `recfx.optimize` takes the module like any other model.
        """
        made = self.clone()
        copies: dict[int, torch.Tensor] = {}
        for name, tensor in self.state().items():
            if id(tensor) not in copies:
                fresh = tensor.detach().clone()
                trained = isinstance(tensor, torch.nn.Parameter)
                copies[id(tensor)] = torch.nn.Parameter(fresh, tensor.requires_grad) if trained else fresh
            set_state(made.module, name, copies[id(tensor)])
        return ProgramModule(made).eval()

    def __str__(self) -> str:
        return render(self)


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """Copies a graph module: new nodes with their own `meta`, the same tensors, no unused attributes.

    The copy generates its Python code at the first call. Most copies are only edited or read.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    with quick_argument_checks():
        for node in module.graph.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
            copies[node] = graph.create_node(node.op, node.target, args, kwargs, node.name, node.type)
            copies[node].meta.update(
                node.meta
            )  # an assignment to `meta` would enter the node into the graph's tables again
    return _LazyGraphModule(module, graph)


def without_unread_state(module: fx.GraphModule) -> fx.GraphModule:
    """A module with the same graph, whose nodes stay the same objects, that holds only the state that the graph reads."""
    return _LazyGraphModule(module, module.graph)


def dense_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The dense tensors inside a tensor: itself, or the indices and values of a sparse tensor."""
    if tensor.layout is torch.strided:
        return [tensor]
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]


def set_state(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Stores a tensor at a dotted path of a module, as a parameter if it is one, else as a buffer."""
    *path, last = name.split(".")
    owner = module
    for part in path:
        if not hasattr(owner, part):
            owner.add_module(part, torch.nn.Module())
        owner = getattr(owner, part)
    if hasattr(owner, last):
        delattr(owner, last)
    if isinstance(tensor, torch.nn.Parameter):
        owner.register_parameter(last, tensor)
    else:
        owner.register_buffer(last, tensor)


def unused_name(module: torch.nn.Module, stem: str, numbers: dict[str, int] | None = None) -> str:
    """An unused dotted path of the module that begins with `stem`.

    Args:
        module: The module.
        stem: How the name begins.
        numbers: Stem -> the number of its next name. A caller that makes many names keeps it, so that each number is tried once.
    """
    number = 0 if numbers is None else numbers.get(stem, 0)
    while _holds(module, name := f"{stem}_{number}" if number else stem):
        number += 1
    if numbers is not None:
        numbers[stem] = number + 1
    return name


def _holds(module: torch.nn.Module, name: str) -> bool:
    if any(hasattr(torch.nn.Module, part) for part in name.split(".")):
        return True  # the name of a method, such as `to`
    try:
        get_state(module, name)
    except AttributeError:
        return False
    return True
