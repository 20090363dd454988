"""`python -m tests.mutants`: draws mutants, runs their mirror tests, and prints the surviving mutants."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.mutants.draw import draw, of_each_room
from tests.mutants.execute import KILLED, SURVIVED, TIMEOUT, Verdict, warm_up
from tests.mutants.imports import test_files
from tests.mutants.known import equivalent
from tests.mutants.mirror import mutated_files, tests_of
from tests.mutants.mutate import Mutant
from tests.mutants.processes import fork
from tests.mutants.reaching import Record
from tests.mutants.results import Results
from tests.mutants.rooms import judge_room


def judge_all(
    mutants: Sequence[Mutant],
    mirror: Callable[[str], Sequence[str]],
    *,
    workers: int,
    limit: float,
    seconds: float,
    record: Record | None = None,
) -> Iterator[tuple[Mutant, Verdict]]:
    """Yields the verdicts on mutants, room by room, to the end or to the time limit."""
    rooms: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        rooms.setdefault(mutant.room, []).append(mutant)
    places = {mutant: place for place, mutant in enumerate(mutants)}
    end, waiting, running = time.monotonic() + seconds, list(rooms.values()), []
    reader, writer = os.pipe()

    def report(mutant: Mutant | None, verdict: Verdict) -> None:
        place = None if mutant is None else places[mutant]
        os.write(writer, json.dumps([place, verdict.kind, verdict.test]).encode() + b"\n")

    os.set_blocking(reader, False)
    read = b""
    while waiting or running:
        while waiting and len(running) < workers and time.monotonic() < end:
            room = waiting.pop(0)
            running.append(
                fork(lambda room=room: judge_room(room, mirror, limit, end, report, record) or 0, None, float("inf"))
            )  # type: ignore[misc, func-returns-value]
        if not running:
            return
        running = [(pid, deadline) for pid, deadline in running if not os.waitpid(pid, os.WNOHANG)[0]]
        with contextlib.suppress(BlockingIOError):
            read += os.read(reader, 1 << 16)
        *lines, read = read.split(b"\n")
        for line in lines:
            place, kind, test = json.loads(line)
            if place is None:
                print(f"fails without a mutant, so it cannot judge mutants: {test}", flush=True)
            else:
                yield mutants[place], Verdict(kind, test)
        time.sleep(0.05)


def main() -> int:
    """Prints every verdict and the noticed share of each room; returns 1 if too few mutants were noticed.

    A mutant that exceeds its limit of processor time counts as noticed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", help="files to mutate, relative to the repository; all by default")
    parser.add_argument("--sample", type=int, help="number of random mutants; all by default")
    parser.add_argument("--each-room", type=int, help="number of random mutants of each room")
    # The same options as in `recfx.command_line`, which cannot be imported here: mutants are made before recfx is
    # loaded.
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no mutant after this time (default: no limit)"
    )
    parser.add_argument("--limit", type=float, default=300.0, help="limit of the elapsed seconds of a test run")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (default: %(default)s)")
    parser.add_argument("--at-least", type=float, default=90.0, help="per cent of mutants that must be killed")
    parser.add_argument(
        "--survivors", type=int, default=sys.maxsize, help="number of mutants that may survive, for a small sample"
    )
    parser.add_argument(
        "--results", type=Path, help="file of verdicts (JSON lines); mutants with a valid verdict are not run again"
    )
    parser.add_argument(
        "--reach",
        type=Path,
        help="record of the functions that each test runs (JSON lines); test files that it lacks are run first",
    )
    parser.add_argument("--most-files", type=int, help="largest number of test files for a mutant")
    parser.add_argument("--tests", nargs="+", help="the test files to run; by default the nearest of each mutated file")
    return _run(parser.parse_args())


def _run(given: argparse.Namespace) -> int:
    """Judges the mutants that the command line selects, and prints how many were noticed."""
    files = given.files or list(mutated_files())
    each = given.each_room
    drawn = draw(files, given.sample, given.seed) if each is None else of_each_room(files, each, given.seed)
    known, results = equivalent(), Results(given.results)
    mutants = [mutant for mutant in drawn if mutant.key not in known]
    verdicts = {mutant: verdict for mutant in mutants if (verdict := results.verdict(mutant)) is not None}
    for mutant, verdict in verdicts.items():
        if verdict.kind == SURVIVED:
            _print(mutant, verdict)
    if left := [mutant for mutant in mutants if mutant not in verdicts]:
        warm_up()
        record = _record(given)
        limits = {"workers": given.workers, "limit": given.limit, "seconds": given.seconds, "record": record}

        def mirror(file: str) -> Sequence[str]:
            return (given.tests or tests_of(file))[: given.most_files]

        for mutant, verdict in judge_all(left, mirror, **limits):
            verdicts[mutant] = verdict
            results.add(mutant, verdict)
            _print(mutant, verdict)
    counts = _print_rooms(verdicts)
    noticed = counts[KILLED] + counts[TIMEOUT]
    share = 100 * noticed / max(1, len(verdicts))
    print(
        f"{noticed} of {len(verdicts)} mutants noticed ({share:.1f} %); {len(mutants) - len(verdicts)} not run; "
        f"{len(drawn) - len(mutants)} equivalent"
    )
    return int(counts[SURVIVED] > given.survivors or (bool(verdicts) and share < given.at_least))


def _record(given: argparse.Namespace) -> Record | None:
    """The record of the functions that each test runs, with the test files that it lacks added; None if the tests are named, or no record
    is asked for."""
    if given.reach is None or given.tests:
        return None
    record = Record(given.reach)
    if lacking := record.lacks(test_files()):
        print(f"records what the tests of {len(lacking)} files run", flush=True)
        record.add(lacking, given.workers)
    return record


def _print(mutant: Mutant, verdict: Verdict) -> None:
    print(f"{verdict.kind:9} {mutant.file}:{mutant.line}: {mutant.what}   `{mutant.text[:90]}`", flush=True)


def _print_rooms(verdicts: dict[Mutant, Verdict]) -> Counter[str]:
    """Prints the counts of verdicts of each room, and returns the counts of all rooms."""
    rooms: dict[str, Counter[str]] = {}
    for mutant, verdict in verdicts.items():
        rooms.setdefault(mutant.room, Counter())[verdict.kind] += 1
    for room, counts in sorted(rooms.items()):
        share = f"{100 * (1 - counts[SURVIVED] / counts.total()):5.1f} %"
        print(
            f"{room:24} {counts[KILLED]:5} killed {counts[TIMEOUT]:5} out of time {counts[SURVIVED]:5} survived {share}"
        )
    return sum(rooms.values(), Counter())


if __name__ == "__main__":
    sys.exit(main())
