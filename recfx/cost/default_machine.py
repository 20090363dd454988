"""The limits that are assumed for a machine that was not measured."""

from __future__ import annotations

import dataclasses

from recfx.cost.machine import GatherPoint, Machine, StreamPoint, identity

_MIB = 2**20
#: fp32 operations per second of one core: first instruction set that the processor has -> rate.
_MATMUL = {"amx_tile": 150e9, "avx512f": 100e9, "sve": 60e9, "fma": 60e9, "asimd": 30e9}
_SLOWEST = 10e9
#: Bytes per second of one core by size of the working set.
_STREAM = {_MIB // 4: 70e9, 4 * _MIB: 60e9, 16 * _MIB: 40e9, 256 * _MIB: 15e9}
#: Rows per second of one core by sizes of table and row.
_GATHER = {
    (_MIB, 64): 500e6,
    (_MIB, 256): 300e6,
    (_MIB, 512): 150e6,
    (16 * _MIB, 64): 150e6,
    (16 * _MIB, 256): 100e6,
    (16 * _MIB, 512): 60e6,
    (256 * _MIB, 64): 40e6,
    (256 * _MIB, 256): 15e6,
    (256 * _MIB, 512): 8e6,
}
#: What an additional thread adds, as a share of the first: to arithmetic and caches, and to reads from memory.
_MORE_ARITHMETIC, _MORE_MEMORY = 0.9, 0.5


def default_machine(threads: int) -> Machine:
    """Rates of common server processors with the instruction sets of this one."""
    cpu, cores, flags, threads, torch = identity(threads)
    matmul = next((rate for name, rate in _MATMUL.items() if name in flags), _SLOWEST)
    single = Machine(
        cpu,
        cores,
        flags,
        1,
        torch,
        matmul,
        tuple(StreamPoint(size, rate) for size, rate in _STREAM.items()),
        tuple(GatherPoint(table, row, rate) for (table, row), rate in _GATHER.items()),
    )
    return scaled_to(single, threads)


def scaled_to(machine: Machine, threads: int) -> Machine:
    """The limits of a machine at another number of threads."""
    used, measured = max(min(threads, machine.cores), 1), max(min(machine.threads, machine.cores), 1)
    arithmetic = (1 + _MORE_ARITHMETIC * (used - 1)) / (1 + _MORE_ARITHMETIC * (measured - 1))
    memory = (1 + _MORE_MEMORY * (used - 1)) / (1 + _MORE_MEMORY * (measured - 1))
    return dataclasses.replace(
        machine,
        threads=threads,
        matmul=machine.matmul * arithmetic,
        stream=tuple(StreamPoint(p.nbytes, p.rate * memory) for p in machine.stream),
        gather=tuple(GatherPoint(p.table_bytes, p.row_bytes, p.rate * memory) for p in machine.gather),
    )
