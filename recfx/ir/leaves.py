"""Requirements on each leaf of the inputs.

A *leaf* is one tensor or one constant inside the (possibly nested) inputs. Shapes are tuples whose entries are integers,
the name of a dimension ("batch"), or a Python expression over such names ("batch + 1").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch

from recfx.errors import InputError
from recfx.ir.constants import same_constant
from recfx.ir.sizes import evaluate_size, linear_size

Size = int | str

_CAST = "pass cast_inputs=True to optimize or load, "


@dataclasses.dataclass(frozen=True)
class LeafSpec:
    """The requirements on one leaf of the inputs.

    Attributes:
        name: The leaf as an expression over the parameters of forward: `sparse`, `features['user_id']`.
        kind: "tensor"; "constant" (part of the captured model, must not change); or "size" (an integer that must equal dimension `value`).
        dtype: Element type, for a tensor.
        device: Device, for a tensor.
        shape: Sizes, for a tensor: integers, dimension names, or expressions over dimension names.
        value: The captured value of a constant; the name of a dimension for a size.
        repeats: The treatment of several rows where dimension 0 has size one: "refused" is an error; "compared" accepts equal rows;
            "trusted" takes the rows to be equal. The model uses the first row.
        contiguous: Whether the tensor must be contiguous, because the model reads values computed from it by strides.
    """

    name: str
    kind: Literal["tensor", "constant", "size"]
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    shape: tuple[Size, ...] = ()
    value: Any = None
    repeats: Literal["refused", "compared", "trusted"] = "refused"
    contiguous: bool = False

    def __str__(self) -> str:
        if self.kind != "tensor":
            return f"{self.name}={self.value!r}"
        sizes = ", ".join(str(s) for s in self.shape)
        return f"{self.name}: {str(self.dtype).removeprefix('torch.')}[{sizes}]"


def one_row(spec: LeafSpec, leaf: Any, like: Any) -> Any:
    """The first row of a request input, which may hold one row or the same row for each candidate.

    Args:
        spec: The leaf's requirements, with `repeats` "compared" or "trusted".
        leaf: The given value.
        like: An input with one row for each candidate.

    Raises:
        InputError: The rows differ, or their number is neither 1 nor the number of candidates.
    """
    if not isinstance(leaf, torch.Tensor) or not leaf.ndim or leaf.shape[0] == 1:
        return leaf  # `check_leaf` reports other errors
    rows = int(leaf.shape[0])
    candidates = int(like.shape[0]) if isinstance(like, torch.Tensor) and like.ndim else rows
    if rows != candidates or not rows:
        raise InputError(
            f"{rows} rows given for one request and {candidates} candidate(s)",
            where=f"input {spec}",
            hint="pass one row for the request, or repeat this row for each candidate",
        )
    first = leaf[:1]
    if spec.repeats == "compared" and not torch.equal(leaf, first.expand_as(leaf)):
        same = (leaf == first) | ((leaf != leaf) & (first != first))  # NaN is the same as NaN
        if not bool(same.all()):
            row = int((~same).reshape(rows, -1).any(1).nonzero()[0])
            raise InputError(
                f"row {row} differs from row 0, but the model was optimized for one row per request",
                where=f"input {spec}",
                hint="call once for each request, or optimize with many_requests=True and pass request_index",
            )
    return first


def check_dimension(spec: LeafSpec, leaf: Any, sizes: Mapping[str, int]) -> None:
    """Checks an integer that must equal a dimension; raises `InputError` when it differs."""
    if isinstance(leaf, bool) or not isinstance(leaf, int) or leaf != sizes.get(spec.value, leaf):
        raise InputError(
            f"expected the size of {spec.value}, {sizes.get(spec.value)}, got {leaf!r}",
            where=f"input {spec.name}",
            hint=f"pass the number of rows of the other inputs as {spec.name}",
        )


def check_leaf(spec: LeafSpec, leaf: Any, sizes: dict[str, int], dims: Mapping[str, tuple[int, int | None]]) -> None:
    """Checks one leaf and adds its dimensions to `sizes`; raises `InputError` when it does not meet `spec`."""
    if spec.kind == "size":
        return  # `Signature.check` compares it once `sizes` holds the dimensions of all tensors
    if spec.kind == "constant":
        return _check_constant(spec, leaf)
    _check_kind(spec, leaf)
    if leaf.ndim != len(spec.shape):
        raise InputError(
            f"expected {len(spec.shape)} dimensions, got shape {list(leaf.shape)}",
            where=f"input {spec}",
            hint="pass a tensor with the dimensions of the example inputs",
        )
    if spec.contiguous and not leaf.is_contiguous():
        raise InputError(
            f"expected a contiguous tensor, got strides {list(leaf.stride())}: the model calls as_strided on values computed from it",
            where=f"input {spec}",
            hint="pass it with .contiguous()",
        )
    for axis, (want, got) in enumerate(zip(spec.shape, leaf.shape, strict=True)):
        _check_size(spec, axis, want, got, sizes, dims)


def _check_constant(spec: LeafSpec, leaf: Any) -> None:
    """Checks a value that was built into the captured model."""
    if same_constant(leaf, spec.value):
        return
    if spec.value is None:
        raise InputError(
            f"the example inputs had None here, now it is {_kind(leaf)}",
            where=f"input {spec.name}",
            hint="pass None, or optimize with example inputs that have a value here",
        )
    raise InputError(
        f"the value {spec.value!r} was built into the model when it was captured, now it is {leaf!r}",
        where=f"input {spec.name}",
        hint="optimize once for each value, or pass a tensor",
    )


def _check_kind(spec: LeafSpec, leaf: Any) -> None:
    """Checks that a leaf is a dense tensor of the dtype and on the device that the model was captured with."""
    if not isinstance(leaf, torch.Tensor):
        raise InputError(
            f"expected a tensor, got {type(leaf).__name__}",
            where=f"input {spec}",
            hint="pass a tensor as in the example inputs, or optimize with example inputs that leave it out",
        )
    if leaf.dtype is not spec.dtype:
        raise InputError(
            f"expected dtype {spec.dtype}, got {leaf.dtype}",
            where=f"input {spec}",
            hint=f"convert it with .to({spec.dtype}), {_CAST if spec.dtype and spec.dtype.is_floating_point else ''}"
            "or optimize with example inputs of the new dtype",
        )
    if leaf.device != spec.device:
        raise InputError(
            f"expected a tensor on {spec.device}, got one on {leaf.device}",
            where=f"input {spec}",
            hint=f"move it with .to('{spec.device}')",
        )
    if leaf.layout is not torch.strided or leaf.is_nested:
        layout = "a nested tensor" if leaf.is_nested else f"the layout {leaf.layout}"
        raise InputError(
            f"expected a dense tensor, got {layout}", where=f"input {spec}", hint="pass it with .to_dense()"
        )


def _check_size(
    spec: LeafSpec,
    axis: int,
    want: Size,
    got: int,
    sizes: dict[str, int],
    dims: Mapping[str, tuple[int, int | None]],
) -> None:
    where = f"input {spec}, dimension {axis}"
    if isinstance(want, int):
        if got != want:
            raise InputError(
                f"expected size {want}, got {got}",
                where=where,
                hint=f"pass a tensor of size {want} in dimension {axis}, as in the example inputs",
            )
        return
    if want not in dims:
        expected = evaluate_size(want, sizes)
        if expected is not None and got != expected:
            raise InputError(
                f"expected {want} = {expected}, got {got}",
                where=where,
                hint="check this input against the sizes of the other inputs",
            )
        solution = linear_size(want, sizes) if expected is None else None
        if solution is None:
            return
        want, factor, base = solution
        if (got - base) % factor:
            raise InputError(
                f"{got} is not a multiple of {factor}{f' plus {base}' if base else ''}",
                where=where,
                hint=f"pass a tensor with {spec.shape[axis]} entries in dimension {axis}",
            )
        got = (got - base) // factor
    if sizes.setdefault(want, got) != got:
        raise InputError(
            f"{want} is {got} here and {sizes[want]} in an earlier input",
            where=where,
            hint=f"pass inputs with the same {want}",
        )
    low, high = dims[want]
    if got < low or (high is not None and got > high):
        raise InputError(
            f"{want} = {got} is outside the captured range {low} to {'any' if high is None else high}",
            where=where,
            hint=(
                f"split the call, or optimize with a larger max_batch than {high}"
                if got > low
                else f"pass at least {low} row(s)"
            ),
        )


def _kind(leaf: Any) -> str:
    return f"a tensor {list(leaf.shape)}" if isinstance(leaf, torch.Tensor) else repr(leaf)
