"""The collector of reference cycles while a model is compiled."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from recfx.fewer_collections import fewer_collections


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.set_threshold(*before)
    if frozen:
        gc.freeze()


@pytest.mark.parametrize(("before", "within"), [(700, 1_000_000), (1_800_000, 1_800_000), (0, 0)])
def test_the_threshold_is_raised_and_put_back(before: int, within: int) -> None:
    gc.set_threshold(before, 10, 10)
    with pytest.raises(ValueError, match="a stage"), fewer_collections():  # noqa: PT012
        with fewer_collections():
            assert gc.get_threshold() == (within, 10, 10)
        assert gc.get_threshold() == (within, 10, 10)
        raise ValueError("a stage failed")
    assert gc.get_threshold() == (before, 10, 10)


@pytest.mark.parametrize("imports", [False, True])
def test_only_imported_modules_count_as_old_objects(imports: bool) -> None:
    gc.set_threshold(0, 10, 10)
    with fewer_collections(imports=imports):
        made = [[1]]
    assert any(item is made for item in gc.get_objects(0)) != imports
    assert not gc.get_freeze_count()


def test_objects_that_the_user_froze_stay_frozen() -> None:
    frozen = [[1]]
    gc.freeze()
    with fewer_collections(imports=True):
        made = [[1]]
    listed = gc.get_objects()
    assert any(item is made for item in listed)
    assert not any(item is frozen for item in listed)
