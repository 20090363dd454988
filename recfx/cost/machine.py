"""The peak rates of this machine: read bandwidth, random row reads, fp32 matrix products.

Rates are those of torch's own kernels, at torch's current number of threads. The best of many runs counts, because a rate is a limit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from recfx.cost.cache_files import Cache, cache_folder, file_name, read_document, write_document
from recfx.cost.processor import processor
from recfx.errors import ArtifactError, MeasureError
from recfx.formats.records import decode

Clock = Callable[[], int]

#: What measurements depend on: processor, cores, instruction sets, threads, version of torch.
Identity = tuple[str, int, tuple[str, ...], int, str]

_FORMAT = 1
_MIB = 2**20
_STREAM_SIZES = (_MIB // 4, _MIB, 4 * _MIB, 16 * _MIB, 64 * _MIB, 256 * _MIB)
_GATHER_TABLES = (_MIB, 16 * _MIB, 256 * _MIB)
_GATHER_ROWS = (64, 256, 512)
_POINT_SECONDS = 0.1
_BAG = 64
_MIN_LOOKUPS = 16_384
_MATRIX = 1024


@dataclasses.dataclass(frozen=True)
class StreamPoint:
    """Bytes per second of reading a working set of `nbytes` over and over."""

    nbytes: int
    rate: float


@dataclasses.dataclass(frozen=True)
class GatherPoint:
    """Rows per second of reading rows of `row_bytes` in random order from a table of `table_bytes`."""

    table_bytes: int
    row_bytes: int
    rate: float


@dataclasses.dataclass(frozen=True)
class Machine:
    """Measured limits of a machine at a number of threads.

    Attributes:
        cpu: Name of the processor.
        cores: Logical cores.
        flags: Instruction sets, see `recfx.cost.processor.FLAGS`.
        threads: Threads torch had while measuring.
        torch: Version of torch.
        matmul: fp32 floating-point operations per second (a multiply-add is two).
        stream: Read bandwidth by size of the working set.
        gather: Random row reads by sizes of table and row; a full grid.
    """

    cpu: str
    cores: int
    flags: tuple[str, ...]
    threads: int
    torch: str
    matmul: float
    stream: tuple[StreamPoint, ...]
    gather: tuple[GatherPoint, ...]

    @property
    def identity(self) -> Identity:
        """What the measurement depends on."""
        return self.cpu, self.cores, self.flags, self.threads, self.torch

    def stream_rate(self, nbytes: float) -> float:
        """Bytes per second for a working set of that size, interpolated between the measured sizes."""
        points = sorted(self.stream, key=lambda point: point.nbytes)
        return _interpolate(nbytes, [p.nbytes for p in points], [p.rate for p in points])

    def gather_rate(self, table_bytes: float, row_bytes: float) -> float:
        """Rows per second, interpolated between the measured sizes of tables and rows."""
        widths = sorted({point.row_bytes for point in self.gather})
        at_width = []
        for width in widths:
            points = sorted((p for p in self.gather if p.row_bytes == width), key=lambda p: p.table_bytes)
            at_width.append(_interpolate(table_bytes, [p.table_bytes for p in points], [p.rate for p in points]))
        return _interpolate(row_bytes, widths, at_width)

    def to_json(self) -> dict[str, Any]:
        """The machine as values for JSON."""
        return {"format": _FORMAT, **dataclasses.asdict(self), "flags": list(self.flags)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The machine that `to_json` wrote.

        Raises:
            MeasureError: The values are not a machine of this format.
        """
        try:
            plain = dict(values)
            if plain.pop("format", None) != _FORMAT:
                raise ValueError(f"format {values.get('format')} instead of {_FORMAT}")
            found: Self = decode(cls, json.loads(json.dumps(plain)), "machine")
        except (ArtifactError, TypeError, ValueError) as error:
            raise MeasureError(f"not a machine description: {error}", hint="measure the machine again") from error
        rates = [found.matmul, *(p.rate for p in found.stream), *(p.rate for p in found.gather)]
        grid = len({p.table_bytes for p in found.gather}) * len({p.row_bytes for p in found.gather})
        if (
            not found.stream
            or not found.gather
            or len(found.gather) != grid
            or not all(0 < r < math.inf for r in rates)
        ):
            raise MeasureError("not a machine description: rates are missing", hint="measure the machine again")
        return found


def _interpolate(x: float, known: list[int], values: list[float]) -> float:
    """Linear interpolation of logarithms, constant beyond both ends."""
    return float(np.exp(np.interp(np.log(max(x, 1.0)), np.log(known), np.log(values))))


def measure_machine(
    *, cache: Cache = False, seconds: float = _POINT_SECONDS, clock: Clock = time.perf_counter_ns
) -> Machine:
    """Measures the limits at torch's present number of threads; takes about three seconds and 300 MB.

    Args:
        cache: Read and write the result: True for the user's cache folder, or a folder. There is one file for each processor, number of
            threads and version of torch. A damaged file is measured again.
        seconds: Time for each point.
        clock: Returns the time in nanoseconds.
    """
    here = identity(torch.get_num_threads())
    path = _cache_file(cache, here)
    if path is not None and (known := _read(path, here)) is not None:
        return known
    machine = Machine(
        *here,
        matmul=matmul_peak(seconds=3 * seconds, clock=clock),
        stream=tuple(StreamPoint(size, stream_bandwidth(size, seconds=seconds, clock=clock)) for size in _STREAM_SIZES),
        gather=tuple(
            GatherPoint(table, row, random_gather_rate(table, row, seconds=seconds, clock=clock))
            for table in _GATHER_TABLES
            for row in _GATHER_ROWS
        ),
    )
    if path is not None:
        write_document(path, machine.to_json())
    return machine


def known_machine(threads: int, cache: Cache = True) -> Machine | None:
    """The limits of this machine at a number of threads as they were measured earlier; None if they were not."""
    here = identity(threads)
    path = _cache_file(cache, here)
    return None if path is None else _read(path, here)


def identity(threads: int) -> Identity:
    """What measurements on this machine depend on, at a number of threads."""
    chip = processor()
    return chip.name, chip.cores, chip.flags, threads, str(torch.__version__)


def _cache_file(cache: Cache, here: Identity) -> Path | None:
    folder = cache_folder(cache)
    return None if folder is None else folder / file_name("machine", (_FORMAT, *here))


def _read(path: Path, here: Identity) -> Machine | None:
    document = read_document(path)
    if document is None:
        return None
    try:
        found = Machine.from_json(document)
    except MeasureError:
        return None
    return found if found.identity == here else None


def stream_bandwidth(nbytes: int, *, seconds: float = _POINT_SECONDS, clock: Clock = time.perf_counter_ns) -> float:
    """Bytes per second of reading `nbytes` over and over: from memory if it exceeds the caches, otherwise from the caches.

    Args:
        nbytes: Size of the working set, at least 1 KiB.
        seconds: Time to measure.
        clock: Returns the time in nanoseconds.

    Raises:
        MeasureError: The working set is too small.
    """
    if nbytes < 1024:
        raise MeasureError(f"a stream of {nbytes} bytes is too short to be timed", hint="1 KiB or more")
    data = torch.ones(nbytes // 4)
    first, second = data[: len(data) // 2], data[len(data) // 2 : len(data) // 2 * 2]
    # Two readers, since either may be faster: torch's sum, and the dot product of its BLAS.
    fastest = min(
        _best(data.sum, seconds / 2, clock),
        _best(lambda: torch.dot(first, second), seconds / 2, clock),
    )
    return 4 * len(data) / fastest


def random_gather_rate(
    table_bytes: int, row_bytes: int, *, seconds: float = _POINT_SECONDS, clock: Clock = time.perf_counter_ns
) -> float:
    """Rows per second of reading fp32 rows in random order, each row of the table as often as any other.

    Rows are summed in bags of 64, so that only the reading counts.

    Args:
        table_bytes: Size of the table.
        row_bytes: Size of a row, a multiple of 4.
        seconds: Time to measure.
        clock: Returns the time in nanoseconds.

    Raises:
        MeasureError: The row size is not a multiple of 4, or larger than the table.
    """
    rows = table_bytes // row_bytes if row_bytes >= 4 else 0
    if row_bytes % 4 or rows < 1:
        raise MeasureError(
            f"no fp32 table of {table_bytes} bytes has rows of {row_bytes} bytes",
            hint="a row has a multiple of 4 bytes, and at most those of the table",
        )
    table = torch.ones(rows, row_bytes // 4)
    passes = -(-_MIN_LOOKUPS // rows)
    generator = torch.Generator().manual_seed(0)
    ids = torch.cat([torch.randperm(rows, generator=generator) for _ in range(passes)])
    offsets = torch.arange(0, len(ids), _BAG)
    with torch.inference_mode():
        fastest = _best(lambda: F.embedding_bag(ids, table, offsets, mode="sum"), seconds, clock)
    return len(ids) / fastest


def matmul_peak(
    *, size: int = _MATRIX, seconds: float = 3 * _POINT_SECONDS, clock: Clock = time.perf_counter_ns
) -> float:
    """fp32 floating-point operations per second of a square matrix product.

    Args:
        size: Rows and columns.
        seconds: Time to measure.
        clock: Returns the time in nanoseconds.
    """
    left, right, out = (torch.ones(size, size) for _ in range(3))
    return 2 * size**3 / _best(lambda: torch.mm(left, right, out=out), seconds, clock)


def _best(call: Callable[[], object], seconds: float, clock: Clock) -> float:
    """Seconds of the fastest call, out of at least three after an untimed one."""
    call()
    end = clock() + int(seconds * 1e9)
    fastest = 0
    calls = 0
    while calls < 3 or clock() < end:
        start = clock()
        call()
        elapsed = max(clock() - start, 1)
        fastest = min(fastest or elapsed, elapsed)
        calls += 1
    return fastest * 1e-9
