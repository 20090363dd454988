"""The ONNX form of every operator of the dialect, and of whole models, in ONNX Runtime."""

from __future__ import annotations

import functools
import gc
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dialect_cases import CASES, Case, References
from dialect_refusals import PROGRAMS, REFUSED, refused_inputs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_decomposed_models import DIALECT_STEPS, NAMES, fused

from recfx.errors import TargetError
from recfx.ir import Exactness, Program
from recfx.ir.numeric import compare_outputs
from recfx.ir.probes import probes
from recfx.ir.reference_run import Reference
from recfx.ops import lookup, mlp, onnx
from recfx.ops.library import DECOMPOSITIONS
from recfx.testing.builder import GraphBuilder
from recfx.testing.inputs import random_leaves
from recfx.testing.strategies import rec_graphs

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
if onnx.missing() is not None:
    pytest.skip(str(onnx.missing()), allow_module_level=True)

BATCHES = (1, 2, 5, 33)
one_drawn = settings(max_examples=1, suppress_health_check=list(HealthCheck))
many_drawn = settings(max_examples=12, suppress_health_check=list(HealthCheck))


class Session:
    """Runs a program in ONNX Runtime."""

    def __init__(self, model: Any) -> None:
        given = model if isinstance(model, str) else model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # ONNX Runtime also prints a refusal, in addition to the exception
        options.intra_op_num_threads = 1
        self._held = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        self._names = [place.name for place in self._held.get_inputs()]

    def __call__(self, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        feed = {name: leaf.numpy() for name, leaf in zip(self._names, leaves, strict=True)}
        return [torch.from_numpy(found) for found in self._held.run(None, feed)]


def rounds_inside(program: Program) -> bool:
    """Whether the program rounds intermediate values to few digits, so that a difference of one last bit can become a
    whole step."""
    state = program.state().values()
    return any(held.dtype in (torch.int8, torch.bfloat16) and held.ndim == 2 for held in state) or any(
        True in node.args for node in program.graph.nodes if "propagate" in str(node.target)
    )


def require_same(program: Program, session: Session, leaves: list[torch.Tensor], name: str) -> None:
    with torch.no_grad():
        expected = References(program.module).run(*leaves)
    found = session(leaves)
    if not rounds_inside(program):
        compare_outputs(list(expected), found, Exactness.REASSOC, name, Reference(program, leaves))
        return
    for wanted, got in zip(expected, found, strict=True):
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        scale = float(wanted.abs().nan_to_num(0, 0, 0).max()) if wanted.numel() else 0.0
        torch.testing.assert_close(got, wanted, rtol=2e-2, atol=2e-2 * scale, equal_nan=True)


def check(case: Case, seed: int) -> None:
    session = Session(onnx.export(case.program))
    for batch in BATCHES:
        leaves = case.leaves(batch, torch.Generator().manual_seed(seed + batch))
        require_same(case.program, session, leaves, f"{batch} rows")


@pytest.mark.parametrize("target", CASES, ids=str)
@one_drawn
@given(data=st.data())
def test_the_onnx_form_gives_what_the_reference_gives(target: Any, data: st.DataObject) -> None:
    assume(data.draw(st.integers(0, 3), label="not the smallest case, which is the first that is drawn"))
    check(CASES[target](data.draw), data.draw(st.integers(0, 2**32), label="seed of inputs"))


@pytest.mark.slow
@pytest.mark.parametrize("target", CASES, ids=str)
@many_drawn
@given(data=st.data())
def test_the_onnx_form_gives_what_the_reference_gives_in_more_cases(target: Any, data: st.DataObject) -> None:
    check(CASES[target](data.draw), data.draw(st.integers(0, 2**32), label="seed of inputs"))


@functools.cache
def _session_of(kind: str, bits: int) -> Session:
    return Session(onnx.export(PROGRAMS[kind](bits)))


@pytest.mark.parametrize(
    "why",
    [
        why if (kind, bits) == ("jagged", 32) else pytest.param(why, marks=pytest.mark.slow)
        for why, (kind, bits, _) in REFUSED.items()
    ],
)
def test_what_a_reference_refuses_onnx_runtime_refuses(why: str) -> None:
    kind, bits, _ = REFUSED[why]
    session = _session_of(kind, bits)
    with pytest.raises(Exception, match=r"(?i)index|indice|bounds"):
        session(refused_inputs(why))


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("dlrm", "fp32"),
        *(pytest.param(name, "fp32", marks=pytest.mark.slow) for name in NAMES if name != "dlrm"),
        *(pytest.param("din", precision, marks=pytest.mark.slow) for precision in ("bf16", "int8")),
    ],
)
def test_a_model_gives_the_same_answers_in_onnx_runtime(name: str, precision: str) -> None:
    program = fused(name, precision)
    session = Session(onnx.export(program))
    for what, leaves in probes(program):
        require_same(program, session, leaves, what)


@pytest.mark.slow
@many_drawn
@given(rec_graphs(steps=DIALECT_STEPS, max_steps=3, jagged=True), st.integers(0, 2**16))
def test_a_random_program_gives_the_same_answers_in_onnx_runtime(program: Program, seed: int) -> None:
    session, rng = Session(onnx.export(program)), torch.Generator().manual_seed(seed)
    for batch in BATCHES:
        require_same(program, session, random_leaves(program, batch, rng), f"{batch} rows")


def _small_program() -> Program:
    builder = GraphBuilder({"x": ("batch", 3), "ids": (("batch",), torch.int64)})
    weight, table = (builder.state(name, torch.randn(4, 3)) for name in ("weight", "table"))
    first = builder.call(mlp.mlp, builder.inputs["x"], [weight], *mlp.encode([mlp.Layer(0, activation="relu")]))
    features = lookup.encode([lookup.Feature(0, 0, 3, 0)])
    second = builder.call(lookup.grouped_lookup, [table], [builder.inputs["ids"]], [], [], [first], features, [0, 3], 7)
    return builder.build(second)


def test_torchs_exporter_takes_the_table() -> None:
    program = _small_program()
    leaves = random_leaves(program, 5, torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch")
    module = torch.fx.GraphModule(program.module, program.graph)
    exported = torch.export.export(module, tuple(leaves), dynamic_shapes=({0: batch}, {0: batch}))
    made = torch.onnx.export(exported, dynamo=True, verbose=False, custom_translation_table=onnx.table())
    assert made is not None
    require_same(program, Session(made.model_proto), random_leaves(program, 2, torch.Generator()), "2 rows")
    assert _dialect_in_torchs_table() == set(), "the exporter has returned"


def _dialect_in_torchs_table() -> set[Any]:
    return torch._decomp.decomposition_table.keys() & DECOMPOSITIONS.keys()


def test_torchs_table_has_the_dialect_while_a_table_exists() -> None:
    assert _dialect_in_torchs_table() == set()
    first, second = onnx.table(), onnx.table()
    assert _dialect_in_torchs_table() == DECOMPOSITIONS.keys()
    del first
    assert _dialect_in_torchs_table() == DECOMPOSITIONS.keys()
    del second
    assert _dialect_in_torchs_table() == set()


def test_a_decomposition_of_someone_else_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = mlp.mlp
    monkeypatch.setitem(torch._decomp.decomposition_table, operator, DECOMPOSITIONS[operator])
    held = onnx.table()
    del held
    assert _dialect_in_torchs_table() == {operator}


def test_the_export_of_a_program_does_without_torchs_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is decomposed before torch's exporter gets it."""
    during = []
    export = torch.onnx.export
    monkeypatch.setattr(
        torch.onnx, "export", lambda *a, **k: during.append(_dialect_in_torchs_table()) or export(*a, **k)
    )
    onnx.export(_small_program())
    assert during == [set()]


def test_a_failed_export_leaves_torchs_table_as_it_was() -> None:
    def exported() -> None:
        with pytest.raises(torch.onnx.errors.OnnxExporterError):
            torch.onnx.export(torch.nn.Module(), (), dynamo=True, verbose=False, custom_translation_table=onnx.table())

    exported()
    gc.collect()  # the error holds the frames of the exporter
    assert _dialect_in_torchs_table() == set()


def test_a_file_is_written(tmp_path: Path) -> None:
    program = _small_program()
    assert onnx.export(program, tmp_path / "model.onnx") is None
    leaves = random_leaves(program, 3, torch.Generator().manual_seed(0))
    require_same(program, Session(str(tmp_path / "model.onnx")), leaves, "3 rows")


def test_names_and_free_dimensions_stay() -> None:
    model = onnx.export(_small_program())
    assert [place.name for place in model.graph.input] == ["x", "ids"]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 3]


def test_inputs_of_more_rows_than_the_batch() -> None:
    builder = GraphBuilder({"x": ("batch", 3), "starts": (("batch + 1",), torch.int64)})
    program = builder.build(
        builder.call(torch.ops.aten.mul.Tensor, builder.inputs["starts"], 2),
        builder.call(torch.ops.aten.relu.default, builder.inputs["x"]),
    )
    session = Session(onnx.export(program))
    for rows in (1, 4):
        require_same(program, session, random_leaves(program, rows, torch.Generator().manual_seed(0)), f"{rows} rows")


def test_an_operator_without_an_onnx_form_is_named() -> None:
    builder = GraphBuilder({"x": ("batch", 3)})
    program = builder.build(builder.call(torch.ops.aten.lgamma.default, builder.inputs["x"]))
    with pytest.raises(TargetError, match="lgamma"):
        onnx.export(program)


@pytest.mark.parametrize("absent", ["onnx", "onnxscript"])
def test_an_absent_package_is_named_with_how_to_install_it(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == absent else found(name, *rest))
    with pytest.raises(TargetError, match=rf"pip install {absent}$"):
        onnx.export(_small_program())
