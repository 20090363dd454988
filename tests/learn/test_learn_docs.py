"""The statements of docs/learn.md are true."""

from __future__ import annotations

import re
from pathlib import Path

from recfx.learn import BOUNDS, ESTIMATORS, QuantizedTable, TrainReport
from recfx.learn.post_training import METHODS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "learn.md").read_text()


def test_the_example_works() -> None:
    names: dict[str, object] = {"print": lambda *args: None}
    exec("\n".join(re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)), names)
    report, items = names["report"], names["items"]
    assert isinstance(report, TrainReport)
    assert report.best_scores is not None
    assert report.best_scores["recall@50"] > 0.45
    assert isinstance(items, QuantizedTable)
    assert items.packed_bytes() == 200 * (2 + 4)


def test_every_choice_is_documented() -> None:
    for name in (*ESTIMATORS, *BOUNDS, *METHODS):
        assert f"`{name}`" in DOCUMENT, name
