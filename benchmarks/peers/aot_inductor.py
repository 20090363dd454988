"""AOTInductor: the exported program compiled ahead of time, once for all batch sizes."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.job import Job
from benchmarks.peer import Peer, Run, warmed
from benchmarks.peers.torch_compile import compiler_missing


class AOTInductor(Peer):
    name = "aot-inductor"
    summary = (
        "torch._inductor.aoti_compile_and_package of the exported program, free batch; weights shared with the model"
    )

    def available(self) -> str | None:
        return compiler_missing()

    def prepare(self, job: Job) -> Run:
        runner = job.store.once(("aot-inductor", job.threads), lambda: _package(job))

        return warmed(runner, job)


def _package(job: Job) -> Any:
    """Compiles and loads the model; the generated code contains the number of threads."""
    program = job.exported()
    path = str(job.store.folder / f"aot-inductor-{job.threads}.pt2")
    # Constants stay outside the library: copying tables into an object file and back would take minutes and twice their
    # memory.
    options = {"aot_inductor.package_constants_in_so": False}
    torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=options)
    runner = torch._inductor.aoti_load_package(path)
    wanted = set(runner.get_constant_fqns())
    state = {**program.state_dict, **program.constants}
    given = {name: value.detach() for name, value in state.items() if name in wanted}
    runner.load_constants(given, check_full_update=True, user_managed=True)
    return runner


PEERS = (AOTInductor(),)
