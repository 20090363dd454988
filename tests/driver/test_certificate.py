"""`Certificate`: its text, and that it survives a saved report."""

from __future__ import annotations

import dataclasses
import math

import pytest

from recfx.driver.certificate import Certificate, Choice, Trial
from recfx.formats import strict_json
from recfx.formats.records import decode

MET = Certificate(
    metric="AUC",
    max_drop=1e-3,
    confidence=0.95,
    before=0.76,
    after=0.7595,
    interval=(0.0002, 0.0009),
    met=True,
    rows=(6857, 6858),
    data="9db2123b64e17258",
    evaluations=9,
    choices=(
        Choice("tables.0.weight", "table", "8 bits", "4 bits", "trial 1 has it, and a drop of +0.001900", 2e-3),
        Choice("top.0.weight", "layer", "8 bits", harm=1e-5),
    ),
    trials=(Trial(0, 0.0019, 0.0025, False, 1.2), Trial(1, 0.0005, 0.0009, True, 1.1)),
    bytes=(1_000_000, 150_000),
    notices=("two evaluations of your model differ by 1e-09",),
)


def test_the_text_says_all() -> None:
    text = str(MET)
    for part in (
        "budget of 0.001 AUC met: drop +0.000500 (0.95 interval +0.000200 to +0.000900)",
        "0.150 ×), 9 evaluations",
        "choices on 6,857 rows, certificate on 6,858 others (data 9db2123b64e17258)",
        "4 bits: trial 1 has it, and a drop of +0.001900",
        "trial 1: 0 steps reverted, drop +0.001900, at most about +0.002500: over",
        "trial 2: 1 step reverted, drop +0.000500, at most about +0.000900: inside",
        "note: two evaluations of your model differ by 1e-09",
    ):
        assert part in text


def test_the_text_counts_all_groups_and_lists_changed_ones_first() -> None:
    rows = tuple(Choice(f"rows of {n}", "rows", "unchanged", harm=1.0) for n in range(60))
    long = Choice("rows of t", "rows", "rows read < 8 times share one, 4 bits", harm=1e-9)
    lines = str(dataclasses.replace(MET, choices=(*rows, long, *MET.choices))).splitlines()
    assert "  rows: 60 × unchanged, 1 × rows read < 8 times share one, 4 bits" in lines
    assert "  table: 1 × 8 bits" in lines
    head = next(place for place, line in enumerate(lines) if line.startswith("  group "))
    assert [line.split("  ")[1].strip() for line in lines[head + 1 : head + 4]] == [
        "rows of t",
        "tables.0.weight",
        "top.0.weight",
    ]
    assert len({line.index(mark) for line, mark in ((lines[head], "    harm"), (lines[head + 1], " 1.0e-09"))}) == 1
    assert "  and 23 more" in lines


def test_a_budget_that_is_not_met_says_so() -> None:
    assert dataclasses.replace(MET, met=False).summary().startswith("budget of 0.001 AUC not met: drop +0.000500")
    assert "no interval" in dataclasses.replace(MET, interval=None).summary()
    assert "no group of this model can be compressed" in str(dataclasses.replace(MET, choices=()))


def test_long_tables_are_cut() -> None:
    text = str(dataclasses.replace(MET, choices=MET.choices * 30, trials=MET.trials * 30))
    assert text.count("and 20 more") == 2


@pytest.mark.parametrize(
    "certificate", [MET, dataclasses.replace(MET, interval=None, rows=None, data=None, after=math.nan)]
)
def test_it_survives_json(certificate: Certificate) -> None:
    held = strict_json.parse(strict_json.dump(dataclasses.asdict(certificate)), "test")
    assert repr(decode(Certificate, held, "test")) == repr(certificate)
