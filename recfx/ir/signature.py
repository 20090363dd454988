"""The calling convention of a captured model: it turns arguments into the leaves of the inputs, and flat outputs into the result."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils import _pytree as pytree

from recfx.errors import InputError
from recfx.ir.constants import Fingerprint, same_constant, without_constants
from recfx.ir.containers import canonical, container_mismatch, is_container
from recfx.ir.held_values import rebuilt_outputs
from recfx.ir.leaves import LeafSpec, check_dimension, check_leaf, one_row
from recfx.ir.mappings import in_captured_order, key_difference


@dataclasses.dataclass(frozen=True)
class Signature:
    """The calling convention of a model.

    Attributes:
        parameters: Names of the `forward` parameters that the capture received, in the order of the signature.
        defaults: `forward` parameters that the capture left at their default: name -> default.
        keyword_only: The names in `parameters` of keyword-only parameters.
        in_spec: The pytree of `(parameter values, {})`.
        out_spec: The pytree of the result.
        leaves: One entry per leaf, in the order of the graph's placeholders.
        dims: Dimension name -> (smallest, largest) size.
        constants: Parameters declared constant, which `parameters` does not list: name -> the required value if a call passes it; None
            when the value is not checked.
        forward: With constants: the names of `constants` and `parameters`, in the order of the model's `forward`.
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

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        """Itself: nothing changes a signature."""
        return self

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Puts call arguments in the order of `parameters`.

        Raises:
            InputError: A parameter is missing, unknown or given twice, or a call passes another value for a default of the capture.
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

    def split(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Splits values in the order of `parameters` into positional and keyword arguments of a call."""
        named = dict(zip(self.parameters, values, strict=True))
        keyword = {name: value for name, value in named.items() if name in self.keyword_only}
        return tuple(value for name, value in named.items() if name not in keyword), keyword

    def nested(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """Nests flat inputs as values of `parameters`, in their order."""
        values: tuple[Any, ...] = tuple(pytree.tree_unflatten(list(leaves), self.in_spec)[0])
        return values

    def unpacked(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Turns flat inputs into positional and keyword arguments of a call."""
        return self.split(self.nested(leaves))

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Binds the arguments and flattens them to leaves. It checks the nesting, but not the leaves.

        Raises:
            InputError: The arguments do not bind, or their nesting differs from the captured nesting.
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
        """The position of the first leaf with one row for each row of the batch; None without one."""
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
                check_dimension(spec, leaf, sizes)
            check_leaf(spec, leaf, sizes, self.dims)  # again: later leaves determined dimensions of earlier leaves
        return sizes

    def unflatten(self, outputs: Sequence[Any]) -> Any:
        """Rebuilds the user's result from the flat outputs."""
        return rebuilt_outputs(list(outputs), self.out_spec)


def _brief(spec: pytree.TreeSpec) -> str:
    text = " ".join(str(spec).split())
    return text if len(text) <= 400 else text[:400] + " …"
