"""`TensorInfo`: the named tensors that a served model takes and returns, as the protocol describes them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.compiled import CompiledModel
from recfx.errors import TargetError
from recfx.ir.leaves import LeafSpec
from recfx.serve.engine.datatypes import NAMES


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A named tensor of a served model.

    Attributes:
        name: Its name in requests and answers.
        dtype: Its element type.
        shape: Its sizes; -1 for a size that each request chooses.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def datatype(self) -> str:
        """The element type by its name in the Open Inference Protocol."""
        return NAMES[self.dtype]


def shown(shape: Sequence[int]) -> str:
    """A shape as text."""
    return f"[{', '.join(map(str, shape))}]"


def input_info(name: str, leaf: LeafSpec) -> TensorInfo:
    """The named tensor of an input.

    Raises:
        TargetError: The protocol cannot carry it.
    """
    if leaf.dtype not in NAMES or (leaf.device is not None and leaf.device.type != "cpu"):
        raise TargetError(
            f"the input {leaf} cannot be sent in a request",
            hint="serve a model whose inputs are dense numbers on the CPU",
        )
    return TensorInfo(name, leaf.dtype, tuple(size if isinstance(size, int) else -1 for size in leaf.shape))


def names_of(expressions: Sequence[str]) -> list[str]:
    """Names of leaves for requests: `features['user_id']` becomes features.user_id, if no two leaves get the same name."""
    plain = [re.sub(r"\[\s*'?([^'\]]*)'?\s*\]", r".\1", text) for text in expressions]
    return plain if len(set(plain)) == len(plain) else list(expressions)


def output_infos(model: CompiledModel) -> tuple[TensorInfo, ...]:
    """The named tensors of the outputs.

    Raises:
        TargetError: An output is not a tensor, or its dtype is not in the protocol.
    """
    program = model.parts.program
    returned: Any = next(iter(reversed(program.graph.nodes))).args[0]
    spec = program.signature.out_spec
    numbered = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths = [f"output{pytree.keystr(path)}" for path, _ in pytree.tree_flatten_with_path(numbered)[0]]
    infos = []
    for name, node in zip(names_of(paths), returned, strict=True):
        value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
        if not isinstance(value, torch.Tensor) or value.dtype not in NAMES:
            raise TargetError(
                f"{name} of the model cannot be sent in an answer", hint="return dense tensors of numbers"
            )
        shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
        infos.append(TensorInfo(name, value.dtype, shape))
    return tuple(infos)
