"""The ways to export a model, tried in order.

Non-strict; non-strict with recorded values for the decisions that do not depend on the inputs; strict. If all fail, an error names the
change to make.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch.export import Dim
from torch.export.dynamic_shapes import _DerivedDim
from torch.utils import _pytree as pytree

from recfx.capture.batch_guards import branch_lines, divisor_of_batch, doubtful_batches
from recfx.capture.constant_decisions import Decisions, reads_values, record_decisions, replayed
from recfx.capture.encoder_padding import padded_with_zeros
from recfx.capture.explain_export import capture_error, draft_line, user_frame
from recfx.capture.explicit_forward import one_batch
from recfx.capture.inputs import Call
from recfx.capture.numpy_functions import traced_numpy_functions
from recfx.capture.packed_sequences import lengths_for_packing
from recfx.capture.quick_trace import QuickTrace, quick_trace
from recfx.errors import CaptureError
from recfx.ir.fake_kernels import batch_free_kernels

_NO_DECISIONS = Decisions()


@dataclasses.dataclass(frozen=True)
class Export:
    """The result of an export.

    Attributes:
        program: The exported program.
        strict: Whether only strict export succeeded.
        decided: Names of parameters and buffers whose values decided a branch of forward.
        assumed: Whether the trace relies on decisions that may fail at a few batch sizes.
        doubtful: The batch sizes at which a decision of the trace fails; the program must be compared there.
        branches: The user's lines that limit the batch.
    """

    program: torch.export.ExportedProgram
    strict: bool = False
    decided: frozenset[str] = frozenset()
    assumed: bool = False
    doubtful: tuple[int, ...] = ()
    branches: tuple[str, ...] = ()


class HiddenBatch(CaptureError):
    """A trace needs the batch to be divisible by `step`: the batch is probably a part of that dimension.

    Attributes:
        step: The divisor, 2 or more.
    """

    def __init__(self, step: int) -> None:
        super().__init__(
            f"forward accepts only multiples of {step} in the first dimension of its inputs",
            hint="pass dynamic_shapes with the multiple, such as {'ids': {0: 3 * torch.export.Dim('batch')}}",
        )
        self.step = step


def export_model(model: torch.nn.Module, call: Call, shapes: Any, *, divisible: bool = False) -> Export:
    """Exports a model by the first way that succeeds.

    Args:
        model: The model.
        call: The inputs of the model.
        shapes: The dynamic dimensions, in torch.export's form.
        divisible: Whether a batch that must be divisible by a number is an error.

    Raises:
        CaptureError: All ways fail; the error names the user's line.
        HiddenBatch: The batch must be divisible by a number, and `divisible` is set.
    """
    first: Exception | None = None
    found: Export | None = None
    try:
        found = _export_refining(model, call, shapes, strict=False, divisible=divisible)
        if not reads_values(found.program):
            return found
    except CaptureError:
        raise
    except Exception as error:  # noqa: BLE001 - export may raise any error; the next way is tried
        first = error
    decisions = record_decisions(model, call)
    if decisions.values:
        try:
            found = _export_refining(model, call, shapes, strict=False, decisions=decisions)
            return dataclasses.replace(found, decided=frozenset(decisions.state))
        except CaptureError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            first = first or error
    if found is not None:
        return found
    assert first is not None
    try:
        found = _export_refining(model, call, shapes, strict=True)
    except CaptureError:
        raise
    except Exception:  # noqa: BLE001 - the message explains the first error
        found = None
    if found is not None and (found.program.range_constraints or not _has_free_sizes(shapes)):
        return dataclasses.replace(found, strict=True)
    with quiet():
        line = user_frame(first) or draft_line(model, call.args, call.kwargs, shapes)
    raise capture_error(first, model, line) from first


def _export_refining(
    model: torch.nn.Module,
    call: Call,
    shapes: Any,
    strict: bool,
    decisions: Decisions = _NO_DECISIONS,
    *,
    divisible: bool = False,
) -> Export:
    """Exports, and narrows the range of a dimension when branches of the model on shapes require it."""
    from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes

    branches: list[str] = []
    for _ in range(4):
        try:
            return Export(_run_export(model, call, shapes, strict, decisions), branches=tuple(dict.fromkeys(branches)))
        except torch._dynamo.exc.UserError as error:
            text = str(error)
            if shapes is None or not _limits_the_batch(error):
                raise
            if divisible and (step := divisor_of_batch(error)) > 1:
                raise HiddenBatch(step) from error
            branches += branch_lines(error)
            try:
                refined = refine_dynamic_shapes_from_suggested_fixes(text.split("\n\n")[0], shapes)
            except (torch._dynamo.exc.UserError, ValueError):
                return _export_assuming(model, call, shapes, error, strict, decisions)
            if _fixes_a_dim(refined):
                raise
            if _has_multiples(refined) and not _has_multiples(shapes):
                model, shapes = one_batch(model), _automatic(shapes)
            else:
                shapes = refined
    return Export(_run_export(model, call, shapes, strict, decisions), branches=tuple(dict.fromkeys(branches)))


def _export_assuming(
    model: torch.nn.Module, call: Call, shapes: Any, error: Exception, strict: bool, decisions: Decisions
) -> Export:
    """Exports and keeps the trace's decisions about the batch, if they fail at few batch sizes.

    Raises:
        UserError: `error`, if the decisions fail at more batch sizes.
    """
    if strict or _has_multiples(shapes):
        raise error
    exported = _run_export(one_batch(model), call, _automatic(shapes), strict, decisions)
    doubtful = doubtful_batches(exported)
    if doubtful is None:
        raise error
    return Export(exported, assumed=True, doubtful=doubtful)


def _fixes_a_dim(shapes: Any) -> bool:
    """Whether a refinement turned a free dimension into a number."""
    return any(isinstance(leaf, int) and not isinstance(leaf, bool) for leaf in pytree.tree_leaves(shapes))


def _has_free_sizes(shapes: Any) -> bool:
    """Whether `shapes` has a dynamic dimension, which strict export may fix without a message."""
    return any(isinstance(leaf, Dim) for leaf in pytree.tree_leaves(shapes))


def _has_multiples(shapes: Any) -> bool:
    """Whether a dimension is a multiple of another, which leaves few sizes."""
    return any(isinstance(leaf, _DerivedDim) for leaf in pytree.tree_leaves(shapes))


def _automatic(shapes: Any) -> Any:
    """The same dimensions as `Dim.AUTO`: export then assumes unproven properties, which the comparison with the model tests."""

    def relaxed(leaf: Any) -> Any:
        return Dim.AUTO(min=leaf.min, max=leaf.max) if isinstance(leaf, Dim) else leaf

    return pytree.tree_map(relaxed, shapes)


def _run_export(
    model: torch.nn.Module, call: Call, shapes: Any, strict: bool, decisions: Decisions
) -> torch.export.ExportedProgram:
    if strict:
        return _export_once(model, call, shapes, nullcontext(), strict=True)
    with quick_trace() as trace:
        try:
            exported = _export_once(model, call, shapes, _traceable(trace, decisions), strict=False)
            if not trace.refused:
                return exported
        except Exception as error:
            if not trace.differs or _limits_the_batch(error):
                raise
    with quick_trace(nodes=False) as trace:
        return _export_once(model, call, shapes, _traceable(trace, decisions), strict=False)


def _export_once(
    model: torch.nn.Module, call: Call, shapes: Any, context: AbstractContextManager[None], strict: bool
) -> torch.export.ExportedProgram:
    # A trace computes most fake values once. Reading and filling their cache would take a third of the time.
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    with quiet(), uncached, padded_with_zeros(), context:
        exported = torch.export.export(model, call.args, call.kwargs, dynamic_shapes=shapes, strict=strict)
    fakes = [n for n, v in exported.constants.items() if isinstance(v, torch._subclasses.FakeTensor)]
    if fakes:
        raise ValueError(f"export stored {fakes[0]} as a constant, though it depends on the inputs (.data in forward?)")
    return exported


def _limits_the_batch(error: Exception) -> bool:
    """Whether an export ended with limits of a dimension, which the traced sizes decide."""
    return isinstance(error, torch._dynamo.exc.UserError) and "Constraints violated" in str(error)


@contextmanager
def _traceable(trace: QuickTrace, decisions: Decisions) -> Iterator[None]:
    """A context in which the tracer records `.data`, NumPy functions and slices of the batch, and reads of recorded places."""
    replay = replayed(decisions) if decisions.values else nullcontext()
    with replay, _data_as_detach(trace), traced_numpy_functions(), lengths_for_packing(), batch_free_kernels():
        yield


@contextmanager
def _data_as_detach(trace: QuickTrace) -> Iterator[None]:
    """Makes `tensor.data` mean `tensor.detach()` in a trace; the tracer does not see `.data` and would record a constant."""
    descriptor: Any = torch._C.TensorBase.data

    def assign(tensor: torch.Tensor, value: torch.Tensor) -> None:
        if trace.nodes is not None:
            trace.nodes.forget(tensor)
        descriptor.__set__(tensor, value)

    torch.Tensor.data = property(lambda t: t.detach(), assign)  # type: ignore[assignment]
    try:
        yield
    finally:
        del torch.Tensor.data


@contextmanager
def quiet() -> Iterator[None]:
    """A context without output of export, which concerns its internals; recfx reports errors and notices instead.

    A failing export prints its partial graph, logs through loggers that it creates, and warns. This context suppresses all three.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
