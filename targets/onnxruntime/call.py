"""The function of a lowered region: it binds torch's memory to the session's inputs and outputs, and runs it.

The function is generated for one region: no loop and no look-up by name is left. Where an output's sizes follow from those of the inputs,
torch allocates it and the session writes into it; the session allocates other outputs, whose memory torch takes over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils.dlpack import from_dlpack

from recfx.errors import IdError, InputError
from recfx.ir.program import get_state
from recfx.ir.region import Region
from recfx.ir.size_expressions import render
from recfx.onnx.types import code_of
from recfx.targets.base import Runner
from recfx.targets.onnxruntime.package import cpu
from recfx.targets.onnxruntime.sessions import Here, Sessions


def runner(region: Region, sessions: Sessions, inputs: Sequence[str | None], outputs: Sequence[str | None]) -> Runner:
    """The function from the flat inputs of a region to its flat outputs.

    Args:
        region: The region.
        sessions: The sessions of its model.
        inputs: For each placeholder the name of the model's input, or None.
        outputs: For each output of the region the name of the model's output, or None.
    """
    return _Writer(region, sessions, inputs, outputs).compile()


def sized(region: Region) -> frozenset[str]:
    """The names of the region's outputs whose sizes follow from those of checked inputs."""
    writer = _Sizes(region, checked_only=True)
    returned = next(iter(reversed(region.graph.nodes))).args[0]
    return frozenset(
        name
        for name, node in zip(region.outputs, returned, strict=True)
        if isinstance(node, fx.Node)
        and isinstance(node.meta.get("val"), torch.Tensor)
        and writer.sizes(node) is not None
    )


class _Sizes:
    """Sizes of values as Python expressions over the inputs `a0`, `a1`, ..."""

    def __init__(self, region: Region, *, checked_only: bool = False) -> None:
        self.sources: dict[str, str] = {}
        for at, node in enumerate(region.placeholders()):
            if checked_only and region.inputs[at] not in region.checked:
                continue
            held = node.meta.get("val")
            if isinstance(held, torch.SymInt):
                self.sources.setdefault(str(held), f"a{at}")
            elif isinstance(held, torch.Tensor):
                for dim, size in enumerate(held.shape):
                    if not isinstance(size, int):
                        self.sources.setdefault(str(size), f"a{at}.shape[{dim}]")

    def size(self, size: Any) -> str | None:
        """A size; None if it does not follow from the inputs."""
        if isinstance(size, int):
            return str(size)
        text = str(size)
        if text in self.sources:
            return self.sources[text]
        try:
            return render(text, self.sources)
        except (KeyError, ValueError):
            return None

    def sizes(self, node: fx.Node) -> str | None:
        """The sizes of a tensor, as the text of a tuple; None if one of them does not follow from the inputs."""
        found = [self.size(size) for size in node.meta["val"].shape]
        return None if None in found else f"({', '.join(map(str, found))}{',' if found else ''})"


class _Writer:
    def __init__(
        self, region: Region, sessions: Sessions, inputs: Sequence[str | None], outputs: Sequence[str | None]
    ) -> None:
        self.region, self.inputs, self.outputs = region, inputs, outputs
        self.sizes = _Sizes(region)
        self.lines: list[str] = []
        somewhere = torch.zeros(8)  # the address of tensors without elements
        self.namespace: dict[str, Any] = {
            "_here": Here(), "_sessions": sessions, "_threads": torch.get_num_threads, "_cpu": cpu(), "_empty": torch.empty,
            "_from_dlpack": from_dlpack, "_tensor": torch.tensor, "_int64": torch.int64, "_bool": torch.bool,
            "_somewhere": somewhere.data_ptr(), "_kept": somewhere, "_wrong_type": _wrong_type,
            "_explain": _explain,
        }  # fmt: skip

    def compile(self) -> Runner:
        placeholders = self.region.placeholders()
        self.lines += ["if _here.threads != _threads(): _here.attach(_sessions)"]
        self.lines += ["bind_input, bind_output = _here.bind_input, _here.bind_output"]
        for at, (node, name) in enumerate(zip(placeholders, self.inputs, strict=True)):
            if name is not None:
                self._bind_input(at, node, name)
        results = self._bind_outputs()
        self.lines.append(f"return ({', '.join(results)}{',' if results else ''})")
        names = ", ".join(f"a{at}" for at in range(len(placeholders)))
        source = f"def run({names}):\n" + "\n".join(f"    {line}" for line in self.lines) + "\n"
        exec(compile(source, "<recfx onnxruntime region>", "exec"), self.namespace)
        function: Runner = self.namespace["run"]
        function.__doc__ = source
        return function

    def _bind_input(self, at: int, node: fx.Node, name: str) -> None:
        held, value = node.meta["val"], f"a{at}"
        dtype = torch.int64
        if isinstance(held, torch.Tensor):
            dtype = held.dtype
            self.namespace[f"_t{at}"] = dtype
            self.lines.append(f"if {value}.dtype is not _t{at}: _wrong_type({node.name!r}, {value}.dtype, _t{at})")
            self.lines.append(f"c{at} = {value} if {value}.is_contiguous() else {value}.contiguous()")
        else:
            self.lines.append(f"c{at} = _tensor([{value}], dtype=_int64)")
        pointer = f"c{at}.data_ptr() or _somewhere"
        self.lines.append(f"bind_input({name!r}, _cpu, {code_of(dtype)}, c{at}.shape, {pointer})")

    def _bind_outputs(self) -> list[str]:
        """Binds the outputs and runs the session; returns the expressions of the region's outputs."""
        returned = next(iter(reversed(self.region.graph.nodes))).args[0]
        places = {node: f"a{at}" for at, node in enumerate(self.region.placeholders())}
        results: list[str] = []
        read: list[str] = []
        bound: dict[str, tuple[int, str]] = {}
        for at, (node, name) in enumerate(zip(returned, self.outputs, strict=True)):
            if name is None:
                results.append(self._plain(at, node, places))
                continue
            if name not in bound:
                bound[name] = (len(bound), f"r{len(bound)}")
                self._bind_output(node, name, *bound[name], read)
            results.append(bound[name][1])
        if bound:
            self.lines += [
                "try: _here.run(_here.binding, None)",
                "except Exception as error: _explain(error)",
            ]
        if read:
            self.lines.append("given = _here.binding.get_outputs()")
        self.lines += read
        return results

    def _bind_output(self, node: fx.Node, name: str, number: int, result: str, read: list[str]) -> None:
        held = node.meta["val"]
        tensor = isinstance(held, torch.Tensor)
        sizes = self.sizes.sizes(node) if tensor else None
        if sizes is None:
            self.lines.append(f"bind_output({name!r}, _cpu)")
            taken = f"_from_dlpack(given[{number}].to_dlpack())"
            if not tensor:
                taken += ".item()"
            elif held.dtype is torch.bool:
                taken += ".view(_bool)"
            read.append(f"{result} = {taken}")
            return
        self.namespace[f"_o{number}"] = held.dtype
        self.lines.append(f"{result} = _empty({sizes}, dtype=_o{number})")
        pointer = f"{result}.data_ptr() or _somewhere"
        self.lines.append(f"bind_output({name!r}, _cpu, {code_of(held.dtype)}, {result}.shape, {pointer})")

    def _plain(self, at: int, node: Any, places: dict[fx.Node, str]) -> str:
        """An output that no operator computes: an input, a tensor of the state, or a number."""
        if isinstance(node, fx.Node) and node in places:
            return places[node]
        self.namespace[f"_p{at}"] = (
            get_state(self.region.module, str(node.target)) if isinstance(node, fx.Node) else node
        )
        return f"_p{at}"


#: Parts of the runtime's messages about ids outside their table and offsets that do not fit their ids.
_OUTSIDE = (
    "out of data bounds",
    "indices element out",
    "invalid index",
    "invalid indice",
    "index out",
    "out of bounds",
)


def _explain(error: Exception) -> None:
    """Raises the error of a call that failed."""
    text = str(error)
    if any(part in text.lower() for part in _OUTSIDE):
        raise IdError(
            f"an id is outside its table, or offsets do not fit their ids: {text.rpartition('Message: ')[2][:200]}",
            hint="map ids to rows of their table before the call",
        ) from error
    raise error


def _wrong_type(name: str, found: torch.dtype, expected: torch.dtype) -> None:
    raise InputError(f"{name}: expected {expected}, got {found}", hint=f"convert it with .to({expected})")
