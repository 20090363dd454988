"""Graph modules whose Python code is generated at their first call.

`torch.export` generates and compiles the code of the whole graph after each of its passes, and nobody calls these graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx.graph import _PyTreeCodeGen


def recompile_later(own: Callable[..., Any], module: Any) -> None:
    """Makes the first call of a graph module generate its code, in place of generating it now.

    Args:
        own: Generates the code.
        module: The graph module.
    """
    kind = type(module)
    if isinstance(module._graph._codegen, _PyTreeCodeGen):  # callers read these at once
        module._in_spec = module._graph._codegen.pytree_info.in_spec
        module._out_spec = module._graph._codegen.pytree_info.out_spec

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        own(self)
        return kind.forward(self, *args, **kwargs)

    kind.forward = forward
