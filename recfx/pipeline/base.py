"""`Pass`: the base class of all passes, and how a pass is written as text."""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from recfx.ir.program import Program
from recfx.pipeline.context import PassContext
from recfx.pipeline.spec import PassSpec

#: Option values that need no quotes in the text of a pipeline.
BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

#: Words that are values; Python prints infinity and NaN like this.
NAMED_VALUES = {"true": True, "false": False, "none": None, "inf": math.inf, "nan": math.nan}


@dataclasses.dataclass(frozen=True)
class Pass(ABC):
    """The base class of passes: one kind of change to a program, with its declaration.

    Subclass it with a class attribute `spec` and a method `run`. A pass with options is a frozen dataclass whose fields are
    the options:

        @dataclass(frozen=True)
        class PruneChannels(recfx.Pass):
            spec = recfx.PassSpec("prune-channels", "Removes weak channels.", exactness=recfx.Exactness.APPROX)
            ratio: float = 0.5

            def run(self, program, ctx): ...
    """

    spec: ClassVar[PassSpec]

    @abstractmethod
    def run(self, program: Program, ctx: PassContext) -> None:
        """Edits the program's graph in place, asking `ctx.gate` before each rewrite.

        Args:
            program: The program to change. The pass must not write to its existing tensors.
            ctx: The gate, the insertion of nodes and state, and the list of misses.
        """

    def options(self) -> dict[str, Any]:
        """Option name -> value, in the order of declaration."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    def __str__(self) -> str:
        """The pass as text, naming the options that differ from their defaults."""
        options = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            default = field.default if field.default is not dataclasses.MISSING else _factory(field)
            if value != default:
                options.append(f"{field.name}={_print_value(value)}")
        return self.spec.name + (f"{{{', '.join(options)}}}" if options else "")


def _factory(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING


def _print_value(value: Any) -> str:
    if isinstance(value, str) and BARE_WORD.fullmatch(value) and value not in (*NAMED_VALUES, "True", "False", "None"):
        return value
    return repr(value)
