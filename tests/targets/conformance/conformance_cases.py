"""Calls of every ATen operator that the models of the zoo and of other libraries are made of. Cases of the dialect: `dialect_cases`.

A backend may refuse an operator, or this form of it, with a reason. If it supports it, it computes the same as torch.
"""

from __future__ import annotations

import cases_elementwise  # noqa: F401 - enters its cases, like the next five
import cases_pairs  # noqa: F401
import cases_reads  # noqa: F401
import cases_shapes  # noqa: F401
import cases_sums  # noqa: F401
import cases_with_booleans  # noqa: F401
from conformance_operands import CASES

__all__ = ["CASES"]
