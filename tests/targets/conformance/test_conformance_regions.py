"""The conformance suite beyond single operators: regions of unusual forms, threads, memory, saved files, ids outside their table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from conformance_kit import place
from conformance_regions import UNUSUAL, tower, values_for
from test_conformance import NAMES, backend_named

from recfx.errors import ArtifactError, InputError, TargetError
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.targets import Backend, Lowered, Refused
from recfx.testing.builder import GraphBuilder

BATCHES = (1, 2, 7, 64)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def lowered(backend: Backend, program: Program) -> Lowered:
    """A program as one region of the backend; skips the test if the backend does not support all of it."""
    placed = place(program, backend)
    if placed.refused or len(placed.regions) != 1:
        pytest.skip(f"{backend.name} does not run the whole program: {set(placed.refused.values())}")
    return placed.regions[0]


def agree(found: Any, wanted: Any) -> None:
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype is want.dtype
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", UNUSUAL, ids=[make.__name__ for make in UNUSUAL])
def test_unusual_regions(backend: Backend, make: Callable[[], Region]) -> None:
    region = make()
    verdicts = backend.supports(region)
    if not all(verdicts.values()):
        assert all(verdict.reason for verdict in verdicts.values() if not verdict)
        return
    try:
        run = backend.lower(region).run
    except (Refused, TargetError):
        return
    for batch in BATCHES:
        values = values_for(region, batch)
        agree(run(*values), region.run(values))


def test_calls_from_four_threads(backend: Backend) -> None:
    program = tower()
    run = lowered(backend, program).run
    wrong: list[str] = []

    def calls(seed: int) -> None:
        for step in range(30):
            values = values_for(Region.whole(program), 1 + (seed * 7 + step) % 50)
            found, wanted = run(*values), program.run(values)
            if not torch.allclose(found[0], wanted[0], rtol=1e-4, atol=1e-5):
                wrong.append(f"thread {seed}, call {step}")

    workers = [threading.Thread(target=calls, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_the_number_of_threads_changes(backend: Backend, threads: None) -> None:
    program = tower()
    torch.set_num_threads(1)
    run = lowered(backend, program).run
    for count in (2, 1, 3):
        torch.set_num_threads(count)
        values = values_for(Region.whole(program), 33)
        agree(run(*values), program.run(values))
    assert torch.get_num_threads() == 3, "a backend changes torch's number of threads"


def test_results_stay_after_later_calls(backend: Backend) -> None:
    program = tower()
    run = lowered(backend, program).run
    values = [values_for(Region.whole(program), batch) for batch in (5, 5, 9)]
    found = [run(*given) for given in values]
    for got, given in zip(found, values, strict=True):
        agree(got, program.run(given))


def test_inputs_with_gaps_offsets_and_gradients(backend: Backend) -> None:
    program = tower()
    run = lowered(backend, program).run
    wide = torch.randn(9, 12)
    for x in (wide[:, ::2], wide[:, 3:9], wide[1:].T[:6].T, wide[:, :6].clone().requires_grad_(), wide[::3, :6]):
        found = run(x)
        agree([found[0].detach()], program.run([x.detach()]))


def test_equal_calls_give_equal_bits(backend: Backend) -> None:
    program = tower()
    run = lowered(backend, program).run
    values = values_for(Region.whole(program), 17)
    (first,), (second,) = run(*values), run(*values)
    assert torch.equal(first, second)


@pytest.mark.parametrize("bad", [-1, 7, 2**31, 2**32, -(2**40)])
def test_ids_outside_their_table(backend: Backend, bad: int) -> None:
    program = tower(table=True)
    placed = place(program, backend)
    for ids in (torch.tensor([bad]), torch.tensor([0, 6, bad, 1])):
        with pytest.raises((IndexError, InputError)):
            placed.run(ids)
    agree(placed.run(torch.tensor([0, 6])), program.run([torch.tensor([0, 6])]))


def files_of(backend: Backend, made: Lowered) -> dict[str, bytes]:
    return {name: bytes(content) for name, content in backend.save(made).items()}


def restored(backend: Backend, region: Region, files: Mapping[str, bytes]) -> Lowered:
    return backend.load(region, {name: memoryview(content) for name, content in files.items()})


def test_a_saved_region_gives_the_same_bits(backend: Backend) -> None:
    program = tower()
    made = lowered(backend, program)
    again = restored(backend, made.region, files_of(backend, made))
    for batch in BATCHES:
        values = values_for(made.region, batch)
        assert torch.equal(again.run(*values)[0], made.run(*values)[0])


def _damaged(files: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    for name, content in files.items():
        yield f"without {name}", {n: c for n, c in files.items() if n != name}
        yield f"{name} empty", {**files, name: b""}
        yield f"{name} cut short", {**files, name: content[: len(content) // 2]}
        yield f"{name} with bytes of another file", {**files, name: b"PK\x03\x04" + content[4:]}
        yield f"{name} with a changed byte", {**files, name: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]}


def test_damaged_files_are_refused_or_harmless(backend: Backend) -> None:
    made = lowered(backend, tower())
    values = values_for(made.region, 5)
    wanted = made.region.run(values)
    for kind, files in _damaged(files_of(backend, made)):
        try:
            again = restored(backend, made.region, files)
        except (ArtifactError, TargetError):
            continue
        found = again.run(*values)
        assert torch.allclose(found[0], wanted[0], rtol=1e-5, atol=1e-5), kind


def test_files_of_another_region_are_refused_or_harmless(backend: Backend) -> None:
    made, other = lowered(backend, tower()), Region.whole(_wider())
    if not all(backend.supports(other).values()):
        pytest.skip(f"{backend.name} does not run the second region")
    files = files_of(backend, backend.lower(other))
    values = values_for(made.region, 5)
    try:
        again = restored(backend, made.region, files)
    except (ArtifactError, TargetError):
        return
    agree(again.run(*values), made.region.run(values))


def _wider() -> Program:
    b = GraphBuilder({"x": ("batch", 6)})
    weight = b.state("first", torch.full((2, 6), 0.5))
    return b.build(b.call(torch.ops.aten.linear.default, b.inputs["x"], weight))
