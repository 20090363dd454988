"""The backend interface and the eager backend."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from models import TinyCtr, tiny_inputs

import recfx
from recfx import targets
from recfx.capture import capture
from recfx.ir.region import Region
from recfx.targets import BACKENDS, EagerBackend, resolve


def test_resolve_names_and_groups() -> None:
    present = [name for name, backend in BACKENDS.items() if backend.unavailable() is None]
    assert [b.name for b in resolve("cpu")] == present
    assert present[-1] == "eager"
    assert resolve("eager") == [BACKENDS["eager"]]
    assert [b.name for b in resolve(["eager", "cpu"])] == ["eager", *present[:-1]]
    with pytest.raises(recfx.TargetError, match="known targets"):
        resolve("abacus")
    with pytest.raises(recfx.TargetError, match="no target"):
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


def test_backends_are_imported_and_constructed_when_asked_for() -> None:
    code = (
        "import sys; from recfx.targets import BACKENDS, resolve; resolve('eager'); "
        "assert list(BACKENDS) == ['native', 'eager']; assert 'recfx.targets.native' not in sys.modules; "
        "from recfx.targets import NativeBackend; assert type(BACKENDS['native']) is NativeBackend; "
        "assert BACKENDS['native'] is BACKENDS['native']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_names_of_the_package_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="OtherBackend"):
        targets.OtherBackend  # noqa: B018 - the access is the test
