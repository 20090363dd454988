"""Every step of random graphs adds all entries of its table: each operator, and each argument in each of its forms."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from step_kit import TABLE, facts_of, pool_of

import recfx.passes  # noqa: F401 - registers the built-in passes
from recfx.pipeline import Pipeline
from recfx.testing.steps import STEPS

EXPECTED: dict[str, dict[str, list[str]]] = json.loads(TABLE.read_text())

#: Step -> the pass that looks for its operators, and the least number of graphs in ten on which it fires.
LOOKED_FOR = {
    "dot": ("fuse-dot-interaction", 10),
    "factorization-machine": ("fuse-fm", 10),
    "cross": ("fuse-cross", 2),
    "gate": ("fuse-parallel-linears", 10),
    "repeat": ("merge-duplicates", 1),
    "no-op": ("canonicalize", 7),
    "pooled": ("form-bags", 10),
    "masked-pool": ("form-bags", 10),
    "scaled-lookup": ("fold-linear-into-table,fold-affine", 4),
    "embedding-bag": ("fuse-lookups", 6),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_step_adds_every_form_of_its_operators(name: str) -> None:
    assert facts_of(name) == EXPECTED[name]


def test_the_table_names_steps_that_exist() -> None:
    assert set(EXPECTED) <= set(STEPS)
    assert len(EXPECTED) >= 70


@pytest.mark.parametrize("name", LOOKED_FOR)
def test_patterns_are_those_that_passes_look_for(name: str) -> None:
    item, least = LOOKED_FOR[name]
    fired: list[bool] = []

    @settings(
        max_examples=10, database=None, derandomize=True, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def look(data: st.DataObject) -> None:
        pool = pool_of()
        before = len(pool.made)
        STEPS[name](pool, data.draw)
        records = Pipeline(item).run(pool.builder.build(*pool.made[before:])).records
        fired.append(any(record.fired for record in records))

    look()
    assert sum(fired) >= min(least, len(fired))
