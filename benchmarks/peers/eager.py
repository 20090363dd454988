"""The model as it is, in inference mode: what all others are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.job import Job
from benchmarks.peer import Peer, Run


class Eager(Peer):
    name = "eager"
    summary = "the model itself under torch.inference_mode"

    def prepare(self, job: Job) -> Run:
        model = job.model

        def run(*values: Tensor) -> object:
            with torch.inference_mode():
                return model(*values)

        run(*job.inputs)
        return run


PEERS = (Eager(),)
