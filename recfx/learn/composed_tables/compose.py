"""`compose_tables`: a copy of a model whose huge tables are composed of smaller ones, close to the trained rows."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from recfx.errors import InputError
from recfx.learn.composed_tables.quotient_remainder import QuotientRemainderTable
from recfx.learn.composed_tables.tensor_train import TensorTrainTable

#: Form -> the class of its tables.
FORMS: Mapping[str, Callable[..., QuotientRemainderTable | TensorTrainTable]] = {
    "quotient-remainder": QuotientRemainderTable,
    "tensor-train": TensorTrainTable,
}


def compose_tables(
    model: nn.Module,
    form: Literal["quotient-remainder", "tensor-train"] = "quotient-remainder",
    *,
    min_rows: int = 100_000,
    only: Collection[str] = (),
    counts: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> nn.Module:
    """A copy of a model in which composed tables take the place of huge `nn.Embedding` tables.

    The new tables start as close to the trained rows as their form allows, which is not close for rows that have nothing in common: train
    the copy on, for example with `finetune(copy, loader, teacher=model)`.

    Args:
        model: The model. It stays as it is.
        form: "quotient-remainder" or "tensor-train".
        min_rows: The fewest rows of a table that is composed.
        only: Names of the modules that are composed, such as "tables.3", whatever their rows; without a name all tables of `min_rows`.
        counts: Name of a module -> how often each of its rows is read, [rows]: rows that are read often are fitted more closely
            (quotient-remainder).
        **options: Of the form: `collisions` and `combine`, or `rank`.

    Returns:
        The copy, in the mode of the model. Tables that share their weight share the new table.

    Raises:
        InputError: The form, an option or a name is unknown, a table is not finite, or no table is composed.
    """
    if form not in FORMS:
        raise InputError(f"tables cannot have the form {form!r}", hint=f"use one of {', '.join(map(repr, FORMS))}")
    made = copy.deepcopy(model)
    wanted = _wanted(made, min_rows, only)
    _require_counts(counts, wanted)
    found: dict[int, nn.Module] = {}
    for name, table in wanted.items():
        if id(table.weight) not in found:
            found[id(table.weight)] = _composed(name, table, FORMS[form], (counts or {}).get(name), options)
        parent, _, own = name.rpartition(".")
        setattr(made.get_submodule(parent), own, found[id(table.weight)])
    return made


def _wanted(model: nn.Module, min_rows: int, only: Collection[str]) -> dict[str, nn.Embedding]:
    """The tables to compose, by the names of their modules.

    Raises:
        InputError: A name is unknown, or the model has nothing to compose.
    """
    tables = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module) is nn.Embedding and name and module.max_norm is None
    }
    if unknown := [name for name in only if name not in tables]:
        raise InputError(
            f"the model has no nn.Embedding {unknown[0]!r}",
            where=type(model).__name__,
            hint=f"use names of its tables without max_norm: {', '.join(list(tables)[:10]) or 'it has none'}",
        )
    wanted = {n: t for n, t in tables.items() if (n in only if only else t.num_embeddings >= min_rows)}
    others = _read_elsewhere(model, wanted)
    if others:
        warnings.warn(
            f"{', '.join(sorted(others))}: another module reads the weight as well, so the table stays", stacklevel=3
        )
    wanted = {name: table for name, table in wanted.items() if name not in others}
    if not wanted:
        most = max((table.num_embeddings for table in tables.values()), default=0)
        raise InputError(
            f"no table is composed: {f'the largest nn.Embedding has {most} rows' if most else 'there is no nn.Embedding'}",
            where=type(model).__name__,
            hint="lower min_rows, or name tables with only=",
        )
    return wanted


def _read_elsewhere(model: nn.Module, tables: Mapping[str, nn.Embedding]) -> set[str]:
    """The tables whose weight is also a parameter of a module that is not among them, such as tied output weights."""
    weights = {name: id(table.weight) for name, table in tables.items()}
    owners: dict[int, set[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(path.rpartition(".")[0])
    return {name for name, weight in weights.items() if owners[weight] - {*tables}}


def _require_counts(counts: Mapping[str, Tensor] | None, tables: Mapping[str, nn.Embedding]) -> None:
    if unknown := [name for name in counts or {} if name not in tables]:
        raise InputError(
            f"counts name {unknown[0]!r}, which is not composed", hint=f"use names of {', '.join(list(tables)[:10])}"
        )


def _composed(
    name: str, table: nn.Embedding, form: Callable[..., Any], counts: Tensor | None, options: Mapping[str, Any]
) -> nn.Module:
    """A composed table that is close to a table.

    Raises:
        InputError: The table is not finite, or an option is unknown or out of range.
    """
    weight = table.weight.detach()
    if not bool(weight.isfinite().all()):
        raise InputError("a table has NaN or infinities", where=name, hint="repair the checkpoint")
    padding = table.padding_idx if table.padding_idx is not None and not bool(weight[table.padding_idx].any()) else None
    try:
        made = form(*weight.shape, padding_idx=padding, **options)
    except TypeError as error:
        raise InputError(f"an option is unknown: {error}", where="compose_tables", hint="see its docstring") from error
    made.fit(weight, counts)
    found: nn.Module = made.to(weight.device, weight.dtype).train(table.training)
    for parameter in found.parameters():
        parameter.requires_grad_(table.weight.requires_grad)
    return found
