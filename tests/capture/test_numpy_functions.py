"""NumPy scalars and arrays that a model holds, and NumPy functions of tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pass_cases import Function

import recfx
from recfx.capture import capture
from recfx.capture.encoder_padding import padded_with_zeros
from recfx.capture.numpy_functions import traced_numpy_functions

VALUES = {
    "float64": np.float64(0.5),
    "int64": np.int64(2),
    "bool": np.bool_(True),
    "float64 without dimensions": np.array(0.5),
    "int64 without dimensions": np.array(2),
    "float32 row": np.array([0.5, 1.0, 2.0], np.float32),
}
USES: dict[str, Callable[[torch.Tensor, Any], Any]] = {
    "product": lambda y, c: y * c,
    "product from the left": lambda y, c: c * y,
    "sum": lambda y, c: y + c,
    "difference from the left": lambda y, c: c - y,
    "quotient": lambda y, c: y / c,
    "quotient from the left": lambda y, c: c / (y.abs() + 1),
    "power": lambda y, c: y.abs() ** c,
    "comparison": lambda y, c: c < y,
    "clamp": lambda y, c: y.clamp(max=c),
    "full": lambda y, c: y + torch.full((3,), c),
    "as_tensor": lambda y, c: y * torch.as_tensor(c),
    "alpha": lambda y, c: torch.add(y, y, alpha=c),
    "kept by torch": lambda y, c: torch.lerp(y, y * 2, c),
    "NumPy's product": lambda y, c: np.multiply(y, c),
    "NumPy's square root": lambda y, c: (
        np.sqrt(y.abs()) + np.float32(c).item() if np.ndim(c) == 0 else np.sqrt(y.abs())
    ),
}


@pytest.mark.filterwarnings("ignore:__array_wrap__")
@pytest.mark.parametrize("use", USES)
def test_held_numbers_give_what_the_model_gives(use: str) -> None:
    x, taken = torch.randn(4, 3), 0
    for held in VALUES.values():
        model = Function(lambda m, x, held=held: USES[use](x * 1.5, held))
        try:
            with torch.no_grad():
                want = model(x)
        except (TypeError, RuntimeError, IndexError):
            continue  # the model itself fails
        found = capture(model, (torch.randn(3, 3),))(x)
        assert found.dtype is want.dtype
        assert torch.allclose(found, want)
        taken += 1
    assert taken >= 3


@pytest.mark.parametrize("target", ["native", "eager"])
def test_numbers_become_plain_before_code_is_generated(target: str) -> None:
    held = (np.float64(0.5), np.int64(2), np.bool_(True))
    model = Function(lambda m, x: torch.lerp(x, x * held[1], held[0]) + torch.add(x, x, alpha=held[1]) * held[2])
    x = torch.randn(4, 3)
    compiled = recfx.optimize(model, target, example_inputs=(torch.randn(3, 3),), measure=False)
    assert torch.allclose(compiled(x), model(x))
    arguments = [a for node in compiled.program.graph.nodes for a in (*node.args, *node.kwargs.values())]
    assert not any(isinstance(a, np.generic) for a in arguments)


SIZES: dict[str, Callable[[torch.Tensor, Any], Any]] = {
    "view": lambda y, n: y.view(-1, n),
    "slice": lambda y, n: y[:, :n],
    "loop": lambda y, n: sum(y * i for i in range(n)),
    "zeros": lambda y, n: y + torch.zeros(n),
    "expand": lambda y, n: y.unsqueeze(1).expand(-1, n, -1),
    "split": lambda y, n: torch.split(y, [n - 1, np.int64(1)], 1)[0],
}


@pytest.mark.parametrize("use", SIZES)
@pytest.mark.parametrize("size", [np.int64(3), np.int32(3), np.array(3)], ids=["int64", "int32", "array"])
def test_held_integers_serve_as_sizes(use: str, size: Any) -> None:
    model = Function(lambda m, x: SIZES[use](x * 1.5, size))
    x = torch.randn(6, 3)
    assert torch.equal(capture(model, (torch.randn(4, 3),))(x), model(x))


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_numpy_sees_tensors_as_before_once_traced() -> None:
    capture(Function(lambda m, x: x * np.array(2.0)), (torch.randn(3, 3),))
    assert not hasattr(torch.Tensor, "__array_ufunc__")
    assert isinstance(np.arctan2(torch.ones(2), np.ones(2)), torch.Tensor | np.ndarray)


def test_the_functions_are_torch_s_own_again_behind_the_last_of_several_uses() -> None:
    with traced_numpy_functions():
        with traced_numpy_functions():
            pass
        assert torch.Tensor.__array_ufunc__ is not None  # type: ignore[attr-defined]
    assert "__array_ufunc__" not in torch.Tensor.__dict__


def test_threads_that_capture_at_once() -> None:
    """Functions of torch that are replaced while a model is traced are restored once, by the last thread to finish."""

    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return np.sqrt(x) * 2  # type: ignore[no-any-return]

    forward, found = torch.nn.TransformerEncoder.forward, []

    def use(patch: Any) -> None:
        for _ in range(200):
            with patch():
                found.append(np.sqrt(torch.ones(2)))

    threads = [threading.Thread(target=use, args=(p,)) for p in (traced_numpy_functions, padded_with_zeros) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 800
    assert "__array_ufunc__" not in torch.Tensor.__dict__
    assert torch.nn.TransformerEncoder.forward is forward
    program = capture(Scaled().eval(), (torch.rand(4, 3),))
    assert torch.equal(program.run([torch.ones(2, 3)])[0], torch.full((2, 3), 2.0))
