"""Captured programs that several files look at and none changes."""

from __future__ import annotations

import pytest
from program_cases import nested_program, tiny_program

from recfx.ir import Program


@pytest.fixture(scope="module")
def tiny() -> Program:
    return tiny_program()


@pytest.fixture(scope="module")
def nested() -> Program:
    return nested_program()
