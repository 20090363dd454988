"""`recfx.optimize` as users call it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs
from torch import nn

import recfx
from recfx.passes import EXACT_PIPELINE


@pytest.fixture(scope="module")
def model() -> TinyCtr:
    return TinyCtr()


@pytest.fixture(scope="module")
def exact(model: TinyCtr) -> recfx.CompiledModel:
    return recfx.optimize(model, example_inputs=tiny_inputs(4), pipeline=EXACT_PIPELINE, measure=False)


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_exact_pipeline_keeps_every_bit(model: TinyCtr, exact: recfx.CompiledModel, batch: int) -> None:
    inputs = tiny_inputs(batch, seed=batch)
    with torch.no_grad():
        assert torch.equal(exact(*inputs), model(*inputs))


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_default_pipeline_stays_within_rounding(model: TinyCtr, batch: int) -> None:
    fast = recfx.optimize(model, example_inputs=tiny_inputs(4), measure=False, verify="numeric")
    inputs = tiny_inputs(batch, seed=batch)
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-5, atol=1e-6)


def test_keywords_and_positions_mix(model: TinyCtr, exact: recfx.CompiledModel) -> None:
    dense, sparse = tiny_inputs(3)
    with torch.no_grad():
        want = model(dense, sparse)
    assert torch.equal(exact(dense, sparse=sparse), want)
    assert torch.equal(exact(sparse=sparse, dense=dense), want)


def test_the_result_records_no_graph_and_the_model_is_untouched(model: TinyCtr) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = recfx.optimize(model, example_inputs=tiny_inputs(4))
    assert not fast(*tiny_inputs(4)).requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_lazy_capture_happens_once_even_with_many_threads(model: TinyCtr) -> None:
    fast = recfx.optimize(model, measure=False)
    with pytest.raises(recfx.RecfxError, match="not been captured"):
        _ = fast.report
    inputs = tiny_inputs(5)
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(fast(*inputs))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        want = model(*inputs)
    assert len(results) == 4
    for result in results:
        torch.testing.assert_close(result, want, rtol=1e-5, atol=1e-6)
    assert fast.report.model == "TinyCtr"


def test_concurrent_calls_agree(model: TinyCtr, exact: recfx.CompiledModel) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        for step in range(50):
            inputs = tiny_inputs(1 + step % 9, seed=seed * 100 + step)
            with torch.no_grad():
                if not torch.equal(exact(*inputs), model(*inputs)):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@dataclass
class Features:
    dense: torch.Tensor
    ids: dict[str, torch.Tensor]


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, features: Features, pair: list[torch.Tensor], *, scale: float = 2.0) -> dict[str, Any]:
        looked_up = self.table(features.ids["a"]) + self.table(features.ids["b"])
        return {"sum": looked_up + features.dense + pair[0] * scale, "pair": (pair[1], [looked_up])}


def test_nested_inputs_and_outputs_keep_their_form() -> None:
    model = Nested().eval()

    def inputs(batch: int) -> tuple[Features, list[torch.Tensor]]:
        ids = {name: torch.randint(0, 9, (batch,)) for name in ("a", "b")}
        return Features(torch.randn(batch, 4), ids), [torch.randn(batch, 4), torch.randn(batch, 1)]

    fast = recfx.optimize(model, example_inputs=inputs(4), measure=False)
    given = inputs(6)
    with torch.no_grad():
        want = model(*given)
    got = fast(*given)
    assert isinstance(got, dict)
    assert isinstance(got["pair"], tuple)
    assert isinstance(got["pair"][1], list)
    assert torch.equal(got["sum"], want["sum"])
    assert torch.equal(got["pair"][1][0], want["pair"][1][0])
    with pytest.raises(recfx.InputError, match=r"default 2.0"):
        fast(*given, scale=3.0)
    assert torch.equal(fast(*given, scale=2.0)["sum"], want["sum"])


class TakesDict(nn.Module):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["x"] + batch["y"]


def test_a_dict_is_one_argument_or_keywords_by_the_names_of_forward(model: TinyCtr) -> None:
    batch = {"x": torch.randn(3, 2), "y": torch.randn(3, 2)}
    fast = recfx.optimize(TakesDict().eval(), example_inputs=batch, measure=False)
    assert torch.equal(fast(batch), batch["x"] + batch["y"])
    dense, sparse = tiny_inputs(4)
    by_name = recfx.optimize(model, example_inputs={"dense": dense, "sparse": sparse}, measure=False)
    assert by_name(dense=dense, sparse=sparse).shape == (4,)
    with pytest.raises(recfx.InputError, match=r"nested differently|missing"):
        fast({"x": batch["x"]})
    with pytest.raises(recfx.InputError):
        fast({**batch, "z": batch["x"]})


BAD_CALLS = {
    "ids too large": (lambda d, s: ((d, s + 100), {}), "out of range.*'user.weight'"),
    "ids negative": (lambda d, s: ((d, s - 100), {}), "out of range"),
    "dtype": (lambda d, s: ((d, s.float()), {}), "expected dtype torch.int64"),
    "float64": (lambda d, s: ((d.double(), s), {}), "expected dtype torch.float32"),
    "rank": (lambda d, s: ((d[0], s), {}), "expected 2 dimensions"),
    "width": (lambda d, s: ((d[:, :4], s), {}), "expected size 5, got 4"),
    "missing": (lambda d, s: ((d,), {}), "missing argument.*'sparse'"),
    "unknown": (lambda d, s: ((d, s), {"extra": s}), "unknown argument 'extra'"),
    "twice": (lambda d, s: ((d, s), {"dense": d}), "given twice"),
    "too many": (lambda d, s: ((d, s, s), {}), "3 positional arguments"),
    "rows differ": (lambda d, s: ((d, s[:2]), {}), "batch is 2 here and 4"),
    "empty, another width": (lambda d, s: ((d[:0, :4], s[:0]), {}), "expected size 5, got 4"),
    "not a tensor": (lambda d, s: ((d, "ids"), {}), "nested differently|expected a tensor"),
    "a list of text": (lambda d, s: ((d, [["a", "b", "c"]] * 4), {}), "nested differently|expected a tensor"),
    "none": (lambda d, s: ((None, s), {}), "expected a tensor, got NoneType"),
    "other device": (lambda d, s: ((d.to("meta"), s), {}), "expected a tensor on cpu"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_say_what_is_wrong(exact: recfx.CompiledModel, name: str) -> None:
    change, message = BAD_CALLS[name]
    args, kwargs = change(*tiny_inputs(4))
    with pytest.raises(recfx.InputError, match=f"(?s){message}"):
        exact(*args, **kwargs)
    assert exact(*tiny_inputs(4)).shape == (4,)  # a refused call changes nothing


class OverTheBatch(TinyCtr):
    def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = super().forward(dense, sparse)
        return scores.softmax(0)


def test_too_large_a_batch_names_the_limit() -> None:
    fast = recfx.optimize(OverTheBatch(), example_inputs=tiny_inputs(4), max_batch=8, measure=False)
    assert fast(*tiny_inputs(8)).shape == (8,)
    with pytest.raises(recfx.InputError, match="max_batch"):
        fast(*tiny_inputs(9))


def test_non_contiguous_inputs_give_what_eager_gives(model: TinyCtr, exact: recfx.CompiledModel) -> None:
    dense, sparse = tiny_inputs(8)
    strided = (dense.t().contiguous().t()[::2], sparse.t().contiguous().t()[::2])
    with torch.no_grad():
        assert torch.equal(exact(*strided), model(*strided))


def test_nan_in_a_table_gives_what_eager_gives() -> None:
    model = TinyCtr()
    with torch.no_grad():
        model.user.weight[3, 1] = float("nan")
    fast = recfx.optimize(model, example_inputs=tiny_inputs(8), measure=False)
    dense, sparse = tiny_inputs(8)
    sparse[2, 0] = 3
    with torch.no_grad():
        want = model(dense, sparse)
    got = fast(dense, sparse)
    assert want.isnan().any()
    assert torch.equal(want.isnan(), got.isnan())


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(12, 3, mode="mean", include_last_offset=True)

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.bag(ids, offsets)


def test_empty_bags_are_zero() -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = {"ids": {0: torch.export.Dim("ids", min=0, max=1000)}, "offsets": {0: batch + 1}}
    model = Bags().eval()
    example = (torch.tensor([1, 2, 3, 4]), torch.tensor([0, 1, 1, 4]))
    fast = recfx.optimize(model, example_inputs=example, dynamic_shapes=shapes, measure=False)
    ids, offsets = torch.tensor([5, 6]), torch.tensor([0, 0, 2, 2, 2])
    with torch.no_grad():
        want = model(ids, offsets)
    got = fast(ids, offsets)
    assert torch.equal(got, want)
    assert torch.equal(got[0], torch.zeros(3))
    nothing = fast(torch.empty(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(nothing, torch.zeros(2, 3))


def test_bad_arguments_of_optimize(model: TinyCtr) -> None:
    inputs = tiny_inputs(4)
    with pytest.raises(recfx.TargetError, match="known targets"):
        recfx.optimize(model, target="tpu", example_inputs=inputs)
    with pytest.raises(recfx.InputError, match="not a verification level"):
        recfx.optimize(model, example_inputs=inputs, verify="very")
    with pytest.raises(recfx.PipelineError, match="no pass is called"):
        recfx.optimize(model, example_inputs=inputs, pipeline="fold-everything")
    with pytest.raises(recfx.CaptureError, match="training mode"):
        recfx.optimize(TinyCtr().train(), example_inputs=inputs)
    with pytest.raises(recfx.InputError, match=r"nn.Module"):
        recfx.optimize(lambda x: x, example_inputs=inputs)  # type: ignore[arg-type]
    with pytest.raises(recfx.InputError, match="do not fit"):
        recfx.optimize(model, example_inputs=(inputs[0],))
    with pytest.raises(recfx.InputError, match="empty"):
        recfx.optimize(model, example_inputs=tiny_inputs(0))


def test_debug_folder_shows_what_changed(model: TinyCtr, tmp_path: Path) -> None:
    recfx.optimize(model, example_inputs=tiny_inputs(4), measure=False, debug=tmp_path)
    diffs = list(tmp_path.glob("*.diff"))
    assert diffs
    assert "operators:" in diffs[0].read_text()
    assert (tmp_path / "timing.json").is_file()


def test_explain_prints_reasons(exact: recfx.CompiledModel, model: TinyCtr) -> None:
    text = recfx.explain(exact)
    assert "canonicalize" in text
    with pytest.raises(recfx.InputError):
        recfx.explain(model)  # type: ignore[arg-type]


def test_a_failing_user_pass_leaves_a_reproducer(model: TinyCtr, tmp_path: Path) -> None:
    @recfx.rewrite(torch.ops.aten.relu.default)
    def break_it(node: Any, ctx: Any) -> Any:
        """Not exact at all."""
        return ctx.call(torch.ops.aten.neg.default, node.args[0])

    with pytest.raises(recfx.PassError, match="break-it") as caught:
        recfx.optimize(model, example_inputs=tiny_inputs(4), pipeline=[break_it], verify="numeric", debug=tmp_path)
    assert caught.value.reproducer is not None
    assert (Path(caught.value.reproducer) / "run.py").is_file()
