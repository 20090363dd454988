"""Values that torch.export does not treat as data, as inputs and outputs of a model: they are returned unchanged, in
their own types."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pass_cases import Function
from torch.utils import _pytree as pytree

import recfx
from recfx.errors import CaptureError, InputError
from recfx.ir.constants import same_constant


class Kind(enum.Enum):
    USER = "user"


class Level(enum.IntEnum):
    LOW = 3


class Sized(NamedTuple):
    size: torch.Size
    out: torch.Tensor


@dataclasses.dataclass
class Described:
    out: torch.Tensor
    size: torch.Size


#: Name -> the value that forward returns next to its tensor.
OUTPUTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "size": lambda y: (y, y.shape),
    "size in a dict": lambda y: {"out": y, "size": y.size()},
    "size in a named tuple": lambda y: Sized(y.shape, y),
    "size in a dataclass": lambda y: Described(y, y.shape),
    "part of a size": lambda y: (y, [y.shape[1:], y.T.shape]),
    "constant size": lambda y: (y, torch.Size([1, 2])),
    "plain tuple of sizes": lambda y: (y, tuple(y.shape)),
    "dtype": lambda y: (y.dtype, y),
    "device": lambda y: (y, y.device),
    "layout": lambda y: (y, y.layout),
    "finfo": lambda y: (y, torch.finfo(y.dtype)),
    "enumeration": lambda y: {"out": y, "kind": Kind.USER},
    "integer enumeration": lambda y: (y, Level.LOW),
    "complex": lambda y: (y, 1 + 2j),
    "slice": lambda y: (y, slice(0, 2)),
    "range": lambda y: (range(3), y),
    "bytes": lambda y: (y, b"v1"),
    "ellipsis": lambda y: (y, ...),
    "class": lambda y: (y, int),
    "float64 scalar": lambda y: (y, np.float64(0.5)),
    "NaN scalar": lambda y: (y, np.float32("nan")),
    "int64 scalar": lambda y: (y, [np.int64(5), (np.bool_(True), y)]),
    "array": lambda y: (y, np.arange(3)),
    "set": lambda y: (y, {1, 2}),
    "plain numbers": lambda y: (y, 2, 0.5, True, "name", None),
}
#: The values that cannot be saved in a file.
UNSAVED = {"finfo", "bytes", "ellipsis", "class", "set"}


def _same(want: Any, got: Any) -> bool:
    """Whether two outputs and all nested values are equal and of equal types."""
    if type(want) is not type(got):
        return False
    if isinstance(want, torch.Tensor):
        return torch.allclose(want, got)
    if isinstance(want, torch.Size):
        return want == got
    if dataclasses.is_dataclass(want):
        want, got = vars(want), vars(got)
    if isinstance(want, dict):
        return list(want) == list(got) and all(_same(want[key], got[key]) for key in want)
    if isinstance(want, tuple | list):
        return len(want) == len(got) and all(map(_same, want, got))
    return same_constant(want, got) or str(want) == str(got)


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_keep_their_types(name: str, tmp_path: Path) -> None:
    model = Function(lambda m, x: OUTPUTS[name](x * 2))
    compiled = recfx.optimize(model, example_inputs=(torch.randn(3, 4),), measure=False)
    runs = [compiled]
    if name in UNSAVED:
        with pytest.raises(recfx.errors.ArtifactError, match="cannot be saved"):
            compiled.save(tmp_path / "model")
    else:
        compiled.save(tmp_path / "model")
        runs.append(recfx.load(tmp_path / "model"))
    for run in runs:
        for rows in (1, 3, 5):
            x = torch.randn(rows, 4)
            assert _same(model(x), run(x)), (model(x), run(x))
    assert _same(model(x), compiled.program(x))


@pytest.mark.parametrize("made", [lambda: np.arange(3), lambda: {1, 2}])
def test_changing_a_returned_collection_does_not_change_the_next_result(made: Callable[[], Any]) -> None:
    model = Function(lambda m, x: (x + 1, made()))
    compiled = recfx.optimize(model, example_inputs=(torch.randn(3, 4),), measure=False)
    first = compiled(torch.randn(3, 4))[1]
    first.clear() if isinstance(first, set) else first.fill(9)
    assert same_constant(compiled(torch.randn(3, 4))[1], made())


INPUTS = {
    "float64 scalar": np.float64(0.5),
    "float32 scalar": np.float32(0.5),
    "int64 scalar": np.int64(3),
    "bool scalar": np.bool_(True),
    "array without dimensions": np.array(0.5),
    "integer enumeration": Level.LOW,
    "complex": 1j,
}


@pytest.mark.filterwarnings("ignore:__array_wrap__")
@pytest.mark.parametrize("name", INPUTS)
def test_inputs_become_constants_that_a_call_repeats(name: str, tmp_path: Path) -> None:
    given = INPUTS[name]
    model = Function(lambda m, x, held: x * held["factor"])
    compiled = recfx.optimize(model, example_inputs=(torch.randn(3, 4), {"factor": given}), measure=False)
    compiled.save(tmp_path / "model")
    x = torch.randn(5, 4)
    for run in (compiled, recfx.load(tmp_path / "model")):
        again = type(given)(given.item()) if isinstance(given, np.generic) else given
        found = run(x, {"factor": again})
        assert found.dtype is model(x, {"factor": given}).dtype
        assert torch.allclose(found, model(x, {"factor": given}))
        with pytest.raises(InputError, match="built into the model"):
            run(x, {"factor": type(given)(7) if not isinstance(given, Level | np.bool_) else 7})


FACTOR = np.float64(2)


def test_a_dtype_as_an_input_and_as_a_default() -> None:
    model = Function(lambda m, x, kind, factor=FACTOR: (x * factor).to(kind))
    compiled = recfx.optimize(model, example_inputs=(torch.randn(3, 4), torch.float64), measure=False)
    x = torch.randn(5, 4)
    assert torch.equal(compiled(x, torch.float64), model(x, torch.float64))
    with pytest.raises(InputError, match="built into the model"):
        compiled(x, torch.float16)


def test_an_array_of_data_as_an_input_is_refused_with_the_mend() -> None:
    model = Function(lambda m, x, array: x * torch.from_numpy(array))
    with pytest.raises(CaptureError, match=r"an input is a NumPy array(.|\n)*torch.from_numpy"):
        recfx.optimize(model, example_inputs=(torch.randn(3, 4), np.ones((3, 4), np.float32)), measure=False)


def test_an_output_that_cannot_be_kept_is_named_as_an_output() -> None:
    model = Function(lambda m, x: (x, object()))
    with pytest.raises(CaptureError, match="forward returns a value of a type"):
        recfx.optimize(model, example_inputs=(torch.randn(3, 4),), measure=False)


def test_a_value_that_differs_between_batch_sizes_is_not_built_in() -> None:
    model = Function(lambda m, x: (x + 1, Kind.USER if x.shape[0] > 1 else None))
    compiled = recfx.optimize(model, example_inputs=(torch.randn(3, 4),), measure=False)
    assert compiled(torch.randn(4, 4))[1] is Kind.USER
    assert compiled(torch.randn(1, 4))[1] is None


def test_complex_outputs_with_nan_are_compared() -> None:
    model = Function(lambda m, x: x * torch.tensor(1j))
    compiled = recfx.optimize(model, example_inputs=(torch.randn(3, 4),), measure=False)
    x = torch.randn(2, 4)
    assert torch.equal(compiled(x), model(x))


def test_equality_of_constants() -> None:
    assert same_constant(np.float32("nan"), np.float32("nan"))
    assert same_constant(complex("nan"), complex("nan"))
    assert same_constant(np.array([1.0, np.nan]), np.array([1.0, np.nan]))
    assert not same_constant(np.float32(1), np.float64(1))
    assert not same_constant(np.array([1.0]), np.array([1.0], np.float32))
    assert not same_constant(np.array([1, 2]), np.array([1, 3]))
    assert not same_constant(np.bool_(True), np.bool_(False))


def test_nestings_with_held_values_compare_by_value() -> None:
    from recfx.ir.held_values import hold

    one, same, other = (pytree.tree_structure(hold((1, np.array(v)))) for v in ([1, 2], [1, 2], [1, 3]))
    assert one == same
    assert one != other
