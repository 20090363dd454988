"""Without the kernels: the reason and the next step are named, torch runs models, and searches give the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from models import TinyCtr, tiny_inputs
from native_kit import needs_kernels

import recfx
from recfx.errors import TargetError
from recfx.kernels import library as module
from recfx.kernels.library import library, missing
from recfx.retrieval import Index
from recfx.targets import BACKENDS, OPTIONAL, resolve

pytestmark = needs_kernels


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The library is looked up again in the test, and once more after it."""
    module._load.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    module._load.cache_clear()


def test_kernels_that_are_there_miss_nothing() -> None:
    assert missing() is None
    assert library().levels


def test_kernels_that_were_not_built(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.delenv("RECFX_KERNELS", raising=False)
    fresh.setattr(module, "_FOLDER", tmp_path)
    assert str(missing()).startswith("the native kernels were not built; ")
    with pytest.raises(TargetError, match="cannot run here") as caught:
        library()
    assert caught.value.hint == missing()


@pytest.mark.parametrize("content", [None, "no library", ""], ids=["no file", "text", "an empty file"])
def test_kernels_that_do_not_load(fresh: pytest.MonkeyPatch, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "_kernels.so"
    if content is not None:
        file.write_text(content)
    fresh.setenv("RECFX_KERNELS", str(file))
    assert str(missing()).startswith("the native kernels do not load (")
    assert str(file) in str(missing())


def test_torch_runs_models_without_kernels(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.setenv("RECFX_KERNELS", str(tmp_path / "_kernels.so"))
    assert [backend.name for backend in resolve("cpu") if backend.name not in OPTIONAL] == ["eager"]
    with pytest.raises(TargetError, match="'native' cannot run here"):
        resolve("native")
    model = TinyCtr().eval()
    fast = recfx.optimize(model, example_inputs=tiny_inputs(4), measure=False)
    assert set(fast.report.backend) == {"eager"}
    assert any("the native backend is missing" in notice for notice in fast.report.notices)
    with torch.no_grad():
        torch.testing.assert_close(fast(*tiny_inputs(9)), model(*tiny_inputs(9)))


def test_searches_without_kernels_give_the_same_answers(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    items, queries = torch.randn(60, 24, generator=generator), torch.randn(5, 24, generator=generator)
    index = Index.from_embeddings(items, bits=1)
    with_kernels = index.search(queries, 7)
    fresh.setenv("RECFX_KERNELS", str(tmp_path / "_kernels.so"))
    module._load.cache_clear()
    assert missing() is not None
    without = index.search(queries, 7)
    assert torch.equal(with_kernels[0], without[0])
    assert torch.equal(with_kernels[1], without[1])
    assert "native" in BACKENDS
