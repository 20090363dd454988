"""The collector of reference cycles while a model is compiled."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from recfx.fewer_collections import fewer_collections


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(("before", "within"), [(700, 50_000), (80_000, 80_000), (0, 0)])
def test_the_threshold_is_raised_and_put_back(before: int, within: int) -> None:
    gc.set_threshold(before, 10, 10)
    with pytest.raises(ValueError, match="a stage"), fewer_collections():  # noqa: PT012
        with fewer_collections():
            assert gc.get_threshold() == (within, 10, 10)
        assert gc.get_threshold() == (within, 10, 10)
        raise ValueError("a stage failed")
    assert gc.get_threshold() == (before, 10, 10)
