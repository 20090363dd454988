"""The Inductor backend: installation, compilation, and failures. What compiles for tens of seconds is slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import recfx
from recfx.errors import IdError, TargetError
from recfx.ir.region import Region
from recfx.targets import BACKENDS, Refused, package_cache, resolve
from recfx.targets.inductor import compile as compiling
from recfx.targets.inductor import compiler
from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten
needs_compiler = pytest.mark.skipif(compiler.missing() is not None, reason=str(compiler.missing()))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = package_cache.default_folder("inductor")
    assert made.is_relative_to(tmp_path)
    return made


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    with pytest.raises(TargetError, match="'inductor' cannot run here") as caught:
        resolve("inductor")
    assert "install g++" in str(caught.value.hint)
    assert "inductor" not in [backend.name for backend in resolve("cpu")]


def test_a_torch_without_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    assert str(compiler.missing()).startswith("this torch has no Inductor")


def test_asking_for_the_compiler_does_not_import_inductor() -> None:
    code = (
        "import sys, torch; from recfx.targets import missing; missing('inductor')\n"
        "print('torch._inductor.cpp_builder' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_it_is_slow_to_lower_until_the_package_is_stored(folder: Path, tmp_path: Path) -> None:
    region = Region.whole(tower())
    assert BACKENDS["inductor"].slow_to_lower(region)
    package_cache.store(folder, compiling.key_of(region), package(tmp_path), {})
    assert not BACKENDS["inductor"].slow_to_lower(region)


@pytest.mark.parametrize("change", ["version", "machine", "weights"])
def test_a_package_of_another_version_machine_or_model_is_not_used(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    region = Region.whole(tower())
    package_cache.store(folder, compiling.key_of(region), package(tmp_path), {})
    assert package_cache.stored(folder, compiling.key_of(region)) is not None
    if change == "weights":
        with torch.no_grad():
            region.module.weight[0, 0] += 1  # type: ignore[index, operator, union-attr]
    else:
        monkeypatch.setattr(compiler, change, lambda: "another")
    assert package_cache.stored(folder, compiling.key_of(region)) is None
    assert BACKENDS["inductor"].slow_to_lower(region)


def tower() -> Any:
    b = GraphBuilder({"x": ("batch", 6), "ids": (("batch",), torch.int64)})
    table = b.state("table", torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    row = b.call(_aten.embedding.default, table, b.inputs["ids"])
    weight = b.state("weight", torch.randn(3, 10, generator=torch.Generator().manual_seed(1)))
    joined = b.call(_aten.cat.default, [b.inputs["x"], row], 1)
    return b.build(b.call(_aten.relu.default, b.call(_aten.linear.default, joined, weight)))


def test_verdicts_have_reasons() -> None:
    b = GraphBuilder({"x": ("batch", 6), "p": (("batch", 6), torch.int64), "f": (("batch", 6), torch.bool)})
    x, p = b.inputs["x"], b.inputs["p"]
    taken = b.call(_aten.relu.default, x)
    read = b.call(_aten.gather.default, x, 1, p)
    random = b.call(_aten.exponential.default, x)
    chosen = b.call(_aten.masked_fill.Scalar, p, b.inputs["f"], 0)
    row = b.call(_aten.embedding.default, b.state("t", torch.randn(4, 2)), chosen)
    program = b.build(taken, read, random, row)
    verdicts = BACKENDS["inductor"].supports(program)
    assert verdicts[taken].supported
    assert "cannot be checked" in verdicts[read].reason
    assert "random" in verdicts[random].reason
    assert verdicts[row].supported, "when another backend computes the ids"
    with pytest.raises(Refused, match=r"same region|random|cannot be checked"):
        BACKENDS["inductor"].lower(Region.whole(program))


def package(folder: Path, content: bytes = b"a library") -> Path:
    file = folder / "made.pt2"
    file.write_bytes(content)
    return file


@needs_compiler
def test_a_failed_compilation_goes_to_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CppCompileError: C++ compile error\nmore")

    monkeypatch.setattr(compiling.torch._inductor, "aoti_compile_and_package", broken)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval()
    fast = recfx.optimize(model, example_inputs=(torch.randn(3, 4),), target=["inductor", "eager"], measure=False)
    assert set(fast.placement.values()) == {"eager"}
    assert any("Inductor cannot compile the region" in notice for notice in fast.report.notices)


@needs_compiler
@pytest.mark.slow
def test_a_region_is_compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tower()
    region = Region.whole(program)
    backend = BACKENDS["inductor"]
    first = backend.lower(region)
    (place,) = folder.iterdir()
    assert json.loads((place / "record.json").read_text())["seconds"] > 0

    def again(*_: Any, **__: Any) -> Any:
        raise AssertionError("the package is compiled again")

    monkeypatch.setattr(compiling.torch._inductor, "aoti_compile_and_package", again)
    second = backend.load(Region.whole(tower()), {n: memoryview(c) for n, c in backend.save(first).items()})
    for batch in (1, 2, 7, 64):
        x, ids = torch.randn(batch, 6), torch.randint(0, 5, (batch,))
        for lowered in (first, second):
            torch.testing.assert_close(lowered.run(x, ids)[0], program.run([x, ids])[0], rtol=1e-5, atol=1e-5)
            wide = torch.randn(batch, 12)[:, ::2]
            torch.testing.assert_close(lowered.run(wide, ids)[0], program.run([wide, ids])[0], rtol=1e-5, atol=1e-5)
    assert first.run(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64))[0].shape == (0, 3)
    for bad in (-1, 5, 2**40):
        with pytest.raises(IdError):
            first.run(torch.zeros(2, 6), torch.tensor([0, bad]))
    (place / "package.pt2").write_bytes(b"PK damaged")
    with pytest.raises(TargetError, match="the package is compiled again"):
        backend.lower(region)
    monkeypatch.undo()


@needs_compiler
@pytest.mark.slow
def test_the_conformance_cases_in_one_program(folder: Path) -> None:
    sys.path.append(str(Path(__file__).parent / "conformance"))
    from conformance_cases import CASES
    from conformance_kit import Input, check_numbers, place

    builder = GraphBuilder(
        {"x": ("batch", 6), "y": ("batch", 6), "cube": ("batch", 4, 6), "flag": (("batch", 6), torch.bool)}
    )
    outputs = []
    for case in CASES:
        operands = [v for v in case.args if isinstance(v, Input)]
        plain = all(isinstance(v, Input | int | float | bool) for v in case.args) and not case.keywords
        # torch's own gelu of an infinity differs between vectors and scalars.
        if (
            case.target is _aten.gelu.default
            or not plain
            or not operands
            or not all(v.name in builder.inputs for v in operands)
            or case.sums
        ):
            continue
        args = [builder.inputs[v.name] if isinstance(v, Input) else v for v in case.args]
        made = builder.call(case.target, *args)
        if isinstance(made.meta["val"], torch.Tensor):
            outputs.append(made)
    assert len(outputs) > 80
    program = builder.build(*outputs)
    backend = BACKENDS["inductor"]
    placed = place(program, backend)
    assert all(reason.strip() for reason in placed.refused.values())
    assert len(placed.refused) < len(outputs) / 4
    check_numbers(CASES[0], program, placed.run, backend)
