"""Packs: the operators that a loop runs once in every round, found from their results towards their operands.

A pack holds one operator of each round, in the order of the rounds. Its operands are packs again, as long as the rounds run the same
operator there; otherwise they are parts of tensors, which are gathered. An operator is in one pack at most, so that the search visits it
once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recfx.ir.op_sets import MATRIX_PRODUCTS
from recfx.ir.sizes import same_size
from recfx.passes.interaction.round_forms import Form, form_of
from recfx.passes.interaction.row_parts import RowPart, row_part
from recfx.pipeline import Miss, PassContext

_aten = torch.ops.aten

#: Longer chains end in a gather.
_DEEPEST = 64


@dataclasses.dataclass(frozen=True)
class Common:
    """An operand that all rounds have in common: a value [B, ...], a constant, or a number."""

    operand: Any


@dataclasses.dataclass(frozen=True)
class Constants:
    """A constant or a number for each round."""

    operands: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Fields:
    """A part of rows for each round.

    Attributes:
        parts: The parts.
        sizes: The sizes of a part behind the batch.
    """

    parts: tuple[RowPart, ...]
    sizes: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Pack:
    """One operator of each round.

    Attributes:
        members: The operators.
        form: The form of the first one.
        operands: What they read.
    """

    members: tuple[fx.Node, ...]
    form: Form
    operands: tuple[Operand, ...]


Operand = Common | Constants | Fields | Pack


class Packer:
    """Finds the packs behind the results of a loop. It changes nothing.

    Args:
        ctx: The pass context.
        user: The join or the sum that reads the results.
        inside: Further operators that are replaced together with `user`.
    """

    def __init__(self, ctx: PassContext, user: fx.Node, inside: Sequence[fx.Node] = ()) -> None:
        self._ctx, self._user = ctx, user
        self._inside = {user, *inside}
        self._packs: dict[tuple[fx.Node, ...], Pack] = {}
        self._place: dict[fx.Node, tuple[Pack, int]] = {}
        self._sources: list[fx.Node] = []

    def pack(self, members: Sequence[fx.Node]) -> Pack | None:
        """The pack of the results of all rounds; None if the rounds differ there."""
        return self._pack(tuple(members), _DEEPEST)

    @property
    def packs(self) -> list[Pack]:
        """All packs, operands first."""
        return list(self._packs.values())

    def place(self, member: fx.Node) -> tuple[Pack, int]:
        """The pack of a member, and the number of its round."""
        return self._place[member]

    def readers(self) -> dict[fx.Node, list[fx.Node]]:
        """Member -> the operators that read it and that are neither members nor going to be replaced."""
        found: dict[fx.Node, list[fx.Node]] = {}
        for member in self._place:
            readers = [user for user in member.users if user not in self._place and user not in self._inside]
            if readers:
                found[member] = readers
        return found

    def anchor(self) -> fx.Node | Miss:
        """The operator in front of which the packs can be computed.

        Everything that reads a member stands behind it, everything that a pack reads in front of it. So no operand of a pack depends on a
        member: on a path from a member to an operand, the first operator outside the packs would stand behind the anchor.
        """
        readers = [reader for readers in self.readers().values() for reader in readers]
        first = min([self._user, *readers])
        for source in self._sources:
            if source in self._place:
                return Miss("one round reads what another one computes", source)
            if not source < first:
                return Miss("an operand of a later round is computed from what an earlier round gives", source)
        return first

    def _rows(self, members: tuple[fx.Node, ...], depth: int) -> Pack | Fields:
        """The pack of some values, or their parts of rows."""
        made = self._pack(members, depth)
        if made is not None:
            return made
        parts = tuple(part for part in self._parts(members) if part is not None)
        self._sources += dict.fromkeys(part.base for part in parts)
        return Fields(parts, tuple(members[0].meta["val"].shape[1:]))

    def _pack(self, members: tuple[fx.Node, ...], depth: int) -> Pack | None:
        """The pack of some values; None if the rounds compute them in different ways, or if they are parts of a few tensors."""
        if members in self._packs:
            return self._packs[members]
        form = form_of(self._ctx, members[0])
        alone = len(set(members)) == len(members) and not any(member in self._place for member in members)
        if form is None or not depth or not alone or _few_bases(self._parts(members)):
            return None
        forms = self._forms(members, form)
        operands = None if forms is None else self._operands(members[0], forms, depth)
        if operands is None:
            return None
        made = self._packs[members] = Pack(members, form, operands)
        self._place.update({member: (made, number) for number, member in enumerate(members)})
        return made

    def _parts(self, members: Sequence[fx.Node]) -> list[RowPart | None]:
        return [row_part(self._ctx, member) for member in members]

    def _forms(self, members: tuple[fx.Node, ...], first: Form) -> list[Form] | None:
        """The forms of all members, if they are alike."""
        forms, size = [first], members[0].meta["val"].shape[0]
        for member in members[1:]:
            form = form_of(self._ctx, member)
            if form is None or form.key != first.key or not same_size(member.meta["val"].shape[0], size):
                return None
            forms.append(form)
        return forms

    def _operands(self, result: fx.Node, forms: Sequence[Form], depth: int) -> tuple[Operand, ...] | None:
        """The operands of members, each for all rounds; None if they cannot be joined, or if all are the same."""
        given = list(zip(*(form.operands for form in forms), strict=True))
        known = [self._known(result, operands) for operands in given]
        if False in known or all(isinstance(operand, Common) for operand in known):
            return None
        self._sources += [x.operand for x in known if isinstance(x, Common) and self._varies(x.operand)]
        pairs = zip(known, given, strict=True)
        return tuple(operand or self._rows(operands, depth - 1) for operand, operands in pairs)

    def _known(self, result: fx.Node, given: tuple[Any, ...]) -> Any:
        """What all rounds have in common, or constants of the rounds; None for values of the rounds; False for what cannot be joined."""
        first = given[0]
        if self._varies(first):
            return Common(first) if all(other is first for other in given) else None
        if all(self._same_constant(other, first) for other in given):
            return Common(first)
        floats = result.meta["val"].dtype in (torch.float32, torch.float64)
        return floats and Constants(given)

    def _varies(self, operand: Any) -> bool:
        """Whether an operand is neither a constant nor a number."""
        return isinstance(operand, fx.Node) and self._ctx.tensor(operand) is None

    def _same_constant(self, a: Any, b: Any) -> bool:
        if isinstance(a, fx.Node) and isinstance(b, fx.Node):
            return self._ctx.tensor(a) is self._ctx.tensor(b)
        return type(a) is type(b) and a == b


def _few_bases(parts: Sequence[RowPart | None]) -> bool:
    """Whether values are parts of tensors that several of them are parts of."""
    bases = {None if part is None else part.base for part in parts}
    return 2 * len(bases) <= len(parts)


def reads_own_products(pack: Pack) -> bool:
    """Whether a pack reads products of matrices that are not in a pack, each by one round."""
    for operand in pack.operands:
        if isinstance(operand, Fields) and len({part.base for part in operand.parts}) == len(operand.parts):
            targets = {part.base.target for part in operand.parts}
            if targets & {_aten.linear.default, _aten.bilinear.default, *MATRIX_PRODUCTS}:
                return True
    return False


def joined_tensors(pack: Pack) -> int:
    """The number of tensors that are joined, and so copied, to compute a pack."""
    fields = [operand for operand in pack.operands if isinstance(operand, Fields)]
    bases = [len({part.base for part in field.parts}) for field in fields]
    return sum(count for count in bases if count > 1)
