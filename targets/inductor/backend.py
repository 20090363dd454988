"""The Inductor backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import fx

from recfx.errors import ArtifactError
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.runtime.flat import flat_function
from recfx.targets.base import Backend, Lowered, Refused, Verdict, is_operator
from recfx.targets.id_checks import checked, ids_function
from recfx.targets.inductor import compiler
from recfx.targets.inductor.support import lookups_of, refusals
from recfx.targets.region_sizes import is_size

_FILE = "inductor.json"


class InductorBackend(Backend):
    """Compiles a region once for all batch sizes, with torch's ahead-of-time compiler."""

    name: ClassVar[str] = "inductor"
    devices: ClassVar[frozenset[str]] = frozenset({"cpu"})
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def unavailable(self) -> str | None:
        return compiler.missing()

    def version(self) -> str:
        return compiler.version()

    def state(self) -> str:
        from recfx.targets.package_cache import default_folder

        return f"ready, torch {compiler.version()}; compiled packages are kept in {default_folder(self.name)}"

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        region = program if isinstance(program, Region) else Region.whole(program)
        reasons = refusals(region)
        return {
            node: Verdict(node not in reasons, reasons.get(node, ""))
            for node in region.graph.nodes
            if node.op not in ("placeholder", "get_attr", "output")
        }

    def slow_to_lower(self, region: Region) -> bool:
        from recfx.targets.inductor.compile import key_of
        from recfx.targets.package_cache import default_folder, stored

        folder = default_folder(self.name)
        if not folder.is_dir():
            return True  # without the key, which takes a digest of all weights
        key = key_of(region)
        return not key or stored(folder, key) is None

    def lower(self, region: Region) -> Lowered:
        from recfx.targets.exported import computed_outputs
        from recfx.targets.inductor.compile import compiled

        reasons = refusals(region, lowering=True)
        if reasons:
            raise Refused({node.name: reason for node, reason in reasons.items()})
        operators = sum(is_operator(node) for node in region.graph.nodes if not is_size(node))
        sized = frozenset(region.outputs)
        if not computed_outputs(region):
            return Lowered(self.name, region, flat_function(region), operators=operators, sized=sized)
        exported, runner = compiled(region)
        body = _Body(region, exported.inputs, exported.results, runner)
        return Lowered(self.name, region, body, operators=operators, sized=sized)

    def save(self, lowered: Lowered) -> Mapping[str, bytes]:
        """The version that lowered the region. A package is a library with code, which no saved model may hold; loading takes it from this
        machine's cache or compiles it."""
        return {_FILE: json.dumps({"torch": self.version()}).encode()}

    def load(self, region: Region, files: Mapping[str, memoryview]) -> Lowered:
        try:
            fits = isinstance(json.loads(bytes(files[_FILE])), dict)
        except (KeyError, ValueError):
            fits = False
        if not fits:
            raise ArtifactError("the file does not describe a region of this backend", where=_FILE)
        return self.lower(region)


class _Body:
    """The function of a region. Ids are checked here, as compiled code ends the process for an id outside its table.

    Args:
        region: The region.
        used: Indices of the inputs that the package takes.
        results: The nodes whose values the package returns.
        runner: The package.
    """

    def __init__(
        self,
        region: Region,
        used: Sequence[int],
        results: Sequence[fx.Node],
        runner: Callable[[list[torch.Tensor]], Sequence[torch.Tensor]],
    ) -> None:
        from recfx.targets.exported import output_of

        self._used, self._runner = tuple(used), runner
        self._plain = flat_function(region)
        self._lookups = lookups_of(region)
        self._ids = ids_function(region, self._lookups) if self._lookups else None
        returned = next(iter(reversed(region.graph.nodes))).args[0]
        self._outputs = [output_of(region, value, results) for value in returned]

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        if self._ids is not None:
            for ids, (node, rows) in zip(self._ids(*values), self._lookups, strict=True):
                checked(ids, node, rows)
        given = []
        for index in self._used:
            value = values[index]
            if not value.numel():
                with torch.no_grad():
                    return tuple(self._plain(*values))
            given.append(value.detach().contiguous())
        made = self._runner(given)
        return tuple(output(values, made) for output in self._outputs)
