"""`CompiledModel.profile`: measures a compiled model by batch size and number of threads, or reads an earlier measurement."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from recfx.cost.cache_files import Cache, cache_folder, file_name, read_document, write_document
from recfx.cost.calibrate import least_median
from recfx.cost.machine import identity
from recfx.cost.profile import Profile as Profile
from recfx.cost.profile import ProfilePoint
from recfx.driver.parts import Parts
from recfx.errors import ArtifactError, InputError, MeasureError
from recfx.ir.canonical import structure_digest
from recfx.ir.probes import has_fixed_bags, reshuffle
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.ir.shapes import BATCH
from recfx.progress import progress
from recfx.targets import BACKENDS

#: Batch sizes that are measured by default, as far as the model takes them.
ROWS = (1, 4, 16, 64, 256, 1024)
_POINT_SECONDS = 0.05
#: Inputs in turn, so that the rows that lookups read are not those of the call before.
_SETS = 8


def profile(
    parts: Parts,
    rows: Sequence[int] | None = None,
    threads: Sequence[int] | None = None,
    *,
    cache: Cache = True,
    again: bool = False,
) -> Profile:
    """The time of a call by batch size and number of threads.

    Args:
        parts: The compiled model.
        rows: Batch sizes to measure; by default `ROWS`, as far as the model takes them.
        threads: Numbers of threads to measure; by default 1 and torch's present number.
        cache: Where the profile is stored.
        again: Whether to measure although the cache has a profile.

    Raises:
        InputError: The model does not take a batch of a given size, or a number is below 1.
    """
    sizes = _sizes(parts, rows)
    counts = sorted({1, torch.get_num_threads()} if threads is None else set(threads))
    if not counts or counts[0] < 1:
        raise InputError(f"cannot measure on {counts} threads", hint="pass numbers of at least 1")
    what = _identity(parts, sizes, counts)
    path = _path(what, cache)
    known = None if again or path is None or what is None else _stored(path, what)
    if known is not None:
        return known
    found = _measured(parts, sizes, counts)
    if path is not None:
        write_document(path, {"identity": what, "profile": found.to_json()})
    return found


def _sizes(parts: Parts, rows: Sequence[int] | None) -> list[int]:
    """The batch sizes to measure.

    Raises:
        InputError: The model does not take one of `rows`.
    """
    program = parts.program
    if BATCH not in program.signature.dims or has_fixed_bags(program):
        held = _example_rows(parts.exemplified)
        if rows is not None and set(rows) != {held}:
            raise InputError(
                f"the model takes a batch of {held} rows only, got {sorted(set(rows))}", hint=f"pass rows=[{held}]"
            )
        return [held]
    low, high = program.signature.dims[BATCH]
    low = 1 if parts.one_row is not None else max(low, 1)
    wanted = sorted({n for n in ROWS if low <= n and (high is None or n <= high)} if rows is None else set(rows))
    if rows is None:
        return wanted or [low]
    wrong = [n for n in wanted if n < low or (high is not None and n > high)]
    if wrong or not wanted:
        most = "" if high is None else f" to {high}"
        raise InputError(f"the model takes {low}{most} rows at once, got {wrong or 'none'}", hint="pass other rows")
    return wanted


def _example_rows(program: Program) -> int:
    found = program.signature.check(program.example).get(BATCH)
    leaves = (leaf for leaf in program.example if isinstance(leaf, torch.Tensor) and leaf.ndim)
    return found or next((int(leaf.shape[0]) for leaf in leaves), 1) or 1


def _measured(parts: Parts, sizes: Sequence[int], counts: Sequence[int]) -> Profile:
    points = []
    with progress("measuring", len(sizes) * len(counts)) as advance, torch.inference_mode():
        for rows in sizes:
            call = _calls(parts, rows)
            for threads in counts:
                with _threads(threads):
                    points.append(ProfilePoint(threads, rows, least_median(call, _POINT_SECONDS)))
                advance(1)
    points.sort(key=lambda point: (point.threads, point.rows))
    return Profile(parts.report.model, identity(1)[0], tuple(points))


def _calls(parts: Parts, rows: int) -> Callable[[], Any]:
    """A function that calls the model with the next of several inputs."""
    program = parts.exemplified
    generator = torch.Generator().manual_seed(rows)
    if BATCH not in program.signature.dims or has_fixed_bags(program):
        drawn = [list(program.example)]
    else:
        drawn = [reshuffle(program, rows, generator) for _ in range(_SETS)]
    unpacked = (program.signature.unpacked(leaves) for leaves in drawn)
    turns = itertools.cycle([partial(parts.entry, *positional, **keyword) for positional, keyword in unpacked])
    return lambda: next(turns)()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Gives torch a number of threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _identity(parts: Parts, sizes: Sequence[int], counts: Sequence[int]) -> list[Any] | None:
    """What the times depend on; None if the user's own model runs, or if an operator has no digest."""
    plans = [parts, *([parts.one_row] if parts.one_row is not None else [])]
    if parts.report.kept_eager:
        return None
    try:
        programs = [structure_digest(Region.whole(plan.program)) for plan in plans]
    except ArtifactError:
        return None
    lowered = [placed for plan in plans for placed in plan.plans.placed]
    names = sorted({name for placed in lowered for name in placed.backends if name in BACKENDS})
    versions = [f"{name} {BACKENDS[name].version()}" for name in names]
    chosen = [list(placed.assignment().values()) for placed in lowered]
    ranges = [[list(plan.plans.bounds), list(plan.plans.uses)] for plan in plans]
    cpu, cores, flags, _, version = identity(0)
    return [[cpu, cores, list(flags), version], programs, chosen, ranges, versions, list(sizes), list(counts)]


def _path(found: list[Any] | None, cache: Cache) -> Path | None:
    """The file of the profile; None without a cache."""
    folder = cache_folder(cache)
    return None if folder is None or found is None else folder / file_name("profile", tuple(found))


def _stored(path: Path, wanted: list[Any]) -> Profile | None:
    """The profile in a file; None if the file is missing, damaged, or of another model or machine."""
    document = read_document(path)
    if not isinstance(document, dict) or document.get("identity") != wanted:
        return None
    try:
        return Profile.from_json(document.get("profile"))
    except MeasureError:
        return None
