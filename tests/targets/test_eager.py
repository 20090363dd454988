"""The backend interface and the eager backend."""

from __future__ import annotations

import operator
import subprocess
import sys

import pytest
import torch
from models import TinyCtr, tiny_inputs
from native_kit import LEVELS
from torch import fx

import recfx
from recfx import targets
from recfx.capture import capture
from recfx.doctor import examine
from recfx.driver.lowering import Lowering
from recfx.ir import Exactness
from recfx.ir.program import Program
from recfx.ir.region import Region
from recfx.targets import BACKENDS, EagerBackend, Verdict, resolve
from recfx.targets.base import is_operator
from recfx.targets.eager.lookups import with_plain_lookups
from recfx.targets.registry import BUILT_IN, Registry
from recfx.testing import GraphBuilder
from recfx.version import VERSION


def test_resolve_names_and_groups() -> None:
    present = [name for name, backend in BACKENDS.items() if backend.unavailable() is None]
    assert [b.name for b in resolve("cpu")] == present
    assert present[-1] == "eager"
    assert resolve("eager") == [BACKENDS["eager"]]
    assert [b.name for b in resolve(["eager", "cpu"])] == ["eager", *present[:-1]]
    with pytest.raises(recfx.TargetError, match="known targets"):
        resolve("abacus")
    with pytest.raises(recfx.TargetError, match="names no backend"):
        resolve([])


def test_lowering_keeps_the_meaning_and_reads_state_without_gradients() -> None:
    model = TinyCtr()
    program = capture(model, tiny_inputs(4))
    lowered = EagerBackend().lower(Region.whole(program))
    inputs = tiny_inputs(9)
    (got,) = lowered.run(*inputs)
    assert torch.equal(got, model(*inputs).detach())
    assert not got.requires_grad


def test_what_is_not_in_the_dialect_is_refused_with_its_place() -> None:
    program = capture(TinyCtr(), tiny_inputs(4)).clone()
    output = next(iter(reversed(program.graph.nodes)))
    with program.graph.inserting_before(output):
        bad = program.graph.call_method("relu", (output.args[0][0],))
    output.args = ((bad,),)
    verdict = EagerBackend().supports(program)[bad]
    assert not verdict
    assert "call_method" in verdict.reason
    with pytest.raises(recfx.TargetError, match="call_method"):
        EagerBackend().lower(Region.whole(program))


def test_higher_order_operators_are_refused() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    program = b.build(b.call(torch.ops.aten.relu.default, b.inputs["x"]))
    (relu,) = (node for node in program.graph.nodes if node.op == "call_function")
    with program.graph.inserting_before(relu):
        branch = program.graph.call_function(torch.ops.higher_order.cond, (True, None, None, (relu.args[0],)))
    verdicts = EagerBackend().supports(program)
    assert verdicts[relu]
    assert verdicts[relu].reason == ""
    assert not verdicts[branch]
    assert "the higher-order operator cond" in verdicts[branch].reason
    assert set(verdicts) == {relu, branch}


def test_regions_without_lookups_are_lowered_as_they_are() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    region = Region.whole(b.build(b.call(torch.ops.aten.relu.default, b.inputs["x"])))
    assert with_plain_lookups(region) is region
    assert EagerBackend().lower(region).body is region


def test_sizes_and_parts_of_tuples_are_not_operators() -> None:
    b = GraphBuilder({"x": ("batch", 4)})
    size = b.call(torch.ops.aten.sym_size.int, b.inputs["x"], 0)
    doubled = b.call(operator.mul, size, 2)
    pair = b.call(torch.ops.aten.max.dim, b.inputs["x"], 1)
    part = b.call(operator.getitem, pair, 0)
    program = b.build(part, b.call(torch.ops.aten.mul.Tensor, b.inputs["x"], doubled))
    found = [str(node.target) for node in program.graph.nodes if is_operator(node)]
    assert found == ["aten.max.dim", "aten.mul.Tensor"]


def test_the_registry_is_a_mapping_of_names() -> None:
    registry = Registry()
    assert len(registry) == len(BUILT_IN) == len(list(registry))
    assert "eager" in registry
    assert "abacus" not in registry
    backend = registry["abacus"] = EagerBackend()
    assert registry["abacus"] is backend
    assert len(registry) == len(BUILT_IN) + 1
    assert list(registry)[-1] == "abacus"
    del registry["abacus"]
    assert "abacus" not in registry
    assert type(registry["eager"]) is EagerBackend
    with pytest.raises(KeyError):
        registry["abacus"]


class Broken(EagerBackend):
    """A backend whose package raises when it is imported."""

    name = "broken"

    def unavailable(self) -> str | None:
        raise OSError("libengine.so: undefined symbol")


class BrokenLater(Broken):
    """A backend whose package is installed, and raises when it is imported, which happens at the first program."""

    def absent(self) -> str | None:
        return None

    def supports(self, program: Program | Region) -> dict[fx.Node, Verdict]:
        raise OSError("libengine.so: undefined symbol")


def test_a_backend_that_is_broken_on_import_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "broken", Broken())
    assert "broken" not in [b.name for b in resolve("cpu")]
    with pytest.raises(recfx.TargetError, match="cannot run here") as caught:
        resolve("broken")
    assert "OSError: libengine.so: undefined symbol" in str(caught.value)
    assert "libengine.so" in targets.missing_backends("cpu")["broken"]
    finding = next(f for f in examine() if f.subject == "backend broken")
    assert not finding.present
    assert "libengine.so" in finding.hint
    model = TinyCtr()
    fast = recfx.optimize(model.eval(), example_inputs=tiny_inputs(4), measure=False)
    assert any("libengine.so" in notice for notice in fast.report.notices)


def test_the_version_of_a_backend_without_a_library_is_that_of_recfx() -> None:
    assert BACKENDS["eager"].version() == VERSION


def test_measurements_of_native_are_for_one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has speeds of its own, so that a stored measurement of one does not choose a plan for another."""
    for level in LEVELS:
        monkeypatch.setenv("RECFX_LEVEL", level)
        assert BACKENDS["native"].version() == f"{VERSION}, {level}"


def test_backends_are_imported_and_constructed_when_asked_for() -> None:
    code = (
        "import sys; from recfx.targets import BACKENDS, resolve; resolve('eager'); "
        "assert {'native', 'eager'} <= {*BACKENDS}; assert 'recfx.targets.native' not in sys.modules; "
        "from recfx.targets import NativeBackend; assert type(BACKENDS['native']) is NativeBackend; "
        "assert BACKENDS['native'] is BACKENDS['native']; "
        "[(backend.version(), backend.kernels()) for backend in resolve('cpu')]; "
        "print({'openvino', 'onnx', 'onnxruntime', 'recfx.onnx.rules'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"  # what resolve, versions and kernels do not need is not imported


def test_a_package_that_is_found_to_be_broken_when_a_program_is_given_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "broken", BrokenLater())
    assert "broken" in [backend.name for backend in resolve("cpu")]
    with pytest.raises(recfx.TargetError, match="cannot run here"):
        resolve("broken")
    assert not next(f for f in examine() if f.subject == "backend broken").present
    model, inputs = TinyCtr().eval(), tiny_inputs(4)
    program = capture(model, inputs)
    lowering = Lowering(program, [BACKENDS["broken"], BACKENDS["eager"]], (), Exactness.EXACT)
    assert [*lowering.take_notices()] == [
        "the broken backend fails on this model, so it is left out: OSError: libengine.so: undefined symbol"
    ]
    assert set(lowering.place({})[0].backends) == {"eager"}


def test_other_names_of_the_package_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="OtherBackend"):
        targets.OtherBackend  # noqa: B018 - the access is the test
