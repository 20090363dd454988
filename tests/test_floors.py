"""The smallest versions of `make floors` are those that pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_floors_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    least = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(allowed), flags=re.MULTILINE))
    floors = dict(
        re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-floors.txt").read_text(), flags=re.MULTILINE)
    )
    for name, version in floors.items():
        assert [*map(int, version.split("."))][: least[name].count(".") + 1] == [*map(int, least[name].split("."))], (
            name
        )
        assert not version.replace(least[name], "", 1).strip(".0"), f"{name} {version} is above {least[name]}"
    needed = {re.split(r"[<>=]", d)[0] for d in project["dependencies"]} - {"torch"}
    assert needed <= floors.keys()


def test_the_default_torch_is_the_one_that_was_tested() -> None:
    pinned = re.search(r"^torch==([\d.]+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    default = re.search(r"^TORCH\s+\?= ([\d.]+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert pinned is not None
    assert default is not None
    assert pinned[1] == default[1]
