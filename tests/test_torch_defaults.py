"""Results do not depend on torch's default dtype and default device, which a program sets for other purposes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from native_kit import needs_kernels

import recfx
from recfx.retrieval import Index
from recfx.zoo import MODELS

pytestmark = needs_kernels


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


#: Setting -> a context. Nothing can be computed on the meta device, so a tensor that is made there by mistake is an error.
SETTINGS: dict[str, Any] = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}


def model_of(name: str) -> tuple[Any, tuple[Any, ...]]:
    model: Any = MODELS[name].small().eval()  # type: ignore[attr-defined]
    return model, model.example_inputs(6)


def same(found: Any, expected: Any) -> None:
    found, expected = (torch.utils._pytree.tree_leaves(v) for v in (found, expected))
    for got, want in zip(found, expected, strict=True):
        assert (got.dtype, got.device) == (want.dtype, want.device)
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["dlrm", "din", "sasrec", "dien"])
def test_calls(name: str) -> None:
    model, inputs = model_of(name)
    fast = recfx.optimize(model, "native", example_inputs=inputs, measure=False)
    expected = fast(*inputs)
    for setting in SETTINGS.values():
        with setting():
            found = fast(*inputs)
        same(found, expected)


@pytest.mark.parametrize("setting", ["float64", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("dlrm", "dien", "xdeepfm", "mmoe") else pytest.mark.slow) for n in MODELS],
)
def test_optimize(name: str, setting: str) -> None:
    """Weights are packed as before."""
    model, inputs = model_of(name)
    with torch.no_grad():
        expected = model(*inputs)
    with SETTINGS[setting]():
        fast = recfx.optimize(model, "native", example_inputs=inputs, measure=False)
        found = fast(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("setting", SETTINGS)
def test_searches(bits: int, setting: str) -> None:
    rows = torch.randn(60, 24)
    index = Index.from_embeddings(rows, bits=bits)
    expected = index.search(rows[:3], 5)
    with SETTINGS[setting]():
        found = index.search(rows[:3], 5)
    same(tuple(found), tuple(expected))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("setting", ["float64", "bfloat16"])
def test_indexes(bits: int, setting: str) -> None:
    rows = torch.randn(60, 24)
    expected = Index.from_embeddings(rows, bits=bits).search(rows[:3], 5)
    with SETTINGS[setting]():
        found = Index.from_embeddings(rows, bits=bits).search(rows[:3], 5)
    same(tuple(found), tuple(expected))
