"""Names of parameters in files: they become parameters of a generated function, so they are checked."""

from __future__ import annotations

import pytest

from recfx.errors import ArtifactError
from recfx.ir.rebuild_signature import _names


@pytest.mark.parametrize("names", [[], ["x"], ["x", "y_1", "_z", "None_", "match"], ["a_" * 20]])
def test_names_of_parameters(names: list[str]) -> None:
    assert _names(names, "here") == tuple(names)


@pytest.mark.parametrize(
    "name",
    ["", "1x", "x y", "x-y", "x=1", "x\n", "lambda", "None", "True", "class", "__x", "__import__", "__", "x,y", "*x"],
)
def test_names_that_no_parameter_may_have(name: str) -> None:
    with pytest.raises(ArtifactError, match="is not the name of a parameter"):
        _names(["x", name], "here")


def test_a_name_occurs_once() -> None:
    with pytest.raises(ArtifactError, match="'x' occurs twice"):
        _names(["x", "y", "x"], "here")
