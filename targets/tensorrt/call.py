"""The function of a region: checks of ids and sizes, copies to and from the GPU where needed, and the engine between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.errors import TargetError
from recfx.ir.region import Region
from recfx.runtime.flat import flat_function
from recfx.targets.exported import output_of
from recfx.targets.tensorrt.engine import Runner
from recfx.targets.tensorrt.handover import HandedOver


class Body:
    """The function from the region's flat inputs to its flat outputs.

    A call with sizes outside those of the engine runs on torch, as does one without rows.

    Args:
        region: The region.
        handed: What was given to TensorRT.
        engine: The engine.
        device: The device of the engine.

    Attributes:
        content: The engine as it is stored, for `save`.
    """

    def __init__(
        self, region: Region, handed: HandedOver, engine: Runner, device: torch.device, content: bytes
    ) -> None:
        self.content = content
        self._handed, self._engine, self._device = handed, engine, device
        self._plain = flat_function(region)
        self._fits = _bounds_check(region, handed)
        results = handed.exported.results
        returned = next(iter(reversed(region.graph.nodes))).args[0]
        self._outputs = [output_of(region, value, results) for value in returned]
        self._homes = [node.meta["val"].device for node in results]

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        self._handed.check(*values)
        if not self._fits(*values):
            with torch.no_grad():
                return tuple(self._plain(*values))
        made = self._engine([self._given(values[at], at) for at in self._handed.exported.inputs])
        results = [result.to(home) for result, home in zip(made, self._homes, strict=True)]
        return tuple(output(values, results) for output in self._outputs)

    def try_once(self) -> None:
        """Runs the engine on zeros of the usual sizes, unless torch refuses zeros, such as lengths of 0.

        Raises:
            TargetError: The engine fails, or its results have other sizes or types than those of torch.
        """
        usual = [sizes for _, sizes, _ in self._handed.profiles()]
        given = [
            torch.zeros(sizes, dtype=dtype, device=self._device)
            for sizes, dtype in zip(usual, self._handed.dtypes(), strict=True)
        ]
        with torch.no_grad():
            try:
                wanted = self._handed.exported.program.module(check_guards=False)(
                    *[value.to(home) for value, home in self._at_home(given)]
                )
            except (IndexError, RuntimeError):
                return
            try:
                made = self._engine(given)
            except Exception as error:
                line = str(error).strip().partition("\n")[0]
                raise TargetError(
                    f"the engine of the region fails: {type(error).__name__}: {line[:300]}",
                    hint="give the region to another backend, such as 'eager'",
                ) from error
        found = [(tuple(one.shape), one.dtype) for one in made]
        expected = [(tuple(one.shape), one.dtype) for one in pytree.tree_leaves(wanted)]
        if found != expected:
            raise TargetError(
                f"the engine of the region returns {found}, and torch returns {expected}",
                hint="give the region to another backend, such as 'eager'",
            )

    def _at_home(self, given: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.device]]:
        """The inputs with the devices for which the program was exported."""
        nodes = {node.name: node for node in self._handed.exported.program.graph.find_nodes(op="placeholder")}
        homes = [nodes[name].meta["val"].device for name in self._handed.input_names]
        return list(zip(given, homes, strict=True))

    def _given(self, value: torch.Tensor, at: int) -> torch.Tensor:
        """An input as the engine takes it. Ids become narrow before they are copied to the GPU."""
        narrow = value.detach().to(torch.int32) if at in self._handed.narrowed else value.detach()
        return narrow.to(self._device, non_blocking=True).contiguous()


def _bounds_check(region: Region, handed: HandedOver) -> Callable[..., bool]:
    """A function of the region's inputs: whether all free sizes are within the bounds of the engine."""
    names = ", ".join(f"x{at}" for at in range(len(region.placeholders())))
    tests: dict[str, str] = {}
    for at, shape in zip(handed.exported.inputs, handed.exported.shapes, strict=True):
        for axis, size in enumerate(shape):
            if not isinstance(size, int) and size[0] not in tests:
                dimension, factor, base = size
                low, _, high = (factor * bound + base for bound in handed.bounds(dimension))
                tests[dimension] = f"{low} <= x{at}.shape[{axis}] <= {high}"
    check: Callable[..., bool] = eval(f"lambda {names}: {' and '.join(tests.values()) or True}", {})
    return check
