"""Programs as `torch.export` has them: sizes in the form of the exporter."""

from __future__ import annotations

import pytest
import torch

from recfx.ops import exported


@pytest.mark.parametrize(
    ("size", "at_five"),
    [
        ("batch", 5),
        ("3*batch", 15),
        ("batch + 1", 6),
        ("2*batch + 3", 13),
        ("batch - 1", 4),
        ("Max(1, batch//2)", None),
    ],
)
def test_free_sizes_in_the_exporters_form(size: str, at_five: int | None) -> None:
    dim = torch.export.Dim("batch", min=2, max=9)
    found = exported._dimension(size, {"batch": dim})
    if at_five is None:
        assert found is torch.export.Dim.AUTO
    else:
        assert found is dim if size == "batch" else found.fn(5) == at_five
    assert found is not None
