"""The way of embedding tables through the passes: under which name and in which format the compiled program reads each of them.

New rows of a table (`CompiledModel.update_tables`) may be written into the compiled program only if every tensor that was computed from the
table is known. Two facts give that. A pass declares the tensors that hold a table row by row (`PassContext.packed`). And a pass that
computes anything else from a table at compile time leaves a new tensor and takes away a read of the table: such a table is refused, with
the name of the pass.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

import torch
from torch import fx

from recfx.ir.access import items_of
from recfx.ir.lookup_ops import TableKey, reads_as_table, table_key, tables_of
from recfx.ir.op_sets import TABLE_LOOKUPS
from recfx.ir.program import Program, dense_parts, get_state
from recfx.ops.lookup import decode, grouped_lookup
from recfx.pipeline import PACKED, Instrument, Packed, Pass, PassRecord

_LOOKUPS = (*TABLE_LOOKUPS, grouped_lookup)


@dataclasses.dataclass(frozen=True)
class TableRecord:
    """An embedding table of the user's model in the compiled program.

    Attributes:
        names: Its names in the user's model.
        state: Its name in the compiled program; "" if no lookup reads it there.
        rows: The number of its rows.
        columns: The number of its columns.
        bits: Bits of a number: that of the dtype, or 8, 4, 2 or 1 for rows with scale and bias.
        refine: See `recfx.formats.rowwise.encode_rows`.
        refused: Why new rows cannot be written to it; "" if they can.
    """

    names: tuple[str, ...]
    state: str
    rows: int
    columns: int
    bits: int
    refine: bool = False
    refused: str = ""


@dataclasses.dataclass
class _Table:
    """A table on its way: the tensor that holds it now."""

    names: list[str]
    tensor: torch.Tensor
    packed: Packed | None = None
    held: torch.Tensor | None = None
    refused: str = ""

    @property
    def key(self) -> TableKey:
        return table_key(self.tensor if self.held is None else self.held)


class TableHistory(Instrument):
    """Follows the tables of a captured program through the passes.

    Args:
        captured: The program before the first pass.
        model: The model that was captured, for further names of tied tables.
    """

    def __init__(self, captured: Program, model: torch.nn.Module) -> None:
        self._tables: dict[TableKey, _Table] = {}
        state = {name: t for name, t in captured.state().items() if isinstance(t, torch.Tensor)}
        looked_up = {str(t.target) for node in captured.graph.nodes for t in tables_of(node) if t.op == "get_attr"}
        for name in state:
            tensor = state[name]
            if name in looked_up and tensor.ndim == 2 and tensor.is_floating_point():
                self._tables.setdefault(table_key(tensor), _Table([], tensor))
        for name, tensor in (*state.items(), *_named(model)):
            table = self._tables.get(table_key(tensor)) if tensor.layout is torch.strided else None
            if table is not None and name not in table.names:
                table.names.append(name)
        self._refuse_at_capture(captured, state)

    def _refuse_at_capture(self, captured: Program, state: dict[str, torch.Tensor]) -> None:
        owners: dict[int, set[TableKey]] = {}
        for tensor in state.values():
            for part in dense_parts(tensor):
                owners.setdefault(part.untyped_storage()._cdata, set()).add(table_key(part))
        others = _other_readers(captured)
        for key, table in self._tables.items():
            if not table.tensor.is_contiguous():
                table.refused = "it is not contiguous in memory"
            if len(owners[table.tensor.untyped_storage()._cdata]) > 1:
                table.refused = "it shares its memory with another tensor of other sizes"
            if captured.decided.intersection(table.names):
                table.refused = "a branch of the model was decided by its values at capture"
            if other := others.get(key):
                table.refused = f"the model reads it whole, in {other}"

    def after_pass(self, index: int, item: Pass, before: Program, after: Program, record: PassRecord) -> None:
        """Follows the tables through one pass."""
        if not record.fired:
            return
        first, last = _reads(before), _reads(after)
        made = bool(last.keys() - first.keys())
        packed = _packed(after)
        for table in self._tables.values():
            key = table.key
            if table.refused:
                continue
            if key in packed and not last[key]:
                table.packed, table.held = packed[key]
            elif made and last[key] != first[key]:
                table.refused = f"the pass {item.spec.name} computed other weights from it"
            elif first[key] and not last[key]:
                table.refused = f"the compiled model no longer reads it, since the pass {item.spec.name}"
                self._refuse_shared(key, first, last, item.spec.name)

    def _refuse_shared(self, key: TableKey, first: Counter[TableKey], last: Counter[TableKey], name: str) -> None:
        """Refuses tables that took over the reads of a table of the same sizes."""
        for other in self._tables.values():
            if not other.refused and other.key[1:] == key[1:] and last[other.key] > first[other.key]:
                other.refused = f"the pass {name} made it serve as another table of the same content, too"

    def records(self, program: Program) -> tuple[TableRecord, ...]:
        """The tables in the program after all passes."""
        found = []
        names: dict[TableKey, str] = {}
        others = _other_readers(program)
        for name, tensor in program.state().items():
            if tensor.layout is torch.strided:
                names.setdefault(table_key(tensor), name)
        for table in self._tables.values():
            state = names.get(table.key, "")
            other = None if table.refused else others.get(table.key)
            refused = table.refused or (f"{other} reads it whole" if other else "")
            rows, columns = table.tensor.shape
            bits, refine = table.tensor.element_size() * 8, False
            if table.packed is not None:
                bits, refine = table.packed.bits, table.packed.refine
            found.append(TableRecord(tuple(table.names), state, rows, columns, bits, refine, refused))
        return tuple(found)


def _named(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _state_reads(program: Program) -> Iterator[tuple[fx.Node, TableKey]]:
    for node in program.graph.find_nodes(op="get_attr"):
        tensor = get_state(program.module, str(node.target))
        if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided:
            yield node, table_key(tensor)


def _reads(program: Program) -> Counter[TableKey]:
    """How often operators read each tensor of the state; every feature of a grouped lookup counts."""
    found: Counter[TableKey] = Counter()
    for node, key in _state_reads(program):
        found[key] += sum(_count(user, node) for user in node.users)
    return found


def _count(user: fx.Node, read: fx.Node) -> int:
    if user.target is not grouped_lookup:
        return 1
    tables = items_of(user, 0)
    return sum(tables[feature.table] is read for feature in decode(items_of(user, 5)))


def _packed(program: Program) -> dict[TableKey, tuple[Packed, torch.Tensor]]:
    """Key of a table -> how a pass packed it, and the packed tensor."""
    found = {}
    for node in program.graph.find_nodes(op="get_attr"):
        packed = node.meta.get(PACKED)
        if packed is not None:
            found[packed.source] = packed, get_state(program.module, str(node.target))
    return found


def _other_readers(program: Program) -> dict[TableKey, str]:
    """Tensor of the state -> the name of an operator that does not only look up rows of it, for those that have one."""
    found: dict[TableKey, str] = {}
    for node, key in _state_reads(program):
        if key not in found:
            other = next((u.name for u in node.users if u.target not in _LOOKUPS or not reads_as_table(u, node)), None)
            if other is not None:
                found[key] = other
    return found
