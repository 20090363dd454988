"""`Budget`: which values it takes."""

from __future__ import annotations

import math
from typing import Any

import pytest

import recfx
from recfx.errors import InputError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_drop": -1e-3}, "max_drop=-0.001"),
        ({"max_drop": math.nan}, "max_drop=nan"),
        ({"max_drop": math.inf}, "max_drop=inf"),
        ({"max_drop": 1e-3, "confidence": 0.0}, "confidence=0.0"),
        ({"max_drop": 1e-3, "confidence": 1.0}, "confidence=1.0"),
        ({"max_drop": 1e-3, "confidence": 95}, "confidence=95"),
        ({"max_drop": 1e-3, "confidence": math.nan}, "confidence=nan"),
        ({"max_drop": 1e-3, "evaluations": 4}, "evaluations=4"),
        ({"max_drop": 1e-3, "prefer": "memory"}, "prefer='memory'"),
        ({"max_drop": 1e-3, "kinds": ()}, r"kinds=\(\)"),
        ({"max_drop": 1e-3, "kinds": ("tables", "heads")}, "kinds=.*heads"),
        ({"max_drop": 1e-3, "kinds": ("ranks",)}, "kinds=.*ranks"),
    ],
)
def test_values_out_of_range_are_errors(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        recfx.Budget(**options)
    assert caught.value.hint


def test_a_budget_of_nothing_is_one() -> None:
    assert recfx.Budget(0.0) == recfx.Budget(0, confidence=0.95)
