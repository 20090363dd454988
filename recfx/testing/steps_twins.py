"""Steps of random graphs that repeat an operator: the same, or with one argument changed, added or left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx

from recfx.errors import VerificationError
from recfx.ir.op_sets import SIZED
from recfx.testing.arguments import FIXED, TWIN, argument_names, optional_arguments
from recfx.testing.pool import Pool, is_float, is_steady, sizes
from recfx.testing.step_table import step

_aten = torch.ops.aten

#: Operators with a training flag, which makes them random or dependent on the whole batch.
_MODAL = {_aten.dropout.default, _aten.batch_norm.default}

#: Operators with lists of sizes, which refuse most changed sizes.
_SIZED = {*SIZED, _aten.layer_norm.default, _aten.full.default}


@step(TWIN)
def _twin(pool: Pool, draw: Any) -> None:
    """An operator again, with at most one argument changed: a pass that compares nodes may confuse the two."""
    calls = [n for n in pool.builder.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    calls = [n for n in calls if n.target not in _MODAL and isinstance(n.meta.get("val"), torch.Tensor)]
    if not calls:
        return
    keyworded = [n for n in calls if optional_arguments(n.target)]
    node = pool.choose(draw, keyworded if keyworded and draw(st.booleans()) else calls)
    args, kwargs = list(node.args), dict(node.kwargs)
    options = optional_arguments(node.target)
    absent = [name for name, option in options.items() if name not in kwargs and option.place >= len(args)]
    how = draw(st.sampled_from(["same", "change", "change", *(["add", "add"] if absent else [])]))
    if how == "add":
        name = draw(st.sampled_from(absent))
        if options[name].place == len(args) and not options[name].by_keyword:
            args.append(draw(st.sampled_from(options[name].values)))
        else:
            kwargs[name] = draw(st.sampled_from(options[name].values))
    elif how == "change":
        places = [at for at, name in enumerate(argument_names(node.target)[: len(args)]) if name not in FIXED]
        place = draw(st.sampled_from([*kwargs, *places]))
        if isinstance(place, str):
            kept = options[place].values if place in options else [kwargs[place]]
            kwargs.pop(place)
            kwargs |= {place: draw(st.sampled_from(kept))} if draw(st.booleans()) else {}
        elif not (isinstance(args[place], list | tuple) and node.target in _SIZED):
            args[place] = _changed(pool, draw, args[place])
    if drops_free_size(node.target, args):
        return
    try:
        pool.keep(pool.builder.call(node.target, *args, **kwargs))
    except VerificationError:
        return  # the operator refuses the changed argument


def drops_free_size(target: Any, args: Sequence[Any]) -> bool:
    """Whether an operator drops a free dimension of size 1, so that its results have another number of dimensions for one row.

    Capture makes a program of its own for one row of such a model, and no graph that is right for all sizes has this operator.
    """
    if target is not _aten.squeeze.dim or not isinstance(args[1], int):
        return False
    held = args[0].meta["val"].shape
    return -len(held) <= args[1] < len(held) and not isinstance(held[args[1]], int)


def _changed(pool: Pool, draw: Any, value: Any) -> Any:
    """A variant of an argument: of equal value and another type, or of another value."""
    if isinstance(value, bool):
        return draw(st.sampled_from([not value, int(value)]))
    if isinstance(value, int):
        near = [value + 1, value - 1, -value]
        return draw(st.sampled_from([*near, float(value), *([bool(value)] if value in (0, 1) else [])]))
    if isinstance(value, float):
        same = [int(value)] if value.is_integer() else []
        return draw(st.sampled_from([value * 2, -value, value + 1, *same, *([bool(value)] if value in (0, 1) else [])]))
    if isinstance(value, torch.dtype):
        return draw(st.sampled_from([torch.float32, torch.float64, torch.int64]))
    if isinstance(value, fx.Node):
        return _another(pool, draw, value)
    if isinstance(value, list | tuple) and value:
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _changed(pool, draw, value[at]), *value[at + 1 :]]
    return value


def _another(pool: Pool, draw: Any, value: fx.Node) -> fx.Node:
    """A float32 value or piece of state of the same sizes, or the value itself."""
    if not is_float(value):
        return value
    known = (*pool.values, *pool.builder.graph.find_nodes(op="get_attr"))
    fits = [n for n in known if is_float(n) and sizes(n) == sizes(value) and pool.degree(n) <= pool.degree(value) + 1]
    return pool.choose(draw, [n for n in fits if is_steady(n) or not is_steady(value)] or [value])
