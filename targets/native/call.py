"""The function that calls a plan. It is generated, since its Python code is most of the cost of a call."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import fx

from recfx.errors import IdError, InputError, TargetError
from recfx.ir.bags import IDS_BEHIND_BAGS
from recfx.ir.provenance import where
from recfx.kernels.abi import CError
from recfx.kernels.codes import ErrorCode
from recfx.kernels.library import Library
from recfx.kernels.memory import NO_MEMORY_HINT
from recfx.targets.native.builder import PlanBuilder
from recfx.targets.native.plan import Plan
from recfx.targets.native.steps import Slot

#: Outputs are made like it: float32 in the memory of the CPU, whatever torch's default device and dtype are.
_LIKE = torch.empty(0, dtype=torch.float32, device="cpu")


@dataclasses.dataclass(frozen=True)
class Checks:
    """The checks of a plan's inputs at every call.

    Attributes:
        inputs: Positions of the inputs whose sizes have not been checked before the plan.
        otherwise: The function that runs instead when an input has other sizes than the plan was made for. It takes `extra` values, which
            the caller passes after the plan's own inputs.
        extra: The number of these values.
    """

    inputs: Collection[int] = ()
    otherwise: Callable[..., Any] | None = None
    extra: int = 0


@dataclasses.dataclass(frozen=True)
class SizeInput:
    """An input that is a size, from which the batch follows.

    Attributes:
        node: Its node.
        ratio: The size divided by the batch.
    """

    node: fx.Node
    ratio: int


def plan_call(
    plan: Plan,
    library: Library,
    builder: PlanBuilder,
    arguments: Sequence[int],
    outputs: int,
    checks: Checks = Checks(),
    size: SizeInput | None = None,
) -> Callable[..., Any]:
    """The function that runs a plan: input tensors -> output tensor, or a tuple of them.

    Args:
        plan: The plan.
        library: The kernel library.
        builder: The builder of the plan.
        arguments: Slots of the inputs and then the outputs.
        outputs: The number of outputs among the arguments.
        checks: The checks of the inputs.
        size: The size that gives the batch, if no input tensor does. The caller passes it after the plan's inputs.
    """
    slots = [builder.slots[a] for a in arguments]
    count = len(slots) - outputs
    names, results = [f"x{i}" for i in range(count)], [f"y{i}" for i in range(outputs)]
    spare = [f"z{i}" for i in range(checks.extra)]
    told = [] if size is None else ["size"]
    lines = [f"def native_plan({', '.join([*names, *told, *spare])}):"]
    batch = _batch(builder, arguments, slots[:count]) if size is None else f"size // {size.ratio}"
    lines.append(f"    batch = {batch}")
    wrong = [f"{names[i]}.shape != {_shape(builder, slots[i])}" for i in sorted(checks.inputs)]
    if wrong:
        lines.append(f"    if {' or '.join(wrong)}: return _otherwise({', '.join(spare)})")
    lines += [f"    if not {x}.is_contiguous(): {x} = {x}.contiguous()" for x in names]
    # The imaginary part of a conjugated tensor is a view whose numbers torch negates when it reads them.
    lines += [
        f"    if {x}.is_neg(): {x} = {x}.resolve_neg()"
        for x, s in zip(names, slots, strict=False)
        if s.dtype.is_floating_point
    ]
    failure = _Failure(plan, library, slots, count)
    namespace: dict[str, Any] = {
        "_empty": _LIKE.new_empty,
        "_run": library.run,
        "_run_counted": library.run_counted,
        "_handle": plan.handle,
        "_threads": torch.get_num_threads,
        "_fail": failure,
        "_without_memory": failure.without_memory,
        "_otherwise": checks.otherwise,
    }
    if results:
        lines.append("    try:")
    for y, slot in zip(results, slots[count:], strict=True):
        namespace[f"_dtype_{y}"] = slot.dtype
        dtype = "" if slot.dtype is torch.float32 else f", dtype=_dtype_{y}"
        lines.append(f"        {y} = _empty({_sizes(builder, slot)}{dtype})")
    if results:  # under FakeTensorMode, torch asserts that the tensor it is given is a fake one
        lines.append(f"    except AssertionError as error: raise _without_memory({count}) from error")
    lines.append(f"    code = {_kernel_call(names, results, jagged=any(s.jagged for s in slots[:count]))}")
    lines.append("    if code: _fail(code)")
    lines.append(f"    return {results[0] if outputs == 1 else '(' + ', '.join(results) + ')'}")
    exec(compile("\n".join(lines) + "\n", "<recfx native call>", "exec"), namespace)
    call: Callable[..., Any] = namespace["native_plan"]
    call.__module__ = __name__
    call.__dict__["plan"] = plan
    return call


def _batch(builder: PlanBuilder, arguments: Sequence[int], inputs: Sequence[Slot]) -> str:
    """The batch as an expression over the inputs: a first dimension of exactly the batch, else a number of elements or of offsets."""
    told = [(f"x{i}", s) for i, s in enumerate(inputs) if not s.jagged and not s.once]
    for x, slot in told:
        if slot.node is not None and builder.shape(slot.node)[0].size == 1:
            return f"{x}.shape[0]"
    for x, slot in told:
        return f"{x}.numel() // {slot.width}"
    return _jagged_batch(builder, arguments) or "1"


def _kernel_call(names: Sequence[str], results: Sequence[str], *, jagged: bool) -> str:
    """The call of the library. A plan with jagged inputs also takes the number of elements of each input."""
    arguments = ["_handle", "batch", "_threads()", *(f"{n}.data_ptr()" for n in [*names, *results])]
    if not jagged:
        return f"_run({', '.join(arguments)})"
    counts = [*(f"{x}.numel()" for x in names), *["1"] * len(results)]
    return f"_run_counted({', '.join([*arguments, *counts])})"


def _jagged_batch(builder: PlanBuilder, arguments: Sequence[int]) -> str | None:
    """The batch as an expression over the number of offsets of a lookup; None without such a lookup."""
    for step in builder.steps:
        for f in step.features:
            if f["offsets"] >= 0:
                x = f"x{list(arguments).index(f['offsets'])}"
                return f"({x}.numel() - {f['last']}) // {f['segments']}"
    return None


def _shape(builder: PlanBuilder, slot: Slot) -> str:
    """The sizes of an input's tensor, as a tuple over `batch`."""
    sizes = _size_texts(builder, slot)
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _sizes(builder: PlanBuilder, slot: Slot) -> str:
    """The sizes of an output's tensor as arguments of torch.empty, which parses them faster than a tuple."""
    return ", ".join(_size_texts(builder, slot)) or "()"


def _size_texts(builder: PlanBuilder, slot: Slot) -> list[str]:
    assert slot.node is not None
    sizes = builder.shape(slot.node)
    return [(f"batch * {d.size}" if d.size != 1 else "batch") if d.batch else str(d.size) for d in sizes]


class _Failure:
    """Raises the exception for an error code. The message names the input and its fault."""

    def __init__(self, plan: Plan, library: Library, arguments: Sequence[Slot], inputs: int) -> None:
        self._plan, self._arguments, self._inputs = plan, arguments, inputs
        self._last_error = library.calls["recfx_last_error"]

    def __call__(self, code: int) -> None:
        error = CError()
        self._last_error(ctypes.byref(error))
        if code == ErrorCode.NO_MEMORY:
            raise TargetError("there is not enough memory for this batch", hint="call with fewer rows")
        if code == ErrorCode.NULL_ARGUMENT:
            raise self.without_memory(error.argument)
        step = self._plan.steps[error.step]
        node: fx.Node = step.reads if step.reads is not None else step.features[error.feature]["node"]
        if code == ErrorCode.BAD_ID:
            what = f"id {error.id} in row {error.row} is outside its table of {error.limit} rows"
            hint = f"ids of this feature must be in [0, {error.limit})"
            raise IdError(f"{node.name}: {what}", where=where(node), hint=hint)
        if code == ErrorCode.BAD_LENGTH:
            what = f"the length {error.length} of row {error.row} is not from 1 to {error.limit}"
            hint = f"lengths of packed sequences must be in [1, {error.limit}]"
            raise InputError(f"{node.name}: {what}", where=where(node), hint=hint)
        if code == ErrorCode.IDS_BEHIND_BAGS:
            what = f"the offsets end at {error.offset}, before the end of the {error.limit} ids; {IDS_BEHIND_BAGS}"
            hint = "drop the ids after the last offset: ids[: offsets[-1]]"
        else:
            what = f"the offsets of row {error.row} point to {error.offset}, outside the {error.limit} ids"
            hint = "offsets must start at 0, must not fall and must stay within the ids"
        raise InputError(f"{node.name}: {what}", where=where(node), hint=hint)

    def without_memory(self, argument: int) -> InputError:
        """The error for a tensor without memory at its data pointer."""
        node = self._arguments[argument].node
        assert node is not None
        which = "an input" if argument < self._inputs else "a result"
        return InputError(
            f"{node.name}, {which} of a native plan, is a tensor without memory of its own",
            where=where(node),
            hint=NO_MEMORY_HINT,
        )
