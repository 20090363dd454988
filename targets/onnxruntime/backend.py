"""The ONNX Runtime backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import fx

from recfx.errors import ArtifactError, TargetError
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program, get_state
from recfx.ir.region import Region
from recfx.targets.base import Backend, Lowered, Refused, Verdict, is_operator
from recfx.targets.onnxruntime import package

if TYPE_CHECKING:
    from recfx.targets.onnxruntime.saved import Model

#: Tables of at least this many bytes are read where torch holds them; a session copies other weights, and packs matrices.
TABLES_FROM = 1 << 16

#: The operators of the dialect that have a translation of their own, `recfx.onnx.rules.FUSED`. Their names are enough for the pipeline, and
#: the translations are imported when a region is lowered.
_KERNELS = frozenset(
    f"recfx::{name}"
    for name in ("attention_gru", "cin", "cross", "dot_interaction", "fm", "grouped_lookup", "mlp", "target_attention")
)


class OnnxruntimeBackend(Backend):
    """Runs a region as an ONNX model in ONNX Runtime, on torch's memory."""

    name: ClassVar[str] = "onnxruntime"
    devices: ClassVar[frozenset[str]] = frozenset({"cpu"})
    exactness: ClassVar[Exactness] = Exactness.REASSOC

    def unavailable(self) -> str | None:
        return package.unavailable()

    def absent(self) -> str | None:
        return package.absent()

    def state(self) -> str:
        return f"ready, {package.untested() or f'onnxruntime {package.version()}'}"

    def version(self) -> str:
        return package.version()

    def kernels(self) -> frozenset[str]:
        return _KERNELS

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        from recfx.targets.onnxruntime.support import verdict

        nodes = (node for node in program.graph.nodes if node.op not in ("placeholder", "get_attr", "output"))
        return {node: verdict(node) for node in nodes}

    def lower(self, region: Region) -> Lowered:
        from recfx.onnx.translate import Refusals, translate
        from recfx.onnx.types import Untranslated

        package.warn_if_untested()
        operators = sum(map(is_operator, region.graph.nodes))
        if not operators:
            return Lowered(self.name, region, region)
        try:
            made = translate(region, tables_from=TABLES_FROM)
        except Refusals as error:
            raise Refused({node.name: reason for node, reason in error.reasons.items()}) from error
        except Untranslated as error:
            raise TargetError(f"the region has no ONNX form: {error}", hint="give it to another backend") from error
        from recfx.targets.onnxruntime.saved import Model

        model = Model(made.model.SerializeToString(), made.inputs, made.outputs, made.state, made.tables)
        return self._lowered(region, model, operators)

    def save(self, lowered: Lowered) -> Mapping[str, bytes]:
        from recfx.targets.onnxruntime.saved import files

        return files(lowered.body)

    def load(self, region: Region, files: Mapping[str, memoryview]) -> Lowered:
        from recfx.targets.onnxruntime.saved import read

        if not files:
            return self.lower(region)
        package.warn_if_untested()
        model = read(region, files)
        try:
            return self._lowered(region, model, sum(map(is_operator, region.graph.nodes)))
        except Exception as error:
            raise ArtifactError(
                f"ONNX Runtime cannot run the saved region: {str(error).partition(chr(10))[0]}",
                hint="save the model again with this version of recfx",
            ) from error

    def _lowered(self, region: Region, model: Model, operators: int) -> Lowered:
        from recfx.targets.onnxruntime.call import runner, sized
        from recfx.targets.onnxruntime.sessions import Sessions

        def values(names: Mapping[str, str]) -> dict[str, torch.Tensor]:
            return {inside: get_state(region.module, name) for name, inside in names.items()}

        sessions = Sessions(model.content, values(model.state), values(model.tables))
        sessions.of(torch.get_num_threads())
        run = runner(region, sessions, model.inputs, model.outputs)
        run.model = model  # type: ignore[attr-defined]
        return Lowered(self.name, region, run, operators=operators, sized=sized(region))
