"""What properties of programs mean: each has a check, so that a pass that establishes one can be held to it."""

from __future__ import annotations

from collections.abc import Callable

from recfx.errors import PipelineError
from recfx.ir.functional_ops import is_inplace
from recfx.ir.program import Program

Check = Callable[[Program], "str | None"]

_CHECKS: dict[str, Check] = {}
_DEFAULTS: dict[str, Check] = {}


def property_check(name: str) -> Callable[[Check], Check]:
    """Declares what a property means: a function that gives the reason why a program does not have it, or None.

    Raises:
        PipelineError: The property has another check already.
    """

    def declare(check: Check) -> Check:
        if _CHECKS.get(name, check) is not check:
            raise PipelineError(f"the property {name!r} has a check already", where=_CHECKS[name].__module__)
        _CHECKS[name] = check
        return check

    return declare


def default_check(name: str, check: Check) -> None:
    """What a property means as long as nothing else is declared; the first default stays."""
    _DEFAULTS.setdefault(name, check)


def why_not(program: Program, name: str) -> str | None:
    """Why a program does not have a property; None when it has it.

    Raises:
        PipelineError: Nothing says what the property means.
    """
    check = _CHECKS.get(name, _DEFAULTS.get(name))
    if check is None:
        raise PipelineError(
            f"nothing says what {name!r} means", hint=f"declare it with @recfx.pipeline.property_check({name!r})"
        )
    return check(program)


@property_check("functional")
def _functional(program: Program) -> str | None:
    writer = next((node for node in program.graph.nodes if is_inplace(node)), None)
    return None if writer is None else f"{writer} writes in place"
