"""`PassContext`: the services that a pass is given in addition to the program."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import fx

from recfx.errors import VerificationError
from recfx.ir.dead_code import remove_dead_code, remove_unread
from recfx.ir.lookup_ops import TableKey
from recfx.ir.program import Program, get_state, set_state, unused_name
from recfx.ir.propagate import fake_mode_of, refresh
from recfx.ir.provenance import module_path, where
from recfx.ir.sizes import same_size, same_sizes
from recfx.ir.trained_state import takes_over, trained_dtypes
from recfx.ir.verified import remember
from recfx.pipeline.gate import Gate
from recfx.pipeline.records import MissRecord
from recfx.pipeline.spec import PassSpec

T = TypeVar("T")

#: The entry of `Node.meta` in which a read of the state says that it holds a table row by row.
PACKED = "recfx_packed"


@dataclasses.dataclass(frozen=True)
class Packed:
    """A tensor that holds a table row by row in another format.

    Attributes:
        source: The key of the table (`recfx.ir.lookup_ops.table_key`). The table itself would stay in memory.
        bits: Bits of a number: 16 for a half-precision dtype, or 8, 4, 2 or 1 for rows of `recfx.formats.rowwise`.
        refine: See `recfx.formats.rowwise.encode_rows`.
    """

    source: TableKey
    bits: int
    refine: bool = False


class PassContext:
    """The services of one pass run: the gate, insertion of nodes with their values, state, analyses, and misses.

    Attributes:
        program: The program being rewritten.
        spec: The declaration of the pass that is running.
        resources: Name in `PassSpec.needs` ("examples", "calibration", ...) -> the data.
        misses: The rules that did not fire, with reasons.
        fired: The number of rewrites made.
        lenient: Whether an exception in a rule counts as a miss; otherwise the pass fails.
    """

    def __init__(
        self,
        program: Program,
        spec: PassSpec,
        gate: Gate | None = None,
        resources: Mapping[str, Any] | None = None,
        *,
        lenient: bool = False,
    ) -> None:
        self.lenient = lenient
        self.program = program
        self.spec = spec
        self.resources = dict(resources or {})
        self.misses: list[MissRecord] = []
        self.fired = 0
        self._gate = gate or Gate()
        self._analyses: dict[Any, Any] = {}
        self._like: fx.Node | None = None
        #: The `trained_dtypes` of that node, once a tensor was added in its place.
        self._trained: frozenset[torch.dtype] | None = None
        self._numbers: dict[str, int] = {}
        self._reads: dict[int, list[fx.Node]] | None = None

    @property
    def graph(self) -> fx.Graph:
        """The graph being rewritten."""
        return self.program.graph

    def gate(self, rule: str, node: fx.Node) -> bool:
        """Asks whether one rewrite may be made, and counts it if so. Cached analyses that the pass does not preserve are dropped."""
        allowed = self._gate.ask(self.spec.name, rule, node, mandatory=self.spec.mandatory)
        if allowed:
            self.fired += 1
            self._analyses = {k: v for k, v in self._analyses.items() if _name_of(k) in self.spec.preserves}
        return allowed

    def miss(self, rule: str, node: fx.Node, reason: str) -> None:
        """Records why a rule did not fire at a node."""
        self.misses.append(MissRecord(self.spec.name, rule, node.name, module_path(node), reason))

    def nodes(self, *targets: Any) -> list[fx.Node]:
        """The operators with one of these targets, in graph order; all operators without targets."""
        if not targets:
            return [node for node in self.graph.nodes if node.op == "call_function"]
        found = (self.graph.find_nodes(op="call_function", target=t, sort=False) for t in dict.fromkeys(targets))
        return sorted(itertools.chain.from_iterable(found))

    def analysis(self, compute: Callable[[Program], T]) -> T:
        """The result of an analysis, cached until the next rewrite. Each `functools.partial` object has an entry of its own."""
        if compute not in self._analyses:
            self._analyses[compute] = compute(self.program)
        result: T = self._analyses[compute]
        return result

    @contextmanager
    def before(self, node: fx.Node) -> Iterator[None]:
        """A context in which `call`, `read` and `constant` insert before `node` and inherit its provenance."""
        previous = self._like, self._trained
        self._like, self._trained = node, None
        try:
            with self.graph.inserting_before(node):
                yield
        finally:
            self._like, self._trained = previous

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Inserts an operator at the place set by `before`, and computes its fake value."""
        node = self.graph.call_function(target, args, kwargs)
        self._inherit(node)
        refresh(self.program.module, [node])
        return node

    def constant(self, stem: str, tensor: torch.Tensor) -> fx.Node:
        """Adds a tensor to the program's state under an unused name that starts with `stem`, and inserts a read of it.

        A tensor that takes the place of trained parameters, according to the node set by `before`, is a parameter as well, so that the
        program can be trained further.
        """
        name = unused_name(self.program.module, stem, self._numbers)
        if not isinstance(tensor, torch.nn.Parameter) and takes_over(tensor, self._trained_here()):
            tensor = torch.nn.Parameter(tensor.detach())
        set_state(self.program.module, name, tensor)
        return self.read(name)

    def _trained_here(self) -> frozenset[torch.dtype]:
        """The `trained_dtypes` of the node set by `before`: it may have a thousand operands, which are walked once for all its tensors."""
        if self._trained is None:
            self._trained = frozenset() if self._like is None else trained_dtypes(self._like, self.tensor)
        return self._trained

    def packed(self, stem: str, tensor: torch.Tensor, packed: Packed) -> fx.Node:
        """As `constant`, for a tensor that holds a table row by row, so that new rows of the table can be written into it later."""
        node = self.constant(stem, tensor)
        node.meta[PACKED] = packed
        return node

    def store(self, reads: Sequence[fx.Node], tensor: torch.Tensor) -> None:
        """Puts another tensor in the place of a tensor of the state, under the same name. A parameter stays a parameter.

        Args:
            reads: All reads of the name.
            tensor: The new tensor. Its size may be another one; the caller recomputes the values of later operators.
        """
        name, old = str(reads[0].target), self.stored(reads[0])
        if isinstance(old, torch.nn.Parameter) and not isinstance(tensor, torch.nn.Parameter):
            tensor = torch.nn.Parameter(tensor.detach(), old.requires_grad)
        set_state(self.program.module, name, tensor)
        value = fake_mode_of(self.graph).from_tensor(tensor, static_shapes=True)
        for read in reads:
            read.meta["val"] = value
        self._reads = None

    def read(self, name: str) -> fx.Node:
        """Inserts a read of existing state."""
        node = self.graph.get_attr(name)
        self._inherit(node)
        mode = fake_mode_of(self.graph)
        tensor = get_state(self.program.module, name)
        node.meta["val"] = mode.from_tensor(tensor, static_shapes=True)
        if self._reads is not None:
            self._reads.setdefault(id(tensor), []).append(node)
        return node

    def reads_of(self, tensor: torch.Tensor) -> list[fx.Node]:
        """The nodes that read a tensor of the state, under any of its names."""
        if self._reads is None:
            self._reads = {}
            for node in self.graph.find_nodes(op="get_attr"):
                self._reads.setdefault(id(get_state(self.program.module, str(node.target))), []).append(node)
        return [node for node in self._reads.get(id(tensor), ()) if not node._erased]

    def tensor(self, node: Any) -> torch.Tensor | None:
        """The tensor behind a read of state; None for any other argument."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            value = get_state(self.program.module, str(node.target))
            return value if isinstance(value, torch.Tensor) else None
        return None

    def stored(self, read: Any) -> torch.Tensor:
        """The tensor behind a node that is known to read state.

        Raises:
            VerificationError: The node does not read a tensor of the state.
        """
        found = self.tensor(read)
        if found is None:
            raise VerificationError(
                f"expected a read of the program's state, got {read}",
                where=where(read) if isinstance(read, fx.Node) else None,
            )
        return found

    def replace(self, node: fx.Node, new: fx.Node) -> None:
        """Makes every user of `node` use `new`, and erases `node`. Values of users are recomputed if the two values differ."""
        changed = not _same_meta(node.meta.get("val"), new.meta.get("val"))
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        if changed:
            self.refresh_after(new)

    def replace_many(self, nodes: Sequence[fx.Node], new: Sequence[fx.Node]) -> None:
        """`replace` for several nodes at once, pairwise."""
        for old, other in zip(nodes, new, strict=True):
            self.replace(old, other)

    def refresh_after(self, node: fx.Node) -> None:
        """Recomputes the value of `node`, and of later operators whose inputs changed, each once."""
        waiting, seen = [node], {node}
        while waiting:
            later = heapq.heappop(waiting)
            if later.op != "call_function":
                continue
            recorded = later.meta.get("val")
            refresh(self.program.module, [later])
            if _same_meta(recorded, later.meta["val"]):
                later.meta["val"] = recorded  # the same object, so that its users stay verified
                remember(later)
                if later is not node:
                    continue
            for user in later.users:
                if user not in seen:
                    seen.add(user)
                    heapq.heappush(waiting, user)

    def sweep(self) -> int:
        """Removes nodes whose results are not used; returns how many."""
        return remove_dead_code(self.graph)

    def discard(self, nodes: Iterable[fx.Node]) -> int:
        """Removes those of some nodes that no node reads, and what only they read; returns how many nodes.

        It visits these nodes alone, where `sweep` visits the whole graph.
        """
        return remove_unread(self.graph, nodes)

    def _inherit(self, node: fx.Node) -> None:
        like = self._like
        if like is not None:
            kept = ("nn_module_stack", "stack_trace", "torch_fn", "source_fn_stack")
            node.meta.update({k: like.meta[k] for k in kept if k in like.meta})
            origin = fx.traceback.NodeSource(like, self.spec.name, fx.traceback.NodeSourceAction.CREATE)
            node.meta["from_node"] = [origin]  # `origin` holds the history of `like`
        node.meta["recfx_pass"] = self.spec.name


def _name_of(compute: Any) -> str:
    """The name of an analysis in `PassSpec.preserves`: the name of the function, also of a `functools.partial`."""
    while isinstance(compute, partial):
        compute = compute.func
    return getattr(compute, "__name__", type(compute).__name__)


def _same_meta(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype is b.dtype and a.layout is b.layout and same_sizes(a.shape, b.shape)
        return same and (a.layout is not torch.strided or same_sizes(a.stride(), b.stride()))
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_same_meta, a, b))
    return isinstance(a, int | torch.SymInt) and isinstance(b, int | torch.SymInt) and same_size(a, b)
