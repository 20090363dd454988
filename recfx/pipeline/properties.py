"""Checks of program properties, with which the passes that establish a property are tested."""

from __future__ import annotations

from collections.abc import Callable

from recfx.errors import PipelineError
from recfx.ir.functional_ops import is_inplace
from recfx.ir.program import Program
from recfx.ir.verify import Level
from recfx.pipeline.pipeline import run_pass
from recfx.pipeline.registry import registered

Check = Callable[[Program], "str | None"]

_CHECKS: dict[str, Check] = {}


def property_check(name: str) -> Callable[[Check], Check]:
    """Declares the check of a property: a function that returns the reason why a program does not have the property, or None.

    Args:
        name: The property, as in `PassSpec.establishes`.

    Raises:
        PipelineError: The property has another check already.
    """

    def declare(check: Check) -> Check:
        if _CHECKS.get(name, check) is not check:
            raise PipelineError(
                f"the property {name!r} has a check already",
                where=_CHECKS[name].__module__,
                hint="use another name, or remove one of the checks",
            )
        _CHECKS[name] = check
        return check

    return declare


def why_not(program: Program, name: str) -> str | None:
    """Why a program does not have a property; None if it does.

    Raises:
        PipelineError: The property has no check.
    """
    check = _CHECKS.get(name) or _left_alone(name)
    if check is None:
        raise PipelineError(
            f"the property {name!r} has no check", hint=f"declare one with @recfx.pipeline.property_check({name!r})"
        )
    return check(program)


def _left_alone(name: str) -> Check | None:
    """The default check of a property: the pass that establishes it finds nothing more to rewrite."""
    makers = [cls for cls in registered().values() if name in cls.spec.establishes and not cls.spec.needs]
    if not makers:
        return None

    def check(program: Program) -> str | None:
        _, record = run_pass(makers[0](), program, verify=Level.OFF)
        return f"{makers[0].spec.name} would still rewrite it {record.fired} time(s)" if record.fired else None

    return check


@property_check("functional")
def _functional(program: Program) -> str | None:
    writer = next((node for node in program.graph.nodes if is_inplace(node)), None)
    return None if writer is None else f"{writer} writes in place"
