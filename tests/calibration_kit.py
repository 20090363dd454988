"""Machines and calibrations for the tests of costs."""

from __future__ import annotations

import dataclasses
from typing import Any

from recfx.cost.calibration import BackendPoints, Calibration, Handoff, Point
from recfx.cost.machine import GatherPoint, Machine, StreamPoint, identity

MIB = 2**20


def some_machine(**changes: object) -> Machine:
    machine = Machine(
        cpu="Some CPU",
        cores=2,
        flags=("avx2", "fma"),
        threads=1,
        torch="2.13.0",
        matmul=1e11,
        stream=(StreamPoint(MIB, 100e9), StreamPoint(256 * MIB, 25e9)),
        gather=tuple(
            GatherPoint(table, row, rate)
            for table, row, rate in [
                (MIB, 64, 800e6),
                (MIB, 256, 400e6),
                (256 * MIB, 64, 50e6),
                (256 * MIB, 256, 25e6),
            ]
        ),
    )
    return dataclasses.replace(machine, **changes)  # type: ignore[arg-type]


def here(threads: int = 1) -> Machine:
    cpu, cores, flags, threads, version = identity(threads)
    return some_machine(cpu=cpu, cores=cores, flags=flags, threads=threads, torch=version)


def some_calibration(**changes: Any) -> Calibration:
    point = Point("call", 16, {"elementwise.memory": 1e-6}, 5e-6)
    hands = (Handoff("a", "b", 4096, 1e-6), Handoff("a", "b", 1 << 20, 3e-6))
    made = Calibration(here(), {"a": BackendPoints("1.0", (point,), {"GRU": "no kernel"}, False)}, hands)
    return dataclasses.replace(made, **changes)
