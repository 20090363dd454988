"""The declaration of a pass (`PassSpec`), and the reason a rule gives for not firing (`Miss`)."""

from __future__ import annotations

import dataclasses
import re

from torch import fx

from recfx.errors import PipelineError
from recfx.ir.numeric import Exactness

#: Name of the data that passes may need in addition to the program -> how to give it.
NEEDED = {
    "catalogue": "pass constant_inputs= and catalogue=True to optimize",
    **{name: f"pass resources={{{name!r}: ...}} to Pipeline.run" for name in ("examples", "labels", "fine-tuning")},
    "calibration": "pass calibration= to optimize, or resources={'calibration': ...} to Pipeline.run",
    "traffic": "pass calibration= to optimize as a list or a DataLoader, or resources={'traffic': ...} to Pipeline.run",
}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class PassSpec:
    """The declaration of a pass.

    Attributes:
        name: Kebab-case, verb first: "fold-batchnorm".
        summary: One sentence.
        exactness: EXACT keeps every bit, REASSOC reorders sums, APPROX changes the function.
        requires: Properties the program must have.
        prefers: Properties without which the pass finds fewer rewrites. A miss names each of them that the program lacks.
        avoids: Properties with which the pass finds fewer rewrites. A miss names each of them that the program has.
        forbids: Properties the program must not have.
        establishes: Properties the program has afterwards.
        invalidates: Properties the program may lose.
        preserves: Names of analyses that stay valid although the pass rewrites.
        needs: Data it needs in addition to the program: "examples", "calibration" (some hundred rows), "traffic" (all rows that there are),
            "catalogue", "labels", "fine-tuning".
        changes_state: Whether it changes, adds or removes parameters.
        idempotent: Whether a second run changes nothing.
        mandatory: Whether a bisection must allow all its rewrites.

    Raises:
        PipelineError: The name is not in kebab-case, or `needs` holds an unknown name.
    """

    name: str
    summary: str
    exactness: Exactness = Exactness.EXACT
    requires: frozenset[str] = frozenset({"functional"})
    prefers: frozenset[str] = frozenset()
    avoids: frozenset[str] = frozenset()
    forbids: frozenset[str] = frozenset()
    establishes: frozenset[str] = frozenset()
    invalidates: frozenset[str] = frozenset()
    preserves: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    changes_state: bool = False
    idempotent: bool = True
    mandatory: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise PipelineError(
                f"{self.name!r} is not the name of a pass", hint="write it in kebab-case: 'fuse-lookups'"
            )
        for field in ("requires", "prefers", "avoids", "forbids", "establishes", "invalidates", "preserves", "needs"):
            object.__setattr__(self, field, frozenset(getattr(self, field)))
        if unknown := self.needs - NEEDED.keys():
            raise PipelineError(f"unknown needs {sorted(unknown)}", where=self.name, hint=f"known: {sorted(NEEDED)}")


#: The reason of a miss where a rule or a pass would compare a data-dependent size.
DATA_DEPENDENT = "a size depends on the inputs' values"


@dataclasses.dataclass(frozen=True)
class Miss:
    """Why a rule did not fire at a node it looked at.

    Attributes:
        reason: In words, for `recfx.explain`.
        node: The node that prevents the rewrite; None for the node that the rule looked at.
    """

    reason: str
    node: fx.Node | None = None
