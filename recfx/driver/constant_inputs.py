"""`constant_inputs=`: inputs that are the same at every call, and inputs that an item's id determines, become part of the model.

A model is bound to them before it is captured: its `forward` loses these parameters and reads buffers instead. All later stages (capture,
passes, comparison with the user's model) see an ordinary model.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recfx.capture.module_view import module_view, set_forward
from recfx.capture.requests import INDEX
from recfx.errors import InputError
from recfx.ir.catalogue import Catalogue, make_catalogue
from recfx.ir.constants import Fingerprint, fingerprint
from recfx.ir.signature import Signature
from recfx.pipeline import Pipeline, PipelineResult

PREFIX = "constant_inputs_"
_PLACES = "catalogue_places"


@dataclasses.dataclass(frozen=True)
class Held:
    """A model without its constant inputs, and an example for it.

    Attributes:
        model: The model; `forward` takes the other inputs.
        args: Positional example inputs.
        kwargs: Keyword example inputs.
        values: The declared values.
        constants: Parameter that calls may leave out -> fingerprint of the value that a call may pass; None for columns of a catalogue.
        forward: All parameters of the user's model, in order.
        catalogue: The catalogue, when one was declared.
    """

    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    values: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    constants: Mapping[str, Fingerprint | None] = dataclasses.field(default_factory=dict)
    forward: tuple[str, ...] = ()
    catalogue: Catalogue | None = None

    @property
    def resources(self) -> dict[str, Any]:
        """Additional resources of the passes."""
        return {} if self.catalogue is None else {"catalogue": self.catalogue}

    def first_passes(self) -> Pipeline:
        """The passes that run before the user's pipeline."""
        return Pipeline("canonicalize,merge-duplicates,tabulate-towers" if self.catalogue is not None else ())

    def notices(self, result: PipelineResult) -> tuple[str, ...]:
        """A notice if no tower over the catalogue was found."""
        if self.catalogue is None or any(a.pass_name == "tabulate-towers" and a.allowed for a in result.rewrites):
            return ()
        return (f"no tower over {self.catalogue.key!r} was found: only plain lookups depend on no other input",)

    def mark(self, signature: Signature) -> Signature:
        """The signature with the inputs that calls may leave out."""
        if not self.constants:
            return signature
        names = tuple(n for n in self.forward if n in signature.parameters or n in self.constants)
        return dataclasses.replace(signature, constants=self.constants, forward=names)


def hold_constants(
    model: torch.nn.Module,
    declared: Mapping[str, Any] | Sequence[str] | None,
    is_catalogue: bool,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Held:
    """Binds the constant inputs of a model, so that calls leave them out.

    Args:
        model: The user's model.
        declared: The argument `constant_inputs` of `optimize`.
        is_catalogue: Whether they are a catalogue.
        args: Positional example inputs.
        kwargs: Keyword example inputs.

    Raises:
        InputError: The constants do not fit the model, each other, or the example.
    """
    if not declared:
        if is_catalogue:
            raise InputError(
                "catalogue=True needs constant_inputs",
                hint="pass all ids first, as in constant_inputs={'item': torch.arange(num_items)}",
            )
        return Held(model, tuple(args), dict(kwargs))
    parameters = inspect.signature(model.forward).parameters
    kwargs, others = (
        {name: value for name, value in kwargs.items() if (name != INDEX or INDEX in parameters) is wanted}
        for wanted in (True, False)
    )
    values = read_constants(model, declared, args, kwargs)
    catalogue = make_catalogue(values) if is_catalogue else None
    constants = {} if catalogue is not None else values
    marks: dict[str, Fingerprint | None] = {name: fingerprint(value) for name, value in constants.items()}
    if catalogue is not None:
        _require_example_fits(model, catalogue, args, kwargs)
        marks = dict.fromkeys(catalogue.columns)
    if not marks:
        return Held(model, tuple(args), {**kwargs, **others}, values, catalogue=catalogue)
    left, left_by_name = drop_from_example(model, marks, args, kwargs)
    bound = bind(model, constants, catalogue)
    return Held(bound, left, {**left_by_name, **others}, values, marks, tuple(parameters), catalogue)


def _require_example_fits(
    model: torch.nn.Module, catalogue: Catalogue, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Compares the columns of an example with those of the catalogue."""
    try:
        given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError:
        return
    ids = given.get(catalogue.key)
    if not isinstance(ids, torch.Tensor) or ids.dtype is not torch.int64:
        return
    places = catalogue.places()
    if ids.numel() and (int(ids.max()) >= len(places) or int(ids.min()) < 0 or bool((places[ids] < 0).any())):
        raise InputError(
            f"an id of the example's {catalogue.key!r} is not in the catalogue",
            hint="list all ids that calls may pass in the first entry of constant_inputs",
        )
    for name, column in catalogue.columns.items():
        if isinstance(given.get(name), torch.Tensor) and not torch.equal(column[places[ids]], given[name]):
            raise InputError(
                f"the example's {name!r} differs from the catalogue's values for these ids",
                hint="list as columns only inputs that the id determines",
            )


def read_constants(
    model: torch.nn.Module,
    declared: Mapping[str, Any] | Sequence[str] | str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> dict[str, torch.Tensor]:
    """The constants' values: as declared, or taken from the example.

    Raises:
        InputError: A name is not a parameter, a value is not a tensor, or the example lacks it.
    """
    parameters = inspect.signature(model.forward).parameters
    names = [declared] if isinstance(declared, str) else list(declared)
    unknown = [name for name in names if name not in parameters]
    if unknown:
        raise InputError(
            f"constant_inputs names {unknown[0]!r}, which is not a parameter of the model",
            hint=f"one of {', '.join(map(repr, parameters))}",
        )
    given = dict(declared) if isinstance(declared, Mapping) else {}
    if not given:
        arguments = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
        given = {name: arguments[name] for name in names if name in arguments}
    wrong = [name for name in names if not isinstance(given.get(name), torch.Tensor)]
    if wrong:
        raise InputError(f"the constant input {wrong[0]!r} is not a tensor", hint="declare constants as {name: tensor}")
    return {name: given[name].detach() for name in names}


def bind(
    model: torch.nn.Module, constants: Mapping[str, torch.Tensor], catalogue: Catalogue | None = None
) -> torch.nn.Module:
    """A view of the model in which constant inputs are bound. It shares all weights of the model.

    Args:
        model: The model.
        constants: Input -> value.
        catalogue: A catalogue, whose columns are bound to lookups by its key.
    """
    columns = dict(catalogue.columns) if catalogue is not None else {}
    first = catalogue.first if catalogue is not None else None  # read here: in forward it would be traced
    buffers = {PREFIX + name: tensor for name, tensor in {**constants, **columns}.items()}
    if catalogue is not None and columns and first is None:
        buffers[_PLACES] = catalogue.places()
    view = module_view(model, buffers)
    full = inspect.signature(model.forward)
    free = full.replace(parameters=[p for n, p in full.parameters.items() if n not in constants and n not in columns])

    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments = dict(free.bind(*args, **kwargs).arguments)
        arguments |= {name: getattr(view, PREFIX + name) for name in constants}
        if columns and catalogue is not None:
            places = _places(view, first, arguments[catalogue.key])
            arguments |= {name: _rows(getattr(view, PREFIX + name), places) for name in columns}
        call = full.bind_partial()
        call.arguments = {name: arguments[name] for name in full.parameters if name in arguments}
        return type(model).forward(view, *call.args, **call.kwargs)

    return set_forward(view, forward, free)


def _places(view: torch.nn.Module, first: int | None, ids: torch.Tensor) -> torch.Tensor:
    """The position of each id in the catalogue."""
    if first is None:
        return _rows(getattr(view, _PLACES), ids)
    return ids if first == 0 else ids - first


def _rows(column: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Rows of a column. `index_select` raises for the places of unknown ids, which are negative; indexing would count from the end."""
    if places.ndim == 1:
        return column.index_select(0, places)
    return column.index_select(0, places.reshape(-1)).reshape(*places.shape, *column.shape[1:])


def drop_from_example(
    model: torch.nn.Module, names: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example without the constant inputs. They may be missing in the given one."""
    signature = inspect.signature(model.forward)
    try:
        arguments = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return tuple(args), {k: v for k, v in kwargs.items() if k not in names}
    if not set(names) <= set(arguments):
        return tuple(args), {k: v for k, v in kwargs.items() if k not in names}
    call = signature.replace(parameters=[p for n, p in signature.parameters.items() if n not in names]).bind_partial()
    call.arguments = {n: v for n, v in arguments.items() if n not in names}
    return call.args, call.kwargs
