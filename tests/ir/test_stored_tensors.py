"""Tensors of the state, as a saved program describes them: parameters, sparse tensors, and descriptions that are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from recfx.errors import ArtifactError
from recfx.ir.rebuild import _decode_tensor

TENSORS = {
    "f": torch.tensor([1.5, 2.5]), "i": torch.tensor([1, 2]), "z": torch.tensor([1j]), "at": torch.tensor([[1, 0], [0, 2]]),
    "far": torch.tensor([[5, 0], [0, 2]]), "rows": torch.tensor([0, 1, 2]), "columns": torch.tensor([2, 0]),
}  # fmt: skip


def dense(name: str, parameter: Any = None) -> dict[str, Any]:
    return {"dense": name, "parameter": None if parameter is None else {"requires_grad": parameter}}


def decoded(entry: Any) -> torch.Tensor:
    return _decode_tensor(entry, TENSORS, "state 'w'")


@pytest.mark.parametrize(("name", "grad"), [("f", True), ("f", False), ("z", True), ("i", False)])
def test_parameters(name: str, grad: bool) -> None:
    tensor = decoded(dense(name, grad))
    assert isinstance(tensor, nn.Parameter)
    assert tensor.requires_grad == grad
    assert torch.equal(tensor, TENSORS[name])


def test_a_buffer_is_the_tensor_itself() -> None:
    assert decoded(dense("i")) is TENSORS["i"]


def test_sparse_tensors() -> None:
    want = torch.tensor([[0.0, 0.0, 2.5], [1.5, 0.0, 0.0]])
    coo, csr = decoded({"coo": ["at", "f"], "size": [2, 3]}), decoded({"csr": ["rows", "columns", "f"], "size": [2, 3]})
    assert (coo.layout, csr.layout) == (torch.sparse_coo, torch.sparse_csr)
    assert coo.is_coalesced()
    assert torch.equal(coo.to_dense(), want)
    assert torch.equal(csr.to_dense(), torch.tensor([[0.0, 0.0, 1.5], [2.5, 0.0, 0.0]]))


REFUSED = {
    "a whole number with a gradient": (dense("i", True), "cannot require a gradient"),
    "no tensor": (dense("none"), "there is no tensor 'none'"),
    "another kind": ({"bsr": ["at"], "size": [2]}, "expected a dense, coo or csr tensor, got 'bsr'"),
    "nothing": ({}, "expected a dense, coo or csr tensor"),
    "a text": ("dense", "expected a dense, coo or csr tensor"),
    "too few parts": ({"coo": ["at"], "size": [2, 3]}, "a sparse coo tensor cannot have 1 parts"),
    "too many parts": ({"coo": ["at", "f", "f"], "size": [2, 3]}, "a sparse coo tensor cannot have 3 parts"),
    "parts of another kind": ({"csr": ["at", "f"], "size": [2, 3]}, "a sparse csr tensor cannot have 2 parts"),
    "an index outside": ({"coo": ["far", "f"], "size": [2, 3]}, ""),
    "a field too many": ({**dense("f"), "more": 1}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_descriptions_that_are_refused(name: str) -> None:
    entry, message = REFUSED[name]
    with pytest.raises(ArtifactError) as caught:
        decoded(entry)
    assert message in str(caught.value)
    assert "state 'w'" in str(caught.value)
