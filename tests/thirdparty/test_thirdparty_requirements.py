"""The packages of the third-party test stay out of the wheel and leave the tested versions alone."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]


#: Extras whose tests are slow and run with the packages of other libraries.
TESTED_HERE = ("ray",)


def names(file: str) -> set[str]:
    """Normalised names of the packages that a requirements file mentions."""
    lines = (ROOT / file).read_text().splitlines()
    found = [re.split(r"[=<>!~\[; ]", line)[0] for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def test_thirdparty_packages_change_no_tested_version() -> None:
    assert names("requirements-thirdparty.txt").isdisjoint(names("constraints.txt"))


def test_every_thirdparty_package_is_pinned() -> None:
    assert names("requirements-thirdparty.txt") == names("constraints-thirdparty.txt")
    pins = (ROOT / "constraints-thirdparty.txt").read_text().splitlines()
    assert all("==" in line for line in pins if line and not line.startswith("#"))


def test_wheel_asks_for_none_of_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: asked for name, asked in project["optional-dependencies"].items() if name not in TESTED_HERE}
    assert not any(f"[{name}" in asked or f",{name}" in asked for name in TESTED_HERE for asked in extras["dev"])
    asked = [*project["dependencies"], *chain.from_iterable(extras.values())]
    wanted = {re.sub(r"[-_.]+", "-", re.split(r"[=<>!~\[; ]", line)[0]).lower() for line in asked}
    assert {"torch", "numpy"} <= wanted
    assert wanted.isdisjoint(names("requirements-thirdparty.txt"))
