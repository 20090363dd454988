"""Whole plans: inputs, operators that torch runs, threads, errors, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs
from native_kit import LEVELS, Partition, generator, lower, needs_kernels, partition, program_of

import recfx
from recfx.capture import capture
from recfx.ir import Program
from recfx.kernels.library import library
from recfx.passes import NATIVE_PIPELINE
from recfx.pipeline import Pipeline
from recfx.runtime.flat import flat_function
from recfx.zoo import MODELS

pytestmark = needs_kernels


@cache
def native(name: str) -> tuple[Any, Program, Partition]:
    """A small model of the zoo, its program, and the lowered program. Made once, since no test changes them."""
    model = MODELS[name].small().eval()  # type: ignore[attr-defined]
    program = Pipeline(NATIVE_PIPELINE).run(capture(model, model.example_inputs(5), {})).program
    return model, program, partition(program, LEVELS[0])


@cache
def fast_dlrm() -> recfx.CompiledModel:
    model = MODELS["dlrm"].small().eval()  # type: ignore[attr-defined]
    return recfx.optimize(model, "native", example_inputs=model.example_inputs(4), measure=False)


#: Models whose operators all have kernels.
WHOLE = sorted(set(MODELS) - {"dien"})


@pytest.mark.parametrize("name", WHOLE)
def test_whole_models_are_one_call(name: str) -> None:
    model, program, made = native(name)
    assert made.plans == 1, {n.name: reason for n, reason in made.refused.items()}
    run = flat_function(made.region)
    for batch in (1, 2, 7, 64):
        inputs = model.example_inputs(batch, seed=batch)
        leaves = program.signature.flatten(inputs, {})
        for found, expected in zip(run(*leaves), program.run(leaves), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dlrm", "deepfm", "din", "sasrec", "mmoe", "dcn-v2"])
def test_bits_do_not_depend_on_threads_or_batch(name: str, threads: Any) -> None:
    model, program, made = native(name)
    run = flat_function(made.region)
    leaves = program.signature.flatten(model.example_inputs(300), {})
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(run(*leaves))
        alone = run(*[leaf[:1] for leaf in leaves])
        for whole, one in zip(results[-1], alone, strict=True):
            assert torch.equal(whole[:1], one)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_threads_share_a_model(threads: Any) -> None:
    threads(2)
    model = TinyCtr().eval()
    fast = recfx.optimize(model, "native", example_inputs=tiny_inputs(4), measure=False)
    calls = [tiny_inputs(batch) for batch in (1, 3, 40, 200)]
    expected = [fast(*call) for call in calls]
    failures: list[str] = []

    def work(offset: int) -> None:
        for turn in range(100):
            which = (turn + offset) % len(calls)
            if not torch.equal(fast(*calls[which]), expected[which]):
                failures.append(f"thread {offset}, call {turn}")

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_more_threads_than_cores_are_not_waited_for(threads: Any) -> None:
    """Members of a team that are late are withdrawn, or the caller runs their share. Callers that find the pool busy work alone."""
    wide = torch.nn.Sequential(
        torch.nn.Linear(256, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.Linear(1024, 3)
    )
    fast = recfx.optimize(wide.eval(), "native", example_inputs=torch.randn(4, 256), measure=False)
    batches = [torch.randn(rows, 256) for rows in (1, 3, 24, 400)]  # steps shared by a team, and blocks
    threads(1)
    expected = [fast(x) for x in batches]
    many = 4 * (os.cpu_count() or 1)
    threads(many)
    with ThreadPoolExecutor(3, initializer=torch.set_num_threads, initargs=(many,)) as callers:
        for found in callers.map(lambda _: [fast(x) for x in batches * 5], range(3)):
            for one, other in zip(found, expected * 5, strict=True):
                assert torch.equal(one, other)


def test_a_forked_process_computes_too() -> None:
    source = """
import os, torch, recfx
torch.set_num_threads(2)
model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1)).eval()
x = torch.randn(500, 8)
fast = recfx.optimize(model, "native", example_inputs=x, measure=False)
want = fast(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(fast(x), want) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("bad", [-1, 50, 2**40])
@pytest.mark.parametrize("batch", [1, 300])
def test_an_id_outside_its_table_is_an_error_that_names_it(bad: int, batch: int) -> None:
    model = MODELS["dlrm"].small().eval()  # type: ignore[attr-defined]
    dense, sparse = model.example_inputs(batch)
    fast = fast_dlrm()
    sparse[batch // 2, 1] = bad
    with pytest.raises(recfx.InputError, match=str(bad)):
        fast(dense, sparse)
    with pytest.raises((IndexError, RuntimeError)):
        model(dense, sparse)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_picking_rows_of_a_constant(dtype: torch.dtype) -> None:
    rng = generator(3)
    held = torch.randint(0, 100, (9,), generator=rng)
    index = torch.randint(-9, 9, (4, 3), generator=rng).to(dtype)
    run = lower(program_of(lambda i, t: t[i] * 2 + 1, [index], [held]))
    assert torch.equal(run(index)[0], held[index.long()] * 2 + 1)
    with pytest.raises(recfx.InputError, match="9"):
        run(torch.full((2, 3), 9, dtype=dtype))


@pytest.mark.parametrize(
    "held", [torch.arange(9) * 7, torch.arange(9.0), torch.arange(18).view(9, 2)], ids=["ids", "numbers", "rows"]
)
def test_selected_rows_of_a_constant_do_not_count_from_the_end(held: torch.Tensor) -> None:
    function = lambda i, t: t.index_select(0, i)  # noqa: E731
    index = torch.tensor([0, 8, 3, 3])
    run = lower(program_of(function, [index], [held]))
    assert torch.equal(run(index)[0], function(index, held))
    for outside in (-1, 9):
        with pytest.raises(recfx.InputError, match=str(outside)):
            run(torch.tensor([0, outside]))


INTEGERS = {
    "arithmetic": lambda a, b: (a * 3 + b - 7) % 11 + (5 + a) * b,
    "counts": lambda a, b: ((a != 0) & (b > 3)).sum(1, keepdim=True) - 1,
    "running counts": lambda a, b: (a > 2).cumsum(1) + b.clamp(1, 4),
    "joined": lambda a, b: torch.stack([torch.cat([a, b], 1), torch.cat([b, a], 1)], 1),
}


@pytest.mark.parametrize("name", sorted(INTEGERS))
def test_whole_numbers_are_exact(name: str) -> None:
    rng = generator(5)
    a, b = (torch.randint(-5, 9, (6, 4), generator=rng) for _ in range(2))
    function = INTEGERS[name]
    (found,) = lower(program_of(function, [a, b]))(a, b)
    assert torch.equal(found, function(a, b))


def test_the_last_position_is_gathered() -> None:
    rng = generator(6)
    x, mask = torch.randn(5, 4, 3, generator=rng), torch.rand(5, 4, generator=rng) < 0.6

    def last(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        at = (mask.sum(1) - 1).clamp(min=0)
        return x.gather(1, at[:, None, None].expand(-1, 1, 3))[:, 0]

    (found,) = lower(program_of(last, [x, mask]))(x, mask)
    assert torch.equal(found, last(x, mask))


def test_what_has_no_kernel_stays_with_torch() -> None:
    function = lambda x, w: torch.fft.rfft(torch.relu(x @ w)).abs() * 2 + 1  # noqa: E731
    x, w = torch.randn(4, 8), torch.randn(8, 8)
    made = partition(program_of(function, [x], [w]), LEVELS[0])
    assert made.plans == 2
    assert len(made.refused) >= 1
    torch.testing.assert_close(flat_function(made.region)(x)[0], function(x, w), rtol=1e-4, atol=1e-4)


def test_a_rank_that_depends_on_the_batch_stays_with_torch() -> None:
    """A squeeze of the batch drops it when there is one row, in the model and so in the compiled model."""
    x = torch.randn(3, 4)
    function = lambda x: torch.relu(torch.relu(x).sum(1).squeeze(-1)) + 1  # noqa: E731
    rows = torch.export.Dim("batch", min=1, max=100)
    run = flat_function(partition(program_of(function, [x], dynamic_shapes=(({0: rows},),)), LEVELS[0]).region)
    for batch in (1, 2):
        inputs = torch.randn(batch, 4)
        assert run(inputs)[0].shape == function(inputs).shape
        torch.testing.assert_close(run(inputs)[0], function(inputs))


def test_values_of_one_row_outlive_the_steps_of_their_own() -> None:
    """Steps for one row run first. Their results must not be overwritten before the other steps read them."""
    rng = generator(7)
    one, many = torch.randn(1, 6, generator=rng), torch.randn(9, 6, generator=rng)
    weights = [torch.randn(6, 6, generator=rng) for _ in range(3)]

    def function(
        one: torch.Tensor, many: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
    ) -> torch.Tensor:
        first = torch.relu(one @ a)
        left = many * first
        second = torch.relu(one @ b)
        third = torch.relu(second @ c)
        return torch.cat([left + second, many - third, first.expand(many.shape[0], -1)], 1)

    batch = torch.export.Dim("batch", min=1, max=100)
    program = program_of(function, [one, many], weights, dynamic_shapes={"inputs": (None, {0: batch})})
    run = lower(program)
    torch.testing.assert_close(run(one, many)[0], function(one, many, *weights), rtol=1e-4, atol=1e-5)


def test_outputs_that_are_views_of_inputs_or_of_each_other() -> None:
    x = torch.randn(3, 4)
    function = lambda x: (x[:, :2], torch.relu(x), torch.relu(x)[:, 1:3], x)  # noqa: E731
    run = flat_function(partition(program_of(function, [x]), LEVELS[0]).region)
    for found, expected in zip(run(x), function(x), strict=True):
        assert torch.equal(found, expected)


def test_inputs_that_are_not_contiguous() -> None:
    fast = recfx.optimize(TinyCtr().eval(), "native", example_inputs=tiny_inputs(4), measure=False)
    dense, sparse = tiny_inputs(8)
    wide = torch.stack([dense, dense], 2)[..., 0]
    assert not wide.is_contiguous()
    assert torch.equal(fast(wide, sparse), fast(dense, sparse))


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_can_be_asked_for(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECFX_LEVEL", level)
    model = TinyCtr().eval()
    fast = recfx.optimize(model, "native", example_inputs=tiny_inputs(4), measure=False)
    torch.testing.assert_close(fast(*tiny_inputs(9)), model(*tiny_inputs(9)), rtol=1e-4, atol=1e-5)


def test_an_unknown_level_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECFX_LEVEL", "avx1024")
    with pytest.raises(recfx.TargetError, match="avx1024"):
        recfx.optimize(TinyCtr().eval(), "native", example_inputs=tiny_inputs(4), measure=False)


def test_exact_passes_keep_exact_arithmetic() -> None:
    model = TinyCtr().eval()
    exact = recfx.optimize(model, example_inputs=tiny_inputs(4), pipeline="canonicalize", measure=False)
    assert exact.report.backend == ("eager",)
    assert torch.equal(exact(*tiny_inputs(9)), model(*tiny_inputs(9)))
    assert recfx.optimize(model, example_inputs=tiny_inputs(4), measure=False).report.backend == ("native",)


def test_saved_models_run_natively(tmp_path: Any) -> None:
    model = MODELS["deepfm"].small().eval()  # type: ignore[attr-defined]
    fast = recfx.optimize(model, "native", example_inputs=model.example_inputs(4), measure=False)
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    inputs = model.example_inputs(33)
    assert loaded.report.backend == ("native",)
    assert torch.equal(loaded(*inputs), fast(*inputs))


@pytest.mark.parametrize("name", ["run", "run_counted"])
@pytest.mark.parametrize("arguments", [(), (0, 1), (0, 1, 1.5), (0, 1, 2**70), ("handle", 1, 1)])
def test_a_call_of_the_library_refuses_wrong_arguments(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        getattr(library(), name)(*arguments)


def test_a_call_of_the_library_takes_a_count_for_each_pointer() -> None:
    with pytest.raises(TypeError, match="pointers"):
        library().run_counted(0, 1, 1, 2, 3, 4)
