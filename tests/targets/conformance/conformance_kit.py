"""Places programs on one backend, and the kinds of operands that conformance cases are made of."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from operator import getitem
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recfx.driver.placed import lower_regions
from recfx.ir.numeric import Exactness, compare_outputs
from recfx.ir.op_sets import EMBEDDING_BAGS
from recfx.ir.program import Program
from recfx.ir.reference_run import Reference
from recfx.ir.region import Split, split
from recfx.ir.special_rows import EXTREME
from recfx.runtime.schedule import schedule
from recfx.targets import BACKENDS, Backend, EagerBackend, Lowered, Refused, Verdict
from recfx.testing.builder import GraphBuilder
from recfx.testing.inputs import EXTREME_SPECIALS, trial_inputs

#: Backends that compile for tens of seconds, or run on a GPU. They run the cases that are joined in a few programs, in the slow tests.
COMPILERS = ("inductor", "tensorrt")

#: Kernels compute elementary functions themselves, a few units in the last place from torch's. `driver/lowering.py` allows the same.
_SLACK = 8.0

#: Special numbers for sums. Whether a sum of numbers near the largest overflows depends on its order; infinities and NaN do not.
NO_OVERFLOW = tuple(number for number in EXTREME_SPECIALS if not 1e30 < abs(number) < float("inf"))


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a program: its name, its shape and its dtype. A shape holds "batch" for the free dimension."""

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype = torch.float32


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A tensor of the state."""

    tensor: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Call:
    """The result of another operator, for operands of other types, such as complex numbers."""

    target: Any
    args: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A program of one operator.

    Attributes:
        name: The operator, and the form of the call if there are several.
        target: The operator.
        args: Its arguments; `Input` and `Constant` stand for tensors, and for a size the name of an input and a dimension: `Size`.
        keywords: Its keyword arguments.
        sums: Whether it adds numbers up, so that infinities and huge numbers may give another infinity or NaN in another order.
    """

    name: str
    target: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    sums: bool = False

    def program(self) -> Program:
        """The program, which returns the tensors that the operator returns; see `read_parts`."""
        leaves = list(operands_of((self.args, self.keywords)))
        inputs = {leaf.name: leaf for leaf in leaves if isinstance(leaf, Input)}
        inputs |= {leaf.of.name: leaf.of for leaf in leaves if isinstance(leaf, Size)}
        builder = GraphBuilder({name: (given.shape, given.dtype) for name, given in inputs.items()})
        args, keywords = pytree.tree_map(
            lambda leaf: node_of(builder, leaf), (self.args, self.keywords), is_leaf=is_operand_of_case
        )
        made = builder.call(self.target, *args, **keywords)
        value = made.meta["val"]
        if isinstance(value, torch.Tensor):
            return builder.build(made)
        return builder.build(*[builder.call(getitem, made, i) for i in read_parts(self.target, value)])


def read_parts(target: Any, value: Sequence[Any]) -> list[int]:
    """The positions of the results that a program returns. Of a bag it is the first, as the others serve its gradient."""
    if target in EMBEDDING_BAGS:
        return [0]
    return [i for i, part in enumerate(value) if isinstance(part, torch.Tensor) and part.numel() != 0]


@dataclasses.dataclass(frozen=True)
class Size:
    """A size of an input, multiplied by a number."""

    of: Input
    dim: int
    factor: int = 1


def operands_of(value: Any) -> Iterator[Any]:
    for leaf in pytree.tree_leaves(value, is_leaf=is_operand_of_case):
        if isinstance(leaf, Call):
            yield from operands_of(leaf.args)
        else:
            yield leaf


def is_operand_of_case(value: Any) -> bool:
    return isinstance(value, Input | Constant | Size | Call)


def node_of(builder: GraphBuilder, value: Any) -> Any:
    if isinstance(value, Input):
        return builder.inputs[value.name]
    if isinstance(value, Constant):
        return builder.state(f"state_{id(value)}", value.tensor)
    if isinstance(value, Call):
        args = pytree.tree_map(lambda leaf: node_of(builder, leaf), value.args, is_leaf=is_operand_of_case)
        return builder.call(value.target, *args)
    if isinstance(value, Size):
        size = builder.call(torch.ops.aten.sym_size.int, builder.inputs[value.of.name], value.dim)
        return size if value.factor == 1 else builder.call(operator.mul, size, value.factor)
    return value


def runnable(names: Sequence[str]) -> list[str]:
    """The names of the backends among these that run here."""
    return [name for name in names if BACKENDS[name].unavailable() is None]


@dataclasses.dataclass(frozen=True)
class OnBackend:
    """A program on one backend; torch runs what it does not support.

    Attributes:
        run: Flat inputs -> flat outputs.
        split: The program and its regions.
        regions: The lowered regions.
        refused: Operator -> the reason of the backend.
    """

    run: Callable[..., Sequence[Any]]
    split: Split
    regions: list[Lowered]
    refused: dict[fx.Node, str]

    def on(self, name: str) -> list[Lowered]:
        """The regions of one backend."""
        return [region for region in self.regions if region.backend == name]


def place(program: Program, backend: Backend) -> OnBackend:
    """Lowers all supported operators of a program to a backend. Operators that it refuses when it lowers a region go to torch."""
    eager = EagerBackend()
    verdicts = dict(backend.supports(program))
    while True:
        found, refusals = _lowered(program, backend, eager, verdicts)
        if not refusals:
            return found
        by_name = {node.name: node for node in verdicts}
        assert refusals.keys() <= by_name.keys(), "a backend refuses operators that the region does not have"
        verdicts |= {by_name[name]: Verdict(False, reason) for name, reason in refusals.items()}


def _lowered(
    program: Program, backend: Backend, eager: Backend, verdicts: dict[fx.Node, Verdict]
) -> tuple[OnBackend, dict[str, str]]:
    chosen = {node: backend if verdict else eager for node, verdict in verdicts.items()}
    found = split(program, {node: b.name for node, b in chosen.items()}, backend.name)
    by_name = {backend.name: backend, eager.name: eager}
    refusals: dict[str, str] = {}

    def lower(index: int, region: Any) -> Lowered | None:
        try:
            return by_name[found.backends[index]].lower(region)
        except Refused as refused:
            refusals.update(refused.reasons)
            return None

    regions = lower_regions(found, lower)
    if refusals:
        return OnBackend(lambda *_: (), found, [], {}), refusals
    run = schedule(found, [region.body for region in regions])
    refused = {node: verdict.reason for node, verdict in verdicts.items() if not verdict}
    return OnBackend(run, found, regions, refused), {}


def check_numbers(case: Case, program: Program, run: Callable[..., Sequence[Any]], backend: Backend) -> None:
    """Compares a placed program with torch on batches of one row and more, and on special numbers, zeros and ties."""
    for name, leaves in trial_batches(program, NO_OVERFLOW if case.sums else EXTREME_SPECIALS):
        try:
            expected = program.run(leaves)
        except Exception:  # noqa: BLE001 - torch refuses these inputs, so the backend must refuse them as well
            refused(run, leaves, name)
            continue
        before = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        found = run(*leaves)
        same = [torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(leaves, before, strict=True)]
        assert all(same), f"{backend.name} writes to its inputs"
        special = "special" in name
        place = f"{EXTREME}: {name}" if special and case.sums else name
        compare_outputs(
            expected,
            found,
            backend.exactness if backend.exactness is Exactness.EXACT else Exactness.REASSOC,
            place,
            Reference(program, leaves),
            slack=_SLACK,
            special=special,
            kernels=True,
        )


def refused(run: Callable[..., Any], leaves: Sequence[Any], name: str) -> None:
    """Asserts that a call raises."""
    try:
        run(*leaves)
    except Exception:  # noqa: BLE001 - any refusal is a refusal
        return
    raise AssertionError(f"inputs that torch refuses are accepted: {name}")


def trial_batches(program: Program, specials: tuple[float, ...] = EXTREME_SPECIALS) -> Iterator[tuple[str, list[Any]]]:
    """Named flat inputs of a program. `specials` are the special numbers among them."""
    yield from trial_inputs(program, torch.Generator().manual_seed(3), specials=specials)
