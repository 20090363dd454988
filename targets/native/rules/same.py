"""Operators that share the rule of another operator. The shape and dtype of the result tell them apart."""

from __future__ import annotations

import torch

from recfx.targets.native.rules import concatenate, integer, view
from recfx.targets.native.rules.registry import RULES

#: The modules that register the shared rules.
_SOURCES = (concatenate, integer, view)

_aten = torch.ops.aten

for _target, _like in {
    _aten.view_as.default: _aten.view.default,
    _aten.reshape_as.default: _aten.view.default,
    _aten.type_as.default: _aten.to.dtype,
    _aten.to.other: _aten.to.dtype,
    _aten.to.device: _aten.to.dtype,
    _aten.numpy_T.default: _aten.t.default,
    _aten.broadcast_to.default: _aten.expand.default,
    _aten.positive.default: _aten.alias.default,
    _aten.concat.default: _aten.cat.default,
    _aten.concatenate.default: _aten.cat.default,
}.items():
    RULES[_target] = RULES[_like]
