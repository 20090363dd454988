"""Which programs can be trained."""

from __future__ import annotations

from recfx.errors import InputError
from recfx.ir.program import Program

#: Properties of programs whose weights are stored in fewer bits, which have no gradient.
_QUANTISED = ("tables-quantised", "linears-quantised", "scores-quantised")


def trainable(program: Program) -> Program:
    """The program.

    Raises:
        InputError: Its weights are stored in fewer bits.
    """
    quantised = [name for name in _QUANTISED if name in program.properties]
    if quantised:
        raise InputError(
            f"the program is {', '.join(quantised)}: weights of few bits have no gradient",
            where="finetune",
            hint="fine-tune before the passes that quantise, and optimize the trained module with precision= afterwards",
        )
    return program
