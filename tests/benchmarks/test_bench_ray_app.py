"""The peer that runs a model under Ray Serve's own batching."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving import run
from benchmarks.serving.ray_app import run_together
from benchmarks.serving.servers import COMMANDS
from recfx.errors import TargetError


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**30))
def test_each_request_gets_its_own_rows(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    requests = [[torch.randn(n, 3, generator=generator), torch.randn(n, generator=generator)] for n in sizes]
    calls: list[int] = []

    def model(wide: torch.Tensor, narrow: torch.Tensor) -> torch.Tensor:
        calls.append(len(wide))
        return wide.sum(1) + narrow

    found = run_together(model, requests)
    assert calls == [sum(sizes)]
    for output, (wide, narrow) in zip(found, requests, strict=True):
        torch.testing.assert_close(output, wide.sum(1) + narrow)


def test_every_server_has_a_command() -> None:
    assert {*run.SERVERS, *run.ON_RAY} <= COMMANDS.keys()


def test_the_comparison_needs_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recfx.serve.packages._found", lambda name: not name.startswith("ray"))
    with pytest.raises(TargetError, match="not installed: ray"):
        run.main(["din"], "1", 1.0, ray=True)
