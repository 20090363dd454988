"""`python -m tests.mutants`: draws mutants, runs their mirror tests, and prints the surviving mutants."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.mutants.execute import KILLED, SURVIVED, TIMEOUT, fork, judge, judge_imported, observe, wait, warm_up
from tests.mutants.known import equivalent
from tests.mutants.mirror import ROOT, mutated_files, tests_of
from tests.mutants.mutate import Mutant, mutants_of


def draw(files: list[str], sample: int | None, seed: int) -> list[Mutant]:
    """The mutants to run: all, or a sample in which all mutants are equally likely."""
    known = equivalent()
    mutants = [m for file in files for m in mutants_of(ROOT, file) if m.key not in known]
    generator = random.Random(seed)
    return mutants if sample is None else generator.sample(mutants, min(sample, len(mutants)))


def of_each_room(files: list[str], number: int, seed: int) -> list[Mutant]:
    """A sample of a number of mutants of each room."""
    rooms: dict[str, list[str]] = {}
    for file in files:
        rooms.setdefault(str(Path(file).parent), []).append(file)
    return [mutant for room in rooms.values() for mutant in draw(room, number, seed)]


def judge_room(mutants: list[Mutant], limit: float, end: float, report: Callable[[Mutant | None, str], None]) -> None:
    """Runs the mutants of a room: most of them in a process that has run the tests without a mutant, and then the
    others."""
    files = list(dict.fromkeys(test for mutant in mutants for test in tests_of(mutant.file)))
    with tempfile.NamedTemporaryFile() as handed:

        def warm() -> int:
            tests = observe(files, mutants)
            for test in sorted(tests.failed):
                report(None, test)
            left = []
            for mutant, verdict in judge(files, mutants, tests, limit, end):
                if verdict is None:
                    left.append(mutant)
                else:
                    report(mutant, verdict)
            Path(handed.name).write_bytes(pickle.dumps((tests, left)))
            return 0

        wait(fork(warm, None, float("inf")))
        tests, left = pickle.loads(Path(handed.name).read_bytes())
    for mutant in left:
        if time.monotonic() < end:
            report(mutant, judge_imported(files, mutant, tests, limit))


def judge_all(mutants: list[Mutant], *, workers: int, limit: float, seconds: float) -> dict[Mutant, str]:
    """Runs the mutants, room by room, to the end or to the time limit."""
    verdicts: dict[Mutant, str] = {}
    rooms: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        rooms.setdefault(mutant.room, []).append(mutant)
    end, waiting, running = time.monotonic() + seconds, list(rooms.values()), []
    reader, writer = os.pipe()

    def report(mutant: Mutant | None, text: str) -> None:
        os.write(writer, json.dumps([None if mutant is None else mutants.index(mutant), text]).encode() + b"\n")

    os.set_blocking(reader, False)
    read = b""
    while waiting or running:
        while waiting and len(running) < workers and time.monotonic() < end:
            room = waiting.pop(0)
            running.append(fork(lambda room=room: judge_room(room, limit, end, report) or 0, None, float("inf")))  # type: ignore[misc]
        if not running:
            break
        running = [(pid, deadline) for pid, deadline in running if not os.waitpid(pid, os.WNOHANG)[0]]
        with contextlib.suppress(BlockingIOError):
            read += os.read(reader, 1 << 16)
        *lines, read = read.split(b"\n")
        for line in lines:
            place, verdict = json.loads(line)
            if place is None:
                print(f"fails without a mutant, so it cannot judge mutants: {verdict}", flush=True)
                continue
            mutant = mutants[place]
            verdicts[mutant] = verdict
            print(f"{verdict:9} {mutant.file}:{mutant.line}: {mutant.what}   `{mutant.text[:90]}`", flush=True)
        time.sleep(0.05)
    return verdicts


def main() -> int:
    """Prints every verdict and the noticed share of each room; returns 1 if too few mutants were noticed. A mutant that
    needs five times its tests' usual processor time counts as noticed.
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
    parser.add_argument("--limit", type=float, default=300.0, help="limit of the elapsed seconds of a mutant")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (default: %(default)s)")
    parser.add_argument("--at-least", type=float, default=90.0, help="per cent of mutants that must be killed")
    parser.add_argument(
        "--survivors", type=int, default=sys.maxsize, help="number of mutants that may survive, for a small sample"
    )
    return _run(parser.parse_args())


def _run(given: argparse.Namespace) -> int:
    """Judges the mutants that the command line selects, and prints how many were noticed."""
    files = given.files or list(mutated_files())
    if without := [file for file in files if not tests_of(file)]:
        print("no test file reaches: " + ", ".join(without))
        return 1
    each = given.each_room
    mutants = draw(files, given.sample, given.seed) if each is None else of_each_room(files, each, given.seed)
    warm_up()
    verdicts = judge_all(mutants, workers=given.workers, limit=given.limit, seconds=given.seconds)
    rooms: dict[str, Counter[str]] = {}
    for mutant, verdict in verdicts.items():
        rooms.setdefault(mutant.room, Counter())[verdict] += 1
    for room, counts in sorted(rooms.items()):
        share = f"{100 * (1 - counts[SURVIVED] / counts.total()):5.1f} %"
        print(
            f"{room:20} {counts[KILLED]:5} killed {counts[TIMEOUT]:5} out of time {counts[SURVIVED]:5} survived {share}"
        )
    counts = Counter(verdicts.values())
    noticed = counts[KILLED] + counts[TIMEOUT]
    share = 100 * noticed / max(1, len(verdicts))
    print(f"{noticed} of {len(verdicts)} mutants noticed ({share:.1f} %); {len(mutants) - len(verdicts)} not run")
    return int(counts[SURVIVED] > given.survivors or (bool(verdicts) and share < given.at_least))


if __name__ == "__main__":
    sys.exit(main())
