"""The calling convention of a captured model: which leaves the inputs have, and what each must look like.

A *leaf* is one tensor or one constant inside the (possibly nested) inputs. Shapes are tuples whose entries are integers,
the name of a dimension ("batch"), or a Python expression over such names ("batch + 1").
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.constants import Fingerprint, same_constant, without_constants
from recfx.ir.containers import canonical, container_mismatch, is_container
from recfx.ir.mappings import in_captured_order, key_difference
from recfx.ir.sizes import evaluate_size, linear_size

Size = int | str


@dataclasses.dataclass(frozen=True)
class LeafSpec:
    """What one leaf of the inputs must be.

    Attributes:
        name: How a user would write it: `sparse`, `features['user_id']`.
        kind: "tensor"; "constant" (baked in at capture, must not change); or "size" (an integer that must equal the dimension `value`).
        dtype: Element type, for a tensor.
        device: Device, for a tensor.
        shape: Sizes, for a tensor: integers, dimension names, or expressions over dimension names.
        value: The captured value of a constant; the name of a dimension for a size.
        repeats: What happens when several rows come for a dimension 0 of size one: "refused"; "compared", and refused unless they
            are equal; "trusted" to be equal. Where they are accepted, the first row is used.
        contiguous: Whether the tensor must be contiguous, because the model reads by strides what it computes from it.
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


@dataclasses.dataclass(frozen=True)
class Signature:
    """How the model is called, and what it returns.

    Attributes:
        parameters: Names of the `forward` parameters that were given at capture, in the order of the signature.
        defaults: `forward` parameters that were left at their default: name -> that default.
        keyword_only: Those of `parameters` that only a keyword can give.
        in_spec: The pytree of `(parameter values, {})`.
        out_spec: The pytree of the result.
        leaves: One entry per leaf, in the order of the graph's placeholders.
        dims: Dimension name -> (smallest, largest) size.
        constants: Parameters that were declared constant, and are none of `parameters`: name -> what they must be when they are passed
            all the same; None for one that is not looked at.
        forward: With constants: these and `parameters`, in the order of the model's `forward`.
    """

    parameters: tuple[str, ...]
    defaults: Mapping[str, Any]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    leaves: tuple[LeafSpec, ...]
    dims: Mapping[str, tuple[int, int | None]]
    keyword_only: frozenset[str] = frozenset()
    constants: Mapping[str, Fingerprint | None] = dataclasses.field(default_factory=dict)
    forward: tuple[str, ...] = ()

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Puts call arguments in the order of `parameters`.

        Raises:
            InputError: A parameter is missing, unknown, given twice, or was left at its default at capture and now is not.
        """
        if self.constants:
            args, kwargs = without_constants(self.forward, self.constants, args, kwargs)
        given = dict(zip((p for p in self.parameters if p not in self.keyword_only), args, strict=False))
        positional = len(self.parameters) - len(self.keyword_only)
        if len(args) > positional:
            raise InputError(
                f"{len(args)} positional arguments given, the captured model takes {positional}",
                where=f"call of a model captured as ({', '.join(self.parameters)})",
                hint="pass the arguments that were in example_inputs, in that order",
            )
        for name, value in kwargs.items():
            if name in given:
                raise InputError(f"argument {name!r} is given twice", hint="pass it once, by position or by keyword")
            if name in self.defaults:
                if not same_constant(value, self.defaults[name]):
                    raise InputError(
                        f"argument {name!r} was left at its default {self.defaults[name]!r} when the model was captured",
                        hint=f"optimize again with {name!r} in example_inputs",
                    )
                continue
            if name not in self.parameters:
                raise InputError(
                    f"unknown argument {name!r}",
                    hint=f"the captured model takes ({', '.join(self.parameters)})",
                )
            given[name] = value
        missing = [p for p in self.parameters if p not in given]
        if missing:
            raise InputError(
                f"missing argument(s) {', '.join(map(repr, missing))}",
                hint=f"the captured model takes ({', '.join(self.parameters)})",
            )
        return [given[p] for p in self.parameters]

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Binds the arguments and flattens them to leaves, checking the structure but not the leaves.

        Raises:
            InputError: The arguments do not bind, or their nesting differs from the one captured.
        """
        bound = in_captured_order(tuple(self.bind(args, kwargs)), self.in_spec.children()[0])
        values = pytree.tree_map(canonical, bound, is_leaf=is_container)
        leaves, spec = pytree.tree_flatten((values, {}))
        if spec != self.in_spec:
            if mismatch := container_mismatch(spec, self.in_spec):
                raise mismatch
            for name, value, child in zip(self.parameters, values, self.in_spec.children()[0].children(), strict=True):
                if (difference := key_difference(value, child, name)) is not None:
                    raise InputError(
                        f"the inputs are nested differently from the captured ones: {difference}",
                        where=f"input {name}",
                        hint="pass the keys that were in example_inputs and no others, or optimize again with these",
                    )
            raise InputError(
                "the inputs are nested differently from the captured ones",
                where=f"got {_brief(spec)}",
                hint=f"pass {_brief(self.in_spec)}",
            )
        if all(leaf.repeats == "refused" for leaf in self.leaves):
            return leaves
        rows = leaves[self.batch_leaf] if self.batch_leaf is not None else None
        return [
            one_row(leaf, value, rows) if leaf.repeats != "refused" else value
            for leaf, value in zip(self.leaves, leaves, strict=True)
        ]

    @functools.cached_property
    def batch_leaf(self) -> int | None:
        """The number of the first leaf with one row for each row of the batch."""
        return next((i for i, leaf in enumerate(self.leaves) if leaf.shape and leaf.shape[0] == "batch"), None)

    def check(self, leaves: Sequence[Any]) -> dict[str, int]:
        """Checks every leaf against its spec and returns the size of each dimension.

        Raises:
            InputError: A leaf has the wrong type, dtype, device, rank or size, or a dimension is outside its range.
        """
        sizes: dict[str, int] = {}
        for spec, leaf in zip(self.leaves, leaves, strict=True):
            check_leaf(spec, leaf, sizes, self.dims)
        for spec, leaf in zip(self.leaves, leaves, strict=True):
            if spec.kind == "size":
                _check_dimension(spec, leaf, sizes)
            check_leaf(spec, leaf, sizes, self.dims)  # again: later leaves told dimensions of earlier ones
        return sizes

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """Rebuilds the user's result from the flat outputs."""
        return pytree.tree_unflatten(list(outputs), self.out_spec)


def one_row(spec: LeafSpec, leaf: Any, like: Any) -> Any:
    """The one row of an input that has one row for each request, given that or the same row for each candidate.

    Args:
        spec: What the leaf must be, its `repeats` being "compared" or "trusted".
        leaf: What was given.
        like: An input with one row for each candidate.

    Raises:
        InputError: The rows differ, or are neither one nor as many as the candidates.
    """
    if not isinstance(leaf, torch.Tensor) or not leaf.ndim or leaf.shape[0] == 1:
        return leaf  # whatever else may be wrong with it is told by `check_leaf`
    rows = int(leaf.shape[0])
    candidates = int(like.shape[0]) if isinstance(like, torch.Tensor) and like.ndim else rows
    if rows != candidates or not rows:
        raise InputError(
            f"{rows} rows given for one request and {candidates} candidate(s)",
            where=f"input {spec}",
            hint="pass the request's one row, or that row once for each candidate",
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


def _check_dimension(spec: LeafSpec, leaf: Any, sizes: Mapping[str, int]) -> None:
    if isinstance(leaf, bool) or not isinstance(leaf, int) or leaf != sizes.get(spec.value, leaf):
        raise InputError(
            f"expected the size of {spec.value}, {sizes.get(spec.value)}, got {leaf!r}",
            where=f"input {spec.name}",
            hint=f"pass the number of rows of the other inputs as {spec.name}",
        )


def check_leaf(spec: LeafSpec, leaf: Any, sizes: dict[str, int], dims: Mapping[str, tuple[int, int | None]]) -> None:
    """Checks one leaf, adding the dimensions it fixes to `sizes`; raises `InputError`."""
    if spec.kind == "size":
        return  # `Signature.check` compares it once all tensors have told their dimensions
    if spec.kind == "constant":
        if not same_constant(leaf, spec.value):
            if spec.value is None:
                raise InputError(
                    f"the example inputs had None here, now it is {_kind(leaf)}",
                    where=f"input {spec.name}",
                    hint="optimize with example inputs that have it, or leave it out",
                )
            raise InputError(
                f"the value {spec.value!r} was built into the model when it was captured, now it is {leaf!r}",
                where=f"input {spec.name}",
                hint="optimize once for each value, or pass a tensor",
            )
        return
    if not isinstance(leaf, torch.Tensor):
        raise InputError(
            f"expected a tensor, got {type(leaf).__name__}",
            where=f"input {spec}",
            hint="pass what the example inputs had, or optimize with example inputs that leave it out",
        )
    if leaf.dtype is not spec.dtype:
        raise InputError(
            f"expected dtype {spec.dtype}, got {leaf.dtype}",
            where=f"input {spec}",
            hint=f"convert it with .to({spec.dtype}), or optimize with example inputs of the new dtype",
        )
    if leaf.device != spec.device:
        raise InputError(
            f"expected a tensor on {spec.device}, got one on {leaf.device}",
            where=f"input {spec}",
            hint=f"move it with .to('{spec.device}')",
        )
    if leaf.ndim != len(spec.shape):
        raise InputError(f"expected {len(spec.shape)} dimensions, got shape {list(leaf.shape)}", where=f"input {spec}")
    if spec.contiguous and not leaf.is_contiguous():
        raise InputError(
            f"expected a contiguous tensor, got strides {list(leaf.stride())}: the model calls as_strided on what it computes from it",
            where=f"input {spec}",
            hint="pass it with .contiguous()",
        )
    for axis, (want, got) in enumerate(zip(spec.shape, leaf.shape, strict=True)):
        _check_size(spec, axis, want, got, sizes, dims)


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
            raise InputError(f"expected size {want}, got {got}", where=where)
        return
    if want not in dims:
        expected = evaluate_size(want, sizes)
        if expected is not None and got != expected:
            raise InputError(f"expected {want} = {expected}, got {got}", where=where)
        solution = linear_size(want, sizes) if expected is None else None
        if solution is None:
            return
        want, factor, base = solution
        if (got - base) % factor:
            raise InputError(f"{got} is not a multiple of {factor}" + (f", plus {base}" if base else ""), where=where)
        got = (got - base) // factor
    if sizes.setdefault(want, got) != got:
        raise InputError(
            f"{want} is {got} here and {sizes[want]} in an earlier input",
            where=where,
            hint="all inputs of one call must agree on it",
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


def _brief(spec: pytree.TreeSpec) -> str:
    text = " ".join(str(spec).split())
    return text if len(text) <= 400 else text[:400] + " …"
