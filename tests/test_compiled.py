"""A compiled model as a module: in other modules, copied, pickled, exported."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import TinyCtr, tiny_inputs
from torch import nn

import recfx
from recfx import zoo


class Calibrated(nn.Module):
    """A larger module around a model of two inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.scale = nn.Parameter(torch.tensor([1.5]))

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.inner(*inputs) * self.scale)


class OneRowApart(nn.Module):
    """`squeeze` drops the batch of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 4)
        self.top = nn.Linear(4, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.top(self.table(ids)).squeeze()


@pytest.fixture(scope="module")
def fast() -> recfx.CompiledModel:
    return recfx.optimize(TinyCtr(), example_inputs=tiny_inputs(4), measure=False)


def test_it_is_a_module_in_eval_mode(fast: recfx.CompiledModel) -> None:
    assert isinstance(fast, nn.Module)
    assert fast.eval() is fast.train(False) is fast.to("cpu") is fast.cpu() is fast.float() is fast
    assert not any(module.training for module in fast.modules())
    assert {name: tuple(t.shape) for name, t in fast.state_dict().items()}["user.weight"] == (20, 4)
    assert sum(p.numel() for p in fast.parameters()) > 0
    assert not any(p.requires_grad for p in fast.parameters())
    assert fast.state_dict().keys() == fast.program.state().keys()


def test_a_larger_module_around_it(fast: recfx.CompiledModel) -> None:
    larger = Calibrated(fast).eval().to("cpu").requires_grad_(False)
    inputs = tiny_inputs(6)
    assert torch.equal(larger(*inputs), torch.sigmoid(fast(*inputs) * 1.5))
    assert "inner.user.weight" in larger.state_dict()
    again = copy.deepcopy(larger)
    again.load_state_dict(larger.state_dict())
    assert torch.equal(again(*inputs), larger(*inputs))


def test_a_sequence() -> None:
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval()
    fast = recfx.optimize(tower, example_inputs=torch.randn(4, 3), measure=False)
    x = torch.randn(5, 3)
    torch.testing.assert_close(nn.Sequential(fast, nn.Tanh())(x), tower(x).tanh())


@pytest.mark.parametrize("name", ["dlrm", "din", "sasrec", "two-tower"])
def test_export_of_a_larger_module_records_torch_alone(name: str) -> None:
    torch.manual_seed(0)
    model = zoo.MODELS[name].small().eval()
    example = model.example_inputs(4)
    larger = Calibrated(recfx.optimize(model, example_inputs=example, measure=False)).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(larger, example, dynamic_shapes=[tuple({0: batch} for _ in example)])
    namespaces = {n.target.namespace for n in exported.graph.nodes if isinstance(n.target, torch._ops.OpOverload)}
    assert namespaces == {"aten"}
    assert any(key.startswith("inner.") for key in exported.state_dict)
    for rows in (2, 7):
        given = model.example_inputs(rows)
        torch.testing.assert_close(exported.module()(*given), larger(*given), rtol=1e-4, atol=1e-5)


def test_a_larger_module_is_optimized_and_compiled(fast: recfx.CompiledModel) -> None:
    larger = Calibrated(fast).eval()
    inputs = tiny_inputs(5)
    again = recfx.optimize(larger, example_inputs=tiny_inputs(4), measure=False)
    torch.testing.assert_close(again(*inputs), larger(*inputs), rtol=1e-4, atol=1e-5)
    compiled = torch.compile(larger, backend="eager")
    torch.testing.assert_close(compiled(*inputs), larger(*inputs), rtol=1e-4, atol=1e-5)


def test_strict_export_says_what_to_do(fast: recfx.CompiledModel) -> None:
    with pytest.raises(Exception, match="use strict=False"):
        torch.export.export(Calibrated(fast).eval(), tiny_inputs(4), strict=True)


def test_optimizing_it_again_is_refused(fast: recfx.CompiledModel) -> None:
    with pytest.raises(recfx.InputError, match="compiled already"):
        recfx.optimize(fast, example_inputs=tiny_inputs(4))


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "torch.save"])
def test_copies_share_nothing(way: str) -> None:
    model = TinyCtr()
    fast = recfx.optimize(model, example_inputs=tiny_inputs(4), measure=False, cast_inputs=True)
    inputs = tiny_inputs(6)
    want = fast(*inputs)
    if way == "pickle":
        again = pickle.loads(pickle.dumps(fast))
    elif way == "deepcopy":
        again = copy.deepcopy(fast)
    else:
        file = io.BytesIO()
        torch.save(fast, file)
        file.seek(0)
        again = torch.load(file)  # weights_only
    with torch.no_grad():
        model.user.weight.zero_()
    assert torch.equal(again(*inputs), want)
    assert again.cast_inputs
    assert again.report == fast.report
    assert again.placement == fast.placement


def test_a_copy_with_a_plan_for_one_row() -> None:
    torch.manual_seed(0)
    fast = recfx.optimize(OneRowApart().eval(), example_inputs=torch.arange(4), measure=False)
    again = pickle.loads(pickle.dumps(fast))
    for ids in (torch.tensor([3]), torch.arange(5)):
        assert torch.equal(again(ids), fast(ids))
    assert torch.equal(copy.copy(fast)(torch.arange(5)), fast(torch.arange(5)))


def test_a_pickle_is_read_where_the_class_is_unknown(fast: recfx.CompiledModel, tmp_path: Path) -> None:
    torch.save({"model": fast, "inputs": tiny_inputs(3), "want": fast(*tiny_inputs(3))}, tmp_path / "all.pt")
    script = (
        "import sys, torch, recfx\n"
        "torch.set_num_threads(1)\n"
        "held = torch.load(sys.argv[1])\n"
        "assert torch.equal(held['model'](*held['inputs']), held['want'])\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "all.pt")], check=True)


def test_a_damaged_pickle_is_refused(fast: recfx.CompiledModel) -> None:
    make, (files, cast) = fast.__reduce_ex__(2)
    with pytest.raises(recfx.ArtifactError, match="missing"):
        make({name: data for name, data in files.items() if name != "program.json"}, cast)
    damaged = {name: data.clone() for name, data in files.items()}
    damaged["state.safetensors"][-1] ^= 1
    with pytest.raises(recfx.ArtifactError, match="checksum"):
        make(damaged, cast)
    for wrong in ({"../outside": files["manifest.json"]}, {"a": torch.zeros(2)}, {1: files["manifest.json"]}):
        with pytest.raises(recfx.ArtifactError, match="saved"):
            make(wrong, cast)


def test_one_that_waits_for_its_first_call() -> None:
    waiting = recfx.optimize(TinyCtr())
    with pytest.raises(recfx.RecfxError, match="not been captured"):
        pickle.dumps(waiting)
    assert not list(waiting.parameters())
    assert waiting(*tiny_inputs(3)).shape == (3,)
    assert list(waiting.parameters())
