"""The model as it is, in inference mode: the reference of all other peers."""

from __future__ import annotations

from benchmarks.job import Job
from benchmarks.peer import Peer, Run, warmed


class Eager(Peer):
    name = "eager"
    summary = "the model itself under torch.inference_mode"

    def prepare(self, job: Job) -> Run:
        model = job.model

        return warmed(model, job)


PEERS = (Eager(),)
