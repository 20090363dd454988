"""The function of a region: a generated function that passes torch's memory to OpenVINO and gives OpenVINO torch's memory for the results.

Inputs with gaps are copied, and tensors so small that a copy takes less time than binding, and results whose sizes depend on data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from recfx.ir.program import get_state
from recfx.ir.region import Region
from recfx.runtime.flat import flat_function
from recfx.targets.id_checks import checked, fits_32_bits, ids_function
from recfx.targets.openvino.converter import Converted
from recfx.targets.openvino.requests import Requests
from recfx.targets.region_sizes import InputSizes, is_size, reads_number


def region_function(region: Region, converted: Converted, requests: Requests | None) -> Callable[..., tuple[Any, ...]]:
    """Generates the function from the region's flat inputs to its flat outputs.

    Args:
        region: The region.
        converted: Its model.
        requests: The requests of the model; None when there is no operator to compute.
    """
    return _Writer(region, converted, requests).function()


class _Writer:
    def __init__(self, region: Region, converted: Converted, requests: Requests | None) -> None:
        self.region, self.converted, self.requests = region, converted, requests
        self.sizes = InputSizes(region)
        self.inputs = region.placeholders()
        self.numbers: dict[fx.Node, str] = {}
        self.namespace: dict[str, Any] = {}
        self.lines: list[str] = []

    def function(self) -> Callable[..., tuple[Any, ...]]:
        """The function."""
        if self.requests is not None:
            self._checks()
            self._infer(self.requests)
        self._numbers()
        self.lines.append(f"return ({''.join(f'{text}, ' for text in self._outputs())})")
        names = ", ".join(f"x{i}" for i in range(len(self.inputs)))
        source = f"def openvino_region({names}):\n" + "".join(f"    {line}\n" for line in self.lines)
        exec(compile(source, "<recfx openvino call>", "exec"), self.namespace)
        made: Callable[..., tuple[Any, ...]] = self.namespace["openvino_region"]
        made.__module__, made.__doc__ = __name__, source
        return made

    def _checks(self) -> None:
        """Emits the checks of ids, and of inputs that torch must run: without elements, or with integers of more than 32 bits."""
        names = ", ".join(f"x{i}" for i in range(len(self.inputs)))
        self.namespace |= {"_torch": _Lazy(self.region), "_checked": checked, "_fits": fits_32_bits}
        looked_up = {node for node, _ in self.converted.lookups}
        if self.converted.lookups:
            self.namespace["_ids"] = ids_function(self.region, self.converted.lookups)
            self.lines.append(f"ids = _ids({names})")
            for at, (node, rows) in enumerate(self.converted.lookups):
                self.namespace[f"_node{at}"] = node
                self.lines.append(f"_checked(ids[{at}], _node{at}, {rows})")
        free = [i for i in self.converted.parameters if isinstance(i, int) and self._is_free(self.inputs[i])]
        conditions = [f"not x{i}.numel()" for i in free]
        conditions += [f"not _fits(x{i})" for i in self.converted.integers if self.inputs[i] not in looked_up]
        if conditions:
            self.lines.append(f"if {' or '.join(conditions)}: return tuple(_torch({names}))")

    @staticmethod
    def _is_free(node: fx.Node) -> bool:
        return not all(isinstance(size, int) for size in node.meta["val"].shape)

    def _infer(self, requests: Requests) -> None:
        self.namespace |= {
            "_take": requests.take,
            "_threads": torch.get_num_threads,
            "_tensor": torch.tensor,
            "_owned": _owned,
        }
        self.lines += ["slot = _take(_threads())", "try:", "    kept = slot.kept"]
        for at, given in enumerate(self.converted.parameters):
            if not isinstance(given, int):
                self.lines.append(f"    s{at} = _tensor([{given}])")
            self._give(at, f"x{given}" if isinstance(given, int) else f"s{at}")
        later = []
        for at, node in enumerate(self.converted.results):
            sizes = [self.sizes.code(size) for size in node.meta["val"].shape]
            if None in sizes:
                later.append(f"    y{at} = _owned(slot.request.get_output_tensor({at}))")
                continue
            place = len(self.converted.parameters) + at
            self._receive(place, at, f"({''.join(f'{size}, ' for size in sizes)})", node.meta["val"].dtype)
            later.append(f"    y{at} = r{at} if kept[{place}] is None else r{at}.clone()")
        self.lines += ["    slot.infer()", *later, "finally:", "    slot.free.append(slot)"]

    def _give(self, at: int, x: str) -> None:
        """Emits the code that copies a small input to the bound memory, or binds the memory of the input."""
        self.lines += [
            f"    b{at} = kept[{at}]",
            f"    if b{at} is None or b{at}.shape != {x}.shape: b{at} = slot.give({at}, {x})",
            f"    else: b{at}.copy_({x}.detach() if {x}.requires_grad else {x})",
        ]

    def _receive(self, place: int, at: int, size: str, dtype: torch.dtype) -> None:
        """Emits the code that takes the bound memory of a small result, or binds new memory for it."""
        self.namespace[f"_dtype{at}"] = dtype
        self.lines += [
            f"    r{at} = kept[{place}]",
            f"    if r{at} is None or r{at}.shape != {size}: r{at} = slot.receive({place}, {at}, {size}, _dtype{at})",
        ]

    def _numbers(self) -> None:
        """Emits the numbers that the region reads from tensors. They are sizes of later regions."""
        for node in self.region.graph.nodes:
            if reads_number(node):
                code = self.numbers[node] = f"n{len(self.numbers)}"
                self.lines.append(f"{code} = {self._output(node.args[0])}.item()")
                self.sizes.learn(node.meta["val"], code)

    def _outputs(self) -> list[str]:
        """Python code of each output."""
        returned = next(iter(reversed(self.region.graph.nodes))).args[0]
        return [self._output(value) for value in returned]

    def _output(self, value: Any) -> str:
        if not isinstance(value, fx.Node):
            return repr(value)
        if value in self.converted.results:
            return f"y{self.converted.results.index(value)}"
        if value in self.converted.copies:
            return f"x{self.converted.copies[value]}.clone()"
        if value in self.inputs:
            return f"x{self.inputs.index(value)}"
        if value in self.numbers:
            return self.numbers[value]
        if is_size(value):
            code = self.sizes.code(value.meta["val"])
            if code is not None:
                return code
            if value.op == "call_function":
                return self._call(value)
        if value.op == "get_attr":
            name = f"_state_{value.name}"
            self.namespace[name] = get_state(self.region.module, str(value.target)).detach()
            return name
        raise ValueError(f"{value.name} does not follow from the region's inputs")

    def _call(self, node: fx.Node) -> str:
        """Python code of a number by its own operator, such as whether a number that was read from a tensor is within a limit."""
        name = f"_call_{node.name}"
        self.namespace[name] = node.target
        given = [self._output(argument) for argument in node.args]
        return f"{name}({', '.join(given)})"


class _Lazy:
    """The region as torch's operators, compiled at the first call that needs it."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._run: Callable[..., Any] | None = None

    def __call__(self, *values: Any) -> Any:
        if self._run is None:
            self._run = flat_function(self._region)
        with torch.no_grad():
            return self._run(*values)


def _owned(tensor: Any) -> torch.Tensor:
    """A copy of a result, whose memory the request uses again."""
    return torch.from_numpy(tensor.data.copy())
