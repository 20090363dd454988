"""The operators that steps of random graphs add, argument by argument.

`python tests/testing/step_kit.py` writes the table that the tests compare with. Run it after an intended change of
steps, and read the difference.
"""

from __future__ import annotations

import json
import operator
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import fx

from recfx.ops import cross, lookup, mlp
from recfx.testing import GraphBuilder
from recfx.testing.pool import Pool
from recfx.testing.steps import STEPS

#: Arguments that follow from the sizes of an operator's operands.
_SIZES = {
    *("start", "end", "size", "split_size", "split_sizes", "index", "normalized_shape", "repeats", "shape", "dense"),
    *("params", "layers", "numbers", "features", "copies", "width", "output", "column", "length", "table", "ids"),
}


TABLE = Path(__file__).with_name("step_facts.json")
_DRAWS = 40


def pool_of() -> Pool:
    """Values of ranks 1 to 3, including inputs and values with a mask."""
    inputs: dict[str, Any] = {"dense": ("batch", 3), "ids": (("batch", 3), torch.int64), "sequence": ("batch", 2, 3)}
    builder = GraphBuilder({**inputs, "mask": (("batch", 3), torch.bool)})
    pool = Pool(builder, torch.Generator().manual_seed(0), 3)
    dense = builder.inputs["dense"]
    for target, *arguments in (
        (torch.ops.aten.select.int, dense, 1, 0),
        (torch.ops.aten.tanh.default, dense),
        (torch.ops.aten.slice.Tensor, dense, 1, 0, 1),
        (torch.ops.aten.tanh.default, builder.inputs["sequence"]),
    ):
        pool.keep(pool.call(target, *arguments))
    pool.table(lambda strategy: 5)
    return pool


def _written(value: Any) -> str:
    """An argument in words: constants as they are, tensors by rank."""
    if isinstance(value, fx.Node):
        held = value.meta.get("val")
        if not isinstance(held, torch.Tensor):
            return "a size"
        kind = "state" if value.op == "get_attr" else "value"
        return f"{kind} of rank {held.ndim}"
    if isinstance(value, list | tuple):
        return f"{len(value)} tensors" if any(isinstance(v, fx.Node) for v in value) else str(list(value))
    return repr(value)


def _arguments(node: fx.Node) -> Iterator[tuple[str, Any]]:
    if isinstance(node.target, torch._ops.OpOverload):
        names = [argument.name for argument in node.target._schema.arguments]
        given_ = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        for name in names:
            if name not in _SIZES:
                yield name, given_.get(name, "missing")
        if any(value is None for value in given_.values()):
            yield "given", " and ".join(name for name in names if isinstance(given_.get(name), fx.Node))
    arguments: Any = node.args
    if node.target is lookup.grouped_lookup:
        for feature in lookup.decode(arguments[5]):
            rows = arguments[0][feature.table].meta["val"].shape[0]
            padding = {-1: "none", 0: "first"}.get(feature.padding, "last" if feature.padding == rows - 1 else "other")
            yield from {"pooling": feature.pooling, "weighted": feature.weights, "bits": feature.bits}.items()
            yield from {"padding": padding, "longer": feature.length > 1, "base": feature.base}.items()
    if node.target is cross.cross:
        for layer in cross.decode(arguments[3]):
            yield "layer", f"{layer.kind} with bias" if layer.bias >= 0 else layer.kind
            yield "low rank", (layer.kind == cross.LOW_RANK) == (layer.inner >= 0)
    if node.target is mlp.mlp:
        decoded = mlp.decode(*arguments[2:4])
        yield "depth", len(decoded)
        for layer in decoded:
            yield from {"activation": layer.activation, "norm": layer.norm, "residual": layer.residual}.items()
            yield from {"biased": layer.bias >= 0, "slope": layer.slope >= 0, "number": layer.number}.items()


def facts_of(name: str) -> dict[str, list[str]]:
    """`operator.argument` -> its values over the draws of a step."""
    found: dict[str, set[str]] = defaultdict(set)

    @settings(
        max_examples=_DRAWS, database=None, derandomize=True, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def look(data: st.DataObject) -> None:
        pool = pool_of()
        before = set(pool.builder.graph.nodes)
        kept = len(pool.made)
        STEPS[name](pool, data.draw)
        found["kept"].add(str(len(pool.made) - kept))
        for node in pool.builder.graph.nodes:
            if node in before or node.op != "call_function":
                continue
            label = "getitem" if node.target is operator.getitem else str(node.target).removesuffix(".default")
            found[label].add("added")
            for argument, value in _arguments(node):
                found[f"{label}.{argument}"].add(value if isinstance(value, str) else _written(value))

    look()
    return {key: sorted(values) for key, values in sorted(found.items()) if values != {"missing"}}


if __name__ == "__main__":
    known = json.loads(TABLE.read_text())
    lines = [f"{json.dumps(name)}: {json.dumps(facts_of(name))}" for name in known]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
