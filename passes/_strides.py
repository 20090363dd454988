"""Views behind operators whose strides a pass changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from recfx.ir.op_sets import ALIASES

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)


def relax_views(nodes: Sequence[fx.Node]) -> None:
    """Turns every `view` of these nodes, and of their aliases, into a `reshape`, which copies where the strides require it.

    Args:
        nodes: Nodes whose strides are about to change.
    """
    seen, pending = set(nodes), list(nodes)
    while pending:
        for user in pending.pop().users:
            if user in seen or user.target not in ALIASES:
                continue
            if user.target in _VIEWS:
                user.target = _aten.reshape.default
            seen.add(user)
            pending.append(user)
