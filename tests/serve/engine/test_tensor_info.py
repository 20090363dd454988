"""Names, types and shapes of the tensors of a served model."""

from __future__ import annotations

import pytest
import torch

from recfx.errors import TargetError
from recfx.ir.leaves import LeafSpec
from recfx.serve.engine.tensor_info import TensorInfo, input_info, names_of, shown


@pytest.mark.parametrize(
    ("expressions", "names"),
    [
        (["dense", "sparse"], ["dense", "sparse"]),
        (["features['user_id']", "features['item']"], ["features.user_id", "features.item"]),
        (["args_0[0]", "args_0[1]", "x[0]['a']"], ["args_0.0", "args_0.1", "x.0.a"]),
        (["f['a']", "f.a"], ["f['a']", "f.a"]),
        ([], []),
    ],
)
def test_names_of_leaves_for_requests(expressions: list[str], names: list[str]) -> None:
    assert names_of(expressions) == names


def test_free_sizes_are_minus_one() -> None:
    leaf = LeafSpec("f['a']", "tensor", torch.int64, torch.device("cpu"), ("batch", 3, "batch + 1"))
    info = input_info("f.a", leaf)
    assert info == TensorInfo("f.a", torch.int64, (-1, 3, -1))
    assert (info.datatype, shown(info.shape), shown(())) == ("INT64", "[-1, 3, -1]", "[]")
    assert input_info("x", LeafSpec("x", "tensor", torch.float32, None, ())).datatype == "FP32"


@pytest.mark.parametrize(("dtype", "device"), [(torch.complex64, "cpu"), (torch.float32, "meta"), (None, "cpu")])
def test_other_inputs_cannot_be_sent(dtype: torch.dtype | None, device: str) -> None:
    with pytest.raises(TargetError, match="cannot be sent in a request"):
        input_info("x", LeafSpec("x", "tensor", dtype, torch.device(device), (2,)))
