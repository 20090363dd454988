"""Properties of programs that several passes name. `docs/passes.md` describes them.

A pass forbids a property if it must not run after the passes that establish it: requests are hoisted before operators are batched, and
new weights are computed before weights are quantised. It avoids a property with which it works but finds fewer rewrites.
"""

from __future__ import annotations

#: Weights in fewer bits. Passes that compute new weights from old ones run before.
QUANTISED = frozenset({"tables-quantised", "linears-quantised", "scores-quantised"})

#: Operators over several inputs are joined, so that values of the request and of the candidates are no longer separate.
BATCHED = frozenset({"linears-joined", "lookups-fused", "linears-fused"})

CANONICAL = frozenset({"canonical"})
