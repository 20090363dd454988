"""recfx with its defaults: every CPU backend present competes."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.peer import Peer, Run


class Recfx(Peer):
    name = "recfx"
    summary = 'recfx.optimize(target="cpu"), default pipeline'
    packages = ("recfx",)

    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
        import recfx

        compiled = recfx.optimize(model, target="cpu", example_inputs=inputs)
        compiled(*inputs)
        return compiled


PEERS = (Recfx(),)
