"""The ONNX Runtime backend: whole models, ids outside their table, threads, saved files, and packages that are absent or broken."""

from __future__ import annotations

import importlib
import importlib.util
import json
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import TinyCtr, tiny_inputs
from test_zoo_road import trained
from torch import nn

import recfx
from recfx.driver.lowering import lower
from recfx.errors import ArtifactError, IdError, InputError, TargetError
from recfx.ir import Exactness
from recfx.ir.region import Region
from recfx.onnx.rules import FUSED
from recfx.targets import BACKENDS, Lowered, resolve
from recfx.testing.builder import GraphBuilder
from recfx.zoo import MODELS

pytest.importorskip("onnxruntime", reason='pip install "recfx[onnxruntime]"')

from recfx.targets.onnxruntime import package, saved, sessions

BATCHES = (1, 2, 7, 64)


def tiny() -> tuple[nn.Module, recfx.CompiledModel]:
    model = TinyCtr()
    return model, recfx.optimize(model, "onnxruntime", example_inputs=tiny_inputs(6), measure=False)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "name", [n if n in ("dlrm", "dien") else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_models_of_the_zoo_run_whole(name: str, tmp_path: Path) -> None:
    model = trained(name)
    fast = recfx.optimize(model, "onnxruntime", example_inputs=model.example_inputs(6), measure=False)
    assert set(fast.placement.values()) == {"onnxruntime"}
    assert not fast.placement.torch_operators
    fast.save(tmp_path / "model")
    loaded = recfx.load(tmp_path / "model")
    for batch in BATCHES:
        inputs = model.example_inputs(batch, seed=batch + 100)
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-5, atol=1e-5)
        assert torch.equal(loaded(*inputs), fast(*inputs))


@pytest.mark.parametrize("name", ["dlrm", pytest.param("dcn-v2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["int8", pytest.param("bf16", marks=pytest.mark.slow)])
def test_quantised_models_equal_the_native_ones(name: str, precision: str) -> None:
    model = trained(name)
    options: dict[str, Any] = {"example_inputs": model.example_inputs(6), "precision": precision, "measure": False}
    fast, native = (recfx.optimize(model, target, **options) for target in ("onnxruntime", "native"))
    assert set(fast.placement.values()) == {"onnxruntime"}
    for batch in BATCHES:
        inputs = model.example_inputs(batch, seed=batch)
        torch.testing.assert_close(fast(*inputs), native(*inputs), rtol=1e-3, atol=1e-3)


def test_ids_outside_their_table_are_named() -> None:
    model, fast = tiny()
    for bad in (-1, 20, 2**40, -(2**40)):
        dense, sparse = tiny_inputs(5)
        sparse[3, 0] = bad
        with pytest.raises(IdError, match=rf"'user.weight' has 20 rows.*{bad}"):
            fast(dense, sparse)
    torch.testing.assert_close(fast(*tiny_inputs(5)), model(*tiny_inputs(5)))


def test_nan_and_infinities_stay() -> None:
    model, fast = tiny()
    dense, sparse = tiny_inputs(4)
    dense[0, 0], dense[1, 1], dense[2, 2] = float("nan"), float("inf"), float("-inf")
    with torch.no_grad():
        torch.testing.assert_close(fast(dense, sparse), model(dense, sparse), equal_nan=True)


def test_empty_bags_give_zeros() -> None:
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(9, 4, mode="mean").eval()
    shapes = ({0: torch.export.Dim("ids")}, {0: torch.export.Dim("batch")})
    ids, offsets = torch.randint(0, 9, (8,)), torch.tensor([0, 2, 2, 8])
    fast = recfx.optimize(bag, "onnxruntime", example_inputs=(ids, offsets), dynamic_shapes=shapes, measure=False)
    for starts in ([0, 0, 0], [0], [0, 8], [0, 3, 3, 8, 8]):
        given = torch.tensor(starts)
        with torch.no_grad():
            torch.testing.assert_close(fast(ids, given), bag(ids, given))
    nothing = torch.zeros(0, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(fast(nothing, torch.tensor([0, 0])), bag(nothing, torch.tensor([0, 0])))
    with pytest.raises(InputError):
        fast(ids, torch.tensor([0, 5, 3]))


def test_four_threads_call_one_model() -> None:
    model, fast = tiny()
    wrong: list[int] = []

    def call(seed: int) -> None:
        for step in range(40):
            inputs = tiny_inputs(1 + (seed + 3 * step) % 60, seed * 100 + step)
            with torch.no_grad():
                if not torch.allclose(fast(*inputs), model(*inputs), rtol=1e-5, atol=1e-5):
                    wrong.append(step)

    workers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_sessions_follow_the_number_of_threads(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    plain = sessions.open_session
    monkeypatch.setattr(sessions, "open_session", lambda model, n, state: opened.append(n) or plain(model, n, state))
    torch.set_num_threads(1)
    model, fast = tiny()
    opened.clear()
    for count in (2, 1, 3, 2):
        torch.set_num_threads(count)
        with torch.no_grad():
            torch.testing.assert_close(fast(*tiny_inputs(9)), model(*tiny_inputs(9)))
    assert opened == [2, 3], "one session for each number"


def test_large_tables_are_not_copied() -> None:
    model = nn.EmbeddingBag(50_000, 16, mode="sum").eval()
    ids = torch.randint(0, 50_000, (6, 3))
    fast = recfx.optimize(model, "onnxruntime", example_inputs=(ids,), measure=False)
    with torch.no_grad():
        before = fast(ids).clone()
        model.weight.add_(1)
        fast.parts.watch = None
        found = fast(ids) if fast._watch is None else _without_warning(fast, ids)
    torch.testing.assert_close(found, before + 3)


def _without_warning(fast: recfx.CompiledModel, ids: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fast(ids)  # type: ignore[no-any-return]


def test_a_region_between_native_ones() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    program = recfx.optimize(model, "eager", example_inputs=torch.randn(6, 5), measure=False).program
    tanh = [node.name for node in program.graph.nodes if node.target is torch.ops.aten.tanh.default]
    backends = resolve(["native", "onnxruntime", "eager"])
    placed, notices = lower(program, backends, [], Exactness.REASSOC, dict.fromkeys(tanh, "onnxruntime"))
    assert placed.backends == ("native", "onnxruntime", "native")
    assert not notices
    leaves = [torch.randn(7, 5)]
    torch.testing.assert_close(list(placed.run(*leaves)), program.run(leaves))


def test_the_operators_with_kernels_are_those_with_a_translation() -> None:
    assert BACKENDS["onnxruntime"].kernels() == FUSED


@pytest.mark.parametrize("absent", ["onnxruntime", "onnx"])
def test_an_absent_package(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == absent else found(name, *rest))
    assert "recfx[onnxruntime]" in str(BACKENDS["onnxruntime"].unavailable())
    with pytest.raises(TargetError, match=r"cannot run here\n.*pip install"):
        recfx.optimize(TinyCtr(), "onnxruntime", example_inputs=tiny_inputs(6))
    assert "onnxruntime" not in [backend.name for backend in resolve("cpu")]


def test_a_package_that_breaks_on_import(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = importlib.import_module

    def broken(name: str, *rest: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("libgomp.so.1: cannot open shared object file")
        return plain(name, *rest)

    package._broken.cache_clear()
    monkeypatch.setattr(importlib, "import_module", broken)
    try:
        assert "libgomp.so.1" in str(package.unavailable())
        assert "reinstall" in str(package.unavailable())
    finally:
        package._broken.cache_clear()


def test_an_untested_version_warns_once_and_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "version", lambda: "9.7.1")
    assert "9.7.1 is not among the tested versions" in BACKENDS["onnxruntime"].state()
    package.warn_if_untested.cache_clear()
    with pytest.warns(UserWarning, match=r"9\.7\.1"):
        model, fast = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny()
    package.warn_if_untested.cache_clear()
    torch.testing.assert_close(fast(*tiny_inputs(3)), model(*tiny_inputs(3)))


def lowered() -> Lowered:
    _, fast = tiny()
    return fast.parts.regions[0]


def altered(files: dict[str, bytes], change: Any) -> dict[str, memoryview]:
    """The files with a changed model, whose digest fits."""
    import onnx

    model = onnx.load_model_from_string(files["model.onnx"])
    names = json.loads(files["names.json"])
    change(model, names)
    content = model.SerializeToString()
    names["digest"] = saved.digest(content)
    return {"model.onnx": memoryview(content), "names.json": memoryview(json.dumps(names).encode())}


def _foreign_file(model: Any, _: Any) -> None:
    tensor = next(one for one in model.graph.initializer if one.external_data)
    tensor.external_data[0].value = "/etc/passwd"


def _foreign_domain(model: Any, _: Any) -> None:
    model.graph.node[0].domain = "com.microsoft"


def _foreign_opset(model: Any, _: Any) -> None:
    model.opset_import.add(domain="my.ops", version=1)


def _function(model: Any, _: Any) -> None:
    model.functions.add(name="f", domain="")


def _wrong_input(model: Any, _: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 11


def _wrong_output(model: Any, names: Any) -> None:
    names["outputs"] = [None for _ in names["outputs"]]


def _wrong_state(_: Any, names: Any) -> None:
    names["state"] = {name: inside + "x" for name, inside in names["state"].items()}


def _hidden_file(model: Any, _: Any) -> None:
    import onnx

    inner = onnx.TensorProto(name="hidden", data_type=1, dims=[1], data_location=1)
    inner.external_data.add(key="location", value="secret")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["hidden"], value=inner))


def _unknown_operator(model: Any, _: Any) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


@pytest.mark.parametrize(
    "change",
    [
        *(_foreign_file, _foreign_domain, _foreign_opset, _function, _wrong_input, _wrong_output, _wrong_state),
        *(_hidden_file, _unknown_operator),
    ],
)
def test_a_saved_region_is_not_trusted(change: Any) -> None:
    made, backend = lowered(), BACKENDS["onnxruntime"]
    with pytest.raises(ArtifactError, match="saved region"):
        backend.load(made.region, altered(dict(backend.save(made)), change))


@pytest.mark.parametrize(("depth", "allowed"), [(0, True), (4, True), (5, False)])
def test_branches_inside_branches_are_read_up_to_a_depth(depth: int, allowed: bool) -> None:
    from onnx import helper

    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "inner", [], [])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph)
        graph = helper.make_graph([node], "outer", [], [])
    if allowed:
        assert len(list(saved._graphs(graph))) == depth + 1
        return
    with pytest.raises(ArtifactError, match="nested too deeply"):
        list(saved._graphs(graph))


@pytest.mark.parametrize("damage", ["cut", "empty", "bytes", "missing", "more", "large", "names"])
def test_damaged_files_are_refused(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, backend = lowered(), BACKENDS["onnxruntime"]
    files = dict(backend.save(made))
    content = files["model.onnx"]
    if damage == "cut":
        files["model.onnx"] = content[: len(content) // 2]
    elif damage == "empty":
        files["model.onnx"] = b""
    elif damage == "bytes":
        files["model.onnx"] = content[:-4] + b"\xff\x00\xff\x00"
    elif damage == "missing":
        del files["model.onnx"]
    elif damage == "more":
        files["library.so"] = b"\x7fELF"
    elif damage == "large":
        monkeypatch.setattr(saved, "_MOST_MODEL", 100)
    else:
        files["names.json"] = b"{"
    with pytest.raises(ArtifactError):
        backend.load(made.region, {name: memoryview(held) for name, held in files.items()})


def test_files_of_another_region_are_refused() -> None:
    made, backend = lowered(), BACKENDS["onnxruntime"]
    other = recfx.optimize(nn.Linear(5, 2).eval(), "onnxruntime", example_inputs=torch.randn(6, 5), measure=False)
    files = backend.save(other.parts.regions[0])
    with pytest.raises(ArtifactError):
        backend.load(made.region, {name: memoryview(held) for name, held in files.items()})


def test_inputs_with_gaps_and_wrong_types() -> None:
    model = nn.Linear(4, 3).eval()
    region = recfx.optimize(model, "onnxruntime", example_inputs=torch.randn(6, 4), measure=False).parts.regions[0]
    for x in (torch.randn(9, 8)[:, ::2], torch.randn(4, 9).T, torch.randn(0, 4)):
        with torch.no_grad():
            torch.testing.assert_close(region.run(x)[0], model(x))
    with pytest.raises(InputError, match=r"expected torch\.float32, got torch\.float64"):
        region.run(torch.randn(3, 4, dtype=torch.float64))
    assert isinstance(region.region, Region)


def test_outputs_whose_sizes_do_not_follow_from_the_inputs() -> None:
    """The input has twice the rows of the batch, and no other input tells the batch. The runtime makes these outputs itself."""
    aten = torch.ops.aten
    builder = GraphBuilder({"x": ("2*batch", 3)})
    halves = builder.call(aten.reshape.default, builder.inputs["x"], [2, -1, 3])
    first = builder.call(aten.select.int, halves, 0, 0)
    above = builder.call(aten.gt.Scalar, first, 0.5)
    whole = builder.call(aten.to.dtype, first, torch.int64)
    all_of = builder.call(aten.gt.Scalar, builder.inputs["x"], 0.5)
    program = builder.build(first, above, whole, all_of)
    lowered = BACKENDS["onnxruntime"].lower(Region.whole(program))
    for rows in (1, 4):
        x = torch.arange(6.0 * rows).reshape(2 * rows, 3) / 7
        first_half = x[:rows]
        expected = [first_half, first_half > 0.5, first_half.long(), x > 0.5]
        for wanted, got in zip(expected, lowered.run(x), strict=True):
            assert got.dtype == wanted.dtype
            assert torch.equal(got, wanted)
