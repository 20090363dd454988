"""The OpenVINO backend: installation, lowering, calls that torch must run, threads, and failures. Numbers: `conformance/`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bag_cases import CASES as BAGS
from bag_cases import REFUSED, bags, node_of
from bag_cases import values as values_of_bags
from torch import nn

import recfx
from recfx.errors import InputError, TargetError
from recfx.ir.region import Region
from recfx.targets import BACKENDS, missing_backends, resolve
from recfx.targets.openvino import package
from recfx.testing.builder import GraphBuilder

_aten = torch.ops.aten
sys.path.append(str(Path(__file__).parent / "conformance"))
needs_openvino = pytest.mark.skipif(package.missing() is not None, reason=str(package.missing()))


class Tower(nn.Module):
    """A table and two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 6)
        self.layers = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([dense, self.table(ids)], 1))


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, generator=generator), torch.randint(0, 20, (batch,), generator=generator)


@pytest.fixture
def fresh() -> Iterator[None]:
    """The package is looked up again in the test and after it."""
    package.missing.cache_clear()
    yield
    package.missing.cache_clear()


@pytest.fixture
def fast() -> recfx.CompiledModel:
    return recfx.optimize(Tower().eval(), example_inputs=inputs(4), target="openvino", measure=False)


def test_without_the_package(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match="'openvino' cannot run here") as caught:
        resolve("openvino")
    assert caught.value.hint == 'pip install "recfx[openvino]"'
    assert [backend.name for backend in resolve("cpu")], "other targets do not need it"
    assert "openvino" not in missing_backends("eager")


def test_a_package_that_fails_on_import(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libtbb.so.12: cannot open shared object file\nmore")

    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(package.importlib, "import_module", broken)
    reason = BACKENDS["openvino"].unavailable()
    assert reason is not None
    assert "OSError: libtbb.so.12: cannot open shared object file; reinstall it" in reason


@needs_openvino
@pytest.mark.parametrize(
    ("version", "tested"), [("2026.4.0", True), ("2031.1.0", False), ("2024.6.0", False), ("nightly", False)]
)
def test_a_release_that_was_not_tested_works_with_a_notice(
    version: str, tested: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "version", lambda: version)
    state = BACKENDS["openvino"].state()
    assert state.startswith(f"ready, version {version}")
    assert ("not tested" in state) != tested
    assert BACKENDS["openvino"].unavailable() is None


@needs_openvino
def test_a_model_and_its_saved_form(fast: recfx.CompiledModel, tmp_path: Any) -> None:
    assert set(fast.placement.values()) == {"openvino"}
    fast.save(tmp_path / "model")
    again = recfx.load(tmp_path / "model")
    model = Tower().eval()
    for batch in (1, 2, 7, 64):
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs(batch)), model(*inputs(batch)), rtol=1e-5, atol=1e-6)
        assert torch.equal(again(*inputs(batch)), fast(*inputs(batch)))


@needs_openvino
@pytest.mark.parametrize("bad", [-1, 20, 2**32 + 3])
def test_ids_outside_the_table_are_named(fast: recfx.CompiledModel, bad: int) -> None:
    with pytest.raises(InputError, match="rows"):
        fast(torch.zeros(2, 3), torch.tensor([0, bad]))


@needs_openvino
def test_integers_beyond_32_bits_run_on_torch() -> None:
    b = GraphBuilder({"x": (("batch",), torch.int64)})
    program = b.build(b.call(_aten.gt.Scalar, b.inputs["x"], 5))
    run = BACKENDS["openvino"].lower(Region.whole(program)).run
    for values in ([2**32, 3], [2**40 + 1, 6], [-(2**33), 7]):
        assert torch.equal(run(torch.tensor(values))[0], torch.tensor(values) > 5)


@needs_openvino
def test_no_rows(fast: recfx.CompiledModel) -> None:
    assert fast(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0, 2)


@needs_openvino
def test_ids_that_are_computed_in_the_region_are_refused() -> None:
    b = GraphBuilder({"x": (("batch",), torch.int64), "flag": (("batch",), torch.bool)})
    chosen = b.call(_aten.masked_fill.Scalar, b.inputs["x"], b.inputs["flag"], 0)
    program = b.build(b.call(_aten.embedding.default, b.state("table", torch.randn(4, 3)), chosen))
    with pytest.raises(recfx.targets.Refused, match="cannot be checked"):
        BACKENDS["openvino"].lower(Region.whole(program))


@needs_openvino
def test_a_model_that_does_not_compile_goes_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def compile_model(self, *_: Any) -> Any:
            raise RuntimeError("Check failed at src/plugins/intel_cpu\nmore")

    monkeypatch.setattr("recfx.targets.openvino.requests.core", Broken)
    fast = recfx.optimize(Tower().eval(), example_inputs=inputs(4), target=["openvino", "eager"], measure=False)
    assert set(fast.placement.values()) == {"eager"}
    assert any("OpenVINO cannot compile the region: Check failed" in notice for notice in fast.report.notices)


@needs_openvino
def test_a_call_that_fails_gives_its_request_back() -> None:
    region = Region.whole(_linear())
    run = BACKENDS["openvino"].lower(region).run
    for _ in range(3):
        with pytest.raises(RuntimeError):
            run(torch.zeros(2, 7))
        assert run(torch.ones(2, 6))[0].shape == (2, 3)


def _linear() -> Any:
    b = GraphBuilder({"x": ("batch", 6)})
    return b.build(b.call(_aten.linear.default, b.inputs["x"], b.state("weight", torch.randn(3, 6))))


@needs_openvino
def test_results_are_memory_of_torch_and_inputs_are_not_copied() -> None:
    run = BACKENDS["openvino"].lower(Region.whole(_linear())).run
    first = run(torch.ones(4, 6))[0]
    kept = first.clone()
    second = run(torch.zeros(4, 6))[0]
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, kept)


@needs_openvino
def test_the_region_says_what_it_holds() -> None:
    lowered = BACKENDS["openvino"].lower(Region.whole(_linear()))
    assert (lowered.backend, lowered.operators, lowered.left) == ("openvino", 1, ())
    assert dataclasses.replace(lowered.region).outputs == tuple(lowered.sized)


@needs_openvino
def test_every_rule_takes_a_form_of_its_operator() -> None:
    from conformance_cases import CASES

    from recfx.targets.openvino.converter import RULES

    backend, taken = BACKENDS["openvino"], set()
    for case in CASES:
        if case.target in RULES and case.target not in taken:
            program = case.program()
            verdicts = backend.supports(program)
            taken |= {node.target for node, verdict in verdicts.items() if verdict}
    tested = {case.target for case in CASES}
    assert not {str(target) for target in RULES if target in tested} - {str(target) for target in taken}


@needs_openvino
@pytest.mark.parametrize("case", BAGS.values(), ids=BAGS.keys())
def test_bags_of_one_length(case: dict[str, Any]) -> None:
    program = bags(**case)
    assert all(BACKENDS["openvino"].supports(program).values())
    run = BACKENDS["openvino"].lower(Region.whole(program)).run
    for batch in (1, 2, 7, 64):
        leaves = values_of_bags(program, case["length"], batch)
        for got, want in zip(run(*leaves), program.run(leaves), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    bad = [torch.full_like(leaves[0], 9), *leaves[1:]]
    with pytest.raises(InputError, match="rows"):
        run(*bad)


@needs_openvino
def test_padding_adds_zero_whatever_its_row_holds() -> None:
    program = bags(3, mode=1, padding=2)
    with torch.no_grad():
        program.state()["table"][2] = float("nan")
    run = BACKENDS["openvino"].lower(Region.whole(program)).run
    ids = torch.tensor([2, 1, 2, 2, 2, 2, 0, 1, 8])
    torch.testing.assert_close(run(ids)[0], program.run([ids])[0], rtol=1e-5, atol=1e-6)


@needs_openvino
@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_bags_that_torch_runs(make: Any, reason: str) -> None:
    program = make()
    assert reason in BACKENDS["openvino"].supports(program)[node_of(program)].reason


class Bag(nn.Module):
    """A bag of ids and a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(30, 8, mode="mean", padding_idx=0)
        self.layer = nn.Linear(8, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layer(self.bag(ids))


@needs_openvino
def test_the_bags_of_a_model_are_part_of_the_region() -> None:
    model = Bag().eval()
    fast = recfx.optimize(model, example_inputs=torch.randint(0, 30, (6, 5)), target="openvino", measure=False)
    assert set(fast.placement.values()) == {"openvino"}
    for batch in (1, 2, 40):
        ids = torch.randint(0, 30, (batch, 5))
        with torch.no_grad():
            torch.testing.assert_close(fast(ids), model(ids), rtol=1e-5, atol=1e-6)


class Cut(nn.Module):
    """A layer, and zeros of a size that the inputs hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = counts.unbind()[1].item()
        torch._check(count >= 0)
        torch._check(count <= 100)
        return self.layer(x), torch.zeros(count)


@needs_openvino
def test_a_number_that_a_region_reads_from_a_tensor_reaches_other_regions() -> None:
    model = Cut().eval()
    fast = recfx.optimize(
        model, example_inputs=(torch.randn(5, 3), torch.tensor([1, 2, 0])), target="openvino", measure=False
    )
    first = fast.parts.placed.split
    assert "openvino" in first.backends[0]
    assert any(str(node.target) == "aten.item.default" for node in first.regions[0].graph.nodes)
    for batch, counts in ((3, [1, 7, 2]), (1, [0, 0, 0])):
        given = torch.randn(batch, 3), torch.tensor(counts)
        scores, zeros = fast(*given)
        torch.testing.assert_close(scores, model(*given)[0])
        assert zeros.shape == (counts[1],)
