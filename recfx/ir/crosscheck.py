"""Comparison of a captured program with the user's own model, on other inputs than those it was captured with.

Tracers bake values in silently (a mask becomes a constant, a batch size a literal). Such a program is right on the example and
wrong elsewhere, so the probes use other values and other batch sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.errors import CaptureError
from recfx.ir.inputs import Call
from recfx.ir.jagged import PARTS, is_jagged, resample, rows
from recfx.ir.program import Program
from recfx.ir.shapes import BATCH, batch_size

PROBE_BATCHES = (1, 2, 7)


def compare_with_model(program: Program, model: torch.nn.Module, call: Call) -> list[str]:
    """Runs the model and the program side by side.

    Returns:
        Notices, when some probes could not be run because the model itself refuses them.

    Raises:
        CaptureError: They disagree, or the model disagrees with itself.
    """
    with torch.no_grad():
        first = _run_example(model, call, program)
        if not _agree(first, _run_model(model, call, program.example)):
            raise CaptureError(
                "the model gives different answers for the same inputs in eval mode",
                where=type(model).__name__,
                hint="remove the randomness from forward; an optimized model must be deterministic",
            )
        _require_agreement(first, program.run(program.example), "the example inputs", model)
        refused = []
        for name, leaves in probes(program):
            try:
                expected = _run_model(model, call, leaves)
            except Exception:  # noqa: BLE001 - the model may refuse made-up inputs; that is reported, not hidden
                refused.append(name)
                continue
            _require_agreement(expected, program.run(leaves), name, model)
    if refused:
        return [
            f"the model itself refuses some made-up inputs, which were therefore not compared: {', '.join(refused)}"
        ]
    return []


def probes(program: Program, seed: int = 0) -> list[tuple[str, list[Any]]]:
    """Other inputs of the same kind: every column reshuffled on its own, batches of 1, 2, 7 and the example's size.

    Values are drawn from the column they stand in, so ids stay in range and flags stay flags. The bags of a jagged tensor
    are drawn whole.
    """
    signature = program.signature
    if BATCH not in signature.dims:
        return [("shuffled values", _shuffle_static(program, seed))]
    low, high = signature.dims[BATCH]
    values = pytree.tree_unflatten(list(program.example), signature.in_spec)
    parts, spec = pytree.tree_flatten(values, is_leaf=is_jagged)
    batched = _batched_parts(program, parts)
    size = batch_size(values) or 1
    generator = torch.Generator().manual_seed(seed)
    found = []
    for batch in dict.fromkeys((*PROBE_BATCHES, size)):
        batch = max(batch, low) if high is None else min(max(batch, low), high)
        drawn = [_resample(p, batch, generator) if b else p for p, b in zip(parts, batched, strict=True)]
        leaves = pytree.tree_leaves(pytree.tree_unflatten(drawn, spec))
        found.append((f"reshuffled inputs at batch {batch}", leaves))
    return found


def _batched_parts(program: Program, parts: Sequence[Any]) -> list[bool]:
    """Which parts (leaves, or whole jagged tensors) have one row for each row of the batch."""
    specs = iter(program.signature.leaves)
    found = []
    for part in parts:
        own = [next(specs) for _ in range(PARTS if is_jagged(part) else 1)]
        found.append(is_jagged(part) or (bool(own[0].shape) and own[0].shape[0] == BATCH))
    return found


def _resample(part: Any, batch: int, generator: torch.Generator) -> Any:
    """Draws `batch` values, with replacement, for each column on its own; whole bags of a jagged tensor."""
    if is_jagged(part):
        return resample(part, torch.randint(rows(part), (len(part.keys()), batch), generator=generator))
    size, columns = part.shape[0], part.reshape(part.shape[0], -1)
    picks = torch.randint(size, (batch, columns.shape[1]), generator=generator).to(part.device)
    return columns.gather(0, picks).reshape(batch, *part.shape[1:])


def _shuffle_static(program: Program, seed: int) -> list[Any]:
    """The example with every row in another row's place (a random permutation could leave the telling row where it is)."""
    return [
        leaf.roll(1 + seed % (leaf.shape[0] - 1), 0)
        if isinstance(leaf, torch.Tensor) and leaf.ndim > 1 and leaf.shape[0] > 1
        else leaf
        for leaf in program.example
    ]


def _run_model(model: torch.nn.Module, call: Call, leaves: Sequence[Any]) -> list[Any]:
    spec = pytree.tree_flatten((tuple(call.values), {}))[1]
    fresh = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    bound = call.with_values(pytree.tree_unflatten(fresh, spec)[0])
    return pytree.tree_leaves(model(*bound.args, **bound.kwargs))


def _run_example(model: torch.nn.Module, call: Call, program: Program) -> list[Any]:
    try:
        return _run_model(model, call, program.example)
    except Exception as error:
        raise CaptureError(
            f"the model itself fails on the example inputs ({type(error).__name__}: {error})",
            where=type(model).__name__,
            hint="give example inputs on which model(*inputs) works",
        ) from error


def _require_agreement(expected: list[Any], actual: list[Any], inputs: str, model: torch.nn.Module) -> None:
    if not _agree(expected, actual):
        raise CaptureError(
            f"the captured graph disagrees with the model by {largest_difference(expected, actual):.3g} on {inputs}",
            where=type(model).__name__,
            hint="something that depends on the inputs was fixed at capture: a mask, a size or a Python branch in forward",
        )


def _agree(expected: Sequence[Any], actual: Sequence[Any]) -> bool:
    if len(expected) != len(actual):
        return False
    for want, got in zip(expected, actual, strict=True):
        if isinstance(want, torch.Tensor):
            if not isinstance(got, torch.Tensor) or want.shape != got.shape or want.dtype != got.dtype:
                return False
            if not torch.equal(want, got) and not _close(want, got):
                return False
        elif want != got:
            return False
    return True


def _close(want: torch.Tensor, got: torch.Tensor) -> bool:
    """Capture changes no arithmetic; what is allowed is the few last bits a different memory layout can cost."""
    if not (want.is_floating_point() or want.is_complex()):
        return False
    scale = want.detach().abs()
    finite = scale[torch.isfinite(scale)]
    size = float(finite.max()) if finite.numel() else 1.0
    return torch.allclose(want, got, rtol=0.0, atol=64 * torch.finfo(want.dtype).eps * max(size, 1e-30), equal_nan=True)


def largest_difference(expected: Sequence[Any], actual: Sequence[Any]) -> float:
    """The largest absolute difference between two lists of outputs; infinite when they differ in kind."""
    worst = 0.0
    for want, got in zip(expected, actual, strict=False):
        if isinstance(want, torch.Tensor) and isinstance(got, torch.Tensor) and want.shape == got.shape:
            gap = (want.double() - got.double()).abs()
            gap = gap[~(want.isnan() & got.isnan())] if want.is_floating_point() else gap
            worst = max(worst, float(gap.max()) if gap.numel() else 0.0)
        elif isinstance(want, torch.Tensor) or want != got:
            return float("inf")
    return worst
