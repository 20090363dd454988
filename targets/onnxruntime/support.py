"""The operators that ONNX Runtime can run: each is translated alone and given to a session, once for each form of an operator."""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch import fx

from recfx.onnx.graph import OnnxGraph
from recfx.onnx.sizes import is_size
from recfx.onnx.translate import PRODUCER, one_operator
from recfx.onnx.types import Untranslated
from recfx.targets.base import Verdict
from recfx.targets.onnxruntime.package import open_session
from recfx.targets.operator_forms import form_of

#: Form of an operator -> why ONNX Runtime cannot run it; "" if it can.
_KNOWN: dict[Any, str] = {}

#: The largest number of forms that are kept.
_MOST = 1 << 14


def verdict(node: fx.Node) -> Verdict:
    """Whether ONNX Runtime can run an operator."""
    if node.op != "call_function":
        return Verdict(False, f"{node.op} is not part of the dialect")
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return Verdict(False, f"the higher-order operator {node.target} has no ONNX form")
    if node.target is getitem or is_size(node):
        return Verdict(True)
    form = form_of(node)
    if form not in _KNOWN:
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        _KNOWN[form] = _problem(node)
    return Verdict(not _KNOWN[form], _KNOWN[form])


def _problem(node: fx.Node) -> str:
    """Why ONNX Runtime cannot run an operator; "" if it can."""
    graph, values = OnnxGraph(), dict[fx.Node, Any]()
    try:
        for source in dict.fromkeys(node.all_input_nodes):
            values[source] = _operand(graph, source)
        found = one_operator(graph, node, values, {})
        results = node.meta["val"] if isinstance(found, list) else [node.meta["val"]]
        for held, value in zip(results, found if isinstance(found, list) else [found], strict=False):
            if value is not None:
                shape = [one if isinstance(one, int) else None for one in held.shape]
                graph.output(value, graph.name("out"), held.dtype, shape)
    except Untranslated as error:
        return str(error)
    try:
        open_session(graph.model(PRODUCER).SerializeToString(), 1, {}, optimized=False)
    except Exception as error:  # noqa: BLE001 - the runtime's errors have no common class
        return f"ONNX Runtime: {_first_line(error)}"
    return ""


def _operand(graph: OnnxGraph, source: fx.Node) -> Any:
    held = source.meta.get("val")
    if is_size(source):
        return graph.input(graph.name("in"), torch.int64, [1])
    if isinstance(held, list | tuple):
        return [_tensor(graph, one) for one in held]
    if not isinstance(held, torch.Tensor):
        raise Untranslated(f"its operand {source} is not a tensor")
    return _tensor(graph, held)


def _tensor(graph: OnnxGraph, held: torch.Tensor) -> str:
    if held.layout is not torch.strided:
        raise Untranslated("an operand is not dense")
    return graph.input(graph.name("in"), held.dtype, [one if isinstance(one, int) else None for one in held.shape])


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return text.rpartition(" : ")[2][:200] if " : " in text else text[:200]
