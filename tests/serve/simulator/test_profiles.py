"""Profiles of compiled models as input of the simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recfx.cost.profile import Profile, ProfilePoint
from recfx.errors import InputError, MeasureError
from recfx.serve.simulator import read_profile, times_of

PROFILE = Profile(
    "DLRM",
    "a cpu",
    tuple(ProfilePoint(threads, rows, rows / threads * 1e-5) for threads in (1, 2) for rows in (1, 64, 256)),
)


def test_the_times_of_a_file_are_those_of_one_core(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(PROFILE.to_json()))
    times = read_profile(path)
    for rows in (1, 10, 64, 100, 256, 1000):
        assert times.seconds(rows) == pytest.approx(PROFILE.seconds(rows, threads=1))


def test_without_one_thread_the_fewest_count() -> None:
    points = tuple(point for point in PROFILE.points if point.threads == 2)
    assert times_of(Profile("m", "c", points).to_json()).seconds(64) == PROFILE.seconds(64, threads=2)


@pytest.mark.parametrize(
    "values",
    [
        {},
        [],
        None,
        {"format": 99, "points": []},
        {"format": 1},
        {"format": 1, "points": []},
        {"format": 1, "points": [{"threads": 1, "rows": 1}]},
        {"format": 1, "points": [{"threads": 1, "rows": 0, "seconds": 1.0}]},
        {"format": 1, "points": [{"threads": 1, "rows": 1, "seconds": -1.0}]},
        {"format": 1, "points": [{"threads": 1, "rows": 1, "seconds": "fast"}]},
        {"format": 1, "points": 3},
    ],
)
def test_values_that_are_not_a_profile(values: Any, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="not a profile"):
        times_of(values)
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(values))
    with pytest.raises(MeasureError) as caught:
        read_profile(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("text", ["", "{", "[NaN]", "[" * 100_000])
def test_files_that_are_not_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not JSON"):
        read_profile(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_profile(tmp_path / "nothing.json")
    (tmp_path / "latin").write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="not JSON"):
        read_profile(tmp_path / "latin")
