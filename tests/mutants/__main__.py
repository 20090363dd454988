"""`python -m tests.mutants`: draws mutants, runs their mirror tests, and prints which survived."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.mutants.execute import KILLED, SURVIVED, TIMEOUT, outcome, start, warm_up
from tests.mutants.mirror import ROOT, mutated_files, tests_of
from tests.mutants.mutate import Mutant, mutants_of

_EQUIVALENT = Path(__file__).with_name("equivalent.txt")


def equivalent() -> dict[str, str]:
    """Key of a mutant that no test can tell from the source -> why."""
    found: dict[str, str] = {}
    for line in _EQUIVALENT.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            key, _, reason = line.rpartition(" | ")
            found[key] = reason
    return found


def draw(files: list[str], sample: int | None, seed: int) -> list[Mutant]:
    """The mutants to run: all, or a sample in which every mutant of every file is as likely as any other."""
    known = equivalent()
    mutants = [m for file in files for m in mutants_of(ROOT, file) if m.key not in known]
    generator = random.Random(seed)
    return mutants if sample is None else generator.sample(mutants, min(sample, len(mutants)))


def plain_verdicts(mutants: list[Mutant], *, workers: int, limit: float, folder: Path) -> dict[tuple[str, ...], str]:
    """Test files -> what becomes of them on the sources as they are. Those that fail, or run out of time, judge no mutant."""
    waiting = list(enumerate(dict.fromkeys(tests_of(mutant.file) for mutant in mutants)))
    verdicts: dict[tuple[str, ...], str] = {}
    running: dict[int, tuple[tuple[str, ...], float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            number, tests = waiting.pop(0)
            running[start(None, tests, str(folder / f"plain-{number}.log"))] = (tests, time.monotonic() + limit)
        for pid, (tests, deadline) in list(running.items()):
            if (verdict := outcome(pid, deadline)) is not None:
                verdicts[tests] = verdict
                del running[pid]
        time.sleep(0.05)
    return verdicts


def judge(mutants: list[Mutant], *, workers: int, limit: float, seconds: float, folder: Path) -> dict[Mutant, str]:
    """Runs the mutants until they or the time are at an end; one that runs past `limit` is neither killed nor survived."""
    begin, verdicts = time.monotonic(), {}
    waiting, running = list(enumerate(mutants)), {}
    while waiting or running:
        while waiting and len(running) < workers and time.monotonic() - begin < seconds:
            number, mutant = waiting.pop(0)
            running[start(mutant, tests_of(mutant.file), str(folder / f"{number}.log"))] = (
                mutant,
                time.monotonic() + limit,
            )
        if not running:
            break
        for pid, (mutant, deadline) in list(running.items()):
            if (verdict := outcome(pid, deadline)) is not None:
                verdicts[mutant] = verdict
                del running[pid]
                print(f"{verdict:9} {mutant.file}:{mutant.line}: {mutant.what}   `{mutant.text[:90]}`", flush=True)
        time.sleep(0.05)
    return verdicts


def main() -> int:
    """Prints every verdict and the share killed of each room; 1 when too few were killed, or tests fail without a mutant."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", help="files to mutate, relative to the repository; all by default")
    parser.add_argument("--sample", type=int, help="so many mutants at random; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no mutant after this time")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one mutant")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=90.0, help="per cent that must be killed")
    parser.add_argument("--survivors", type=int, default=sys.maxsize, help="how many may survive, of a small sample")
    given = parser.parse_args()
    files = given.files or list(mutated_files())
    if without := [file for file in files if not tests_of(file)]:
        print("no test file reaches: " + ", ".join(without))
        return 1
    mutants = draw(files, given.sample, given.seed)
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        plain = plain_verdicts(mutants, workers=given.workers, limit=given.limit, folder=Path(folder))
        if failing := [" ".join(tests) for tests, verdict in plain.items() if verdict == KILLED]:
            print("these tests fail without any mutant, so they judge none:", *failing, sep="\n")
            return 1
        fair = [mutant for mutant in mutants if plain[tests_of(mutant.file)] == SURVIVED]
        verdicts = judge(fair, workers=given.workers, limit=given.limit, seconds=given.seconds, folder=Path(folder))
    rooms: dict[str, Counter[str]] = {}
    for mutant, verdict in verdicts.items():
        rooms.setdefault(str(Path(mutant.file).parent), Counter())[verdict] += 1
    for room, counts in sorted(rooms.items()):
        print(f"{room:20} {counts[KILLED]:5} killed {counts[SURVIVED]:5} survived {counts[TIMEOUT]:5} out of time")
    counts = Counter(verdicts.values())
    judged = counts[KILLED] + counts[SURVIVED]
    share = 100 * counts[KILLED] / max(1, judged)
    left = len(mutants) - len(verdicts)
    print(f"{counts[KILLED]} of {judged} mutants killed ({share:.1f} %); {counts[TIMEOUT]} out of time, {left} not run")
    return int(counts[SURVIVED] > given.survivors or (judged > 0 and share < given.at_least))


if __name__ == "__main__":
    sys.exit(main())
