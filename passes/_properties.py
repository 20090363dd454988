"""Properties of programs that several passes name. `docs/passes.md` says what each means.

A pass forbids a property where running behind what establishes it is a mistake: requests are hoisted before anything is batched, and new
weights are computed before weights are quantised. It avoids one where it still works but finds less.
"""

from __future__ import annotations

#: Weights in fewer bits: what computes new weights from old ones comes before.
QUANTISED = frozenset({"tables-quantised", "linears-quantised", "scores-quantised"})

#: Operators of several inputs joined: values of the request and of the candidates would no longer be apart.
BATCHED = frozenset({"linears-joined", "lookups-fused", "linears-fused"})

CANONICAL = frozenset({"canonical"})
