"""Records of simulated requests."""

from __future__ import annotations

from array import array

import numpy as np

from recfx.serve.simulator.records import Outcome, Records


def test_records_begin_open_and_end_once() -> None:
    records = Records()
    assert [records.begin(0.0, 5), records.begin(0.5, 7)] == [0, 1]
    records.end(1, Outcome.ANSWERED, 0.25, 2)
    assert records.outcome == array("b", [Outcome.OPEN, Outcome.ANSWERED])
    assert records.column("seconds").tolist() == [0.0, 0.25]
    assert records.column("variant").tolist() == [-1, 2]
    assert Records().column("sent").shape == np.empty(0).shape
