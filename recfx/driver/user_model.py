"""The user's own model, called with the flat inputs of a compiled one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from recfx.capture.requests import user_leaves
from recfx.driver.parts import Parts
from recfx.ir.program import Origin


def bind_user_model(parts: Parts, model: torch.nn.Module) -> Callable[..., list[Any]]:
    """The user's model as a function from flat inputs to flat outputs, without gradients."""

    def run(*leaves: Any) -> list[Any]:
        positional, keyword = as_user(parts, leaves)
        with torch.no_grad():
            return pytree.tree_leaves(model(*positional, **keyword))

    return run


def eager_call(model: torch.nn.Module, positional: tuple[Any, ...], keyword: dict[str, Any]) -> Callable[[], Any]:
    """The user's model as a careful user would serve it: in inference mode."""

    def run() -> Any:
        with torch.inference_mode():
            return model(*positional, **keyword)

    return run


def refusal(call: Callable[[], Any]) -> str | None:
    """Why the user's model fails on some inputs, in one line; None when it takes them."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - a model may refuse made-up inputs for any reason, which the notice gives
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text[:120]}{' …' if len(text) > 120 else ''}"
    return None


def as_user(parts: Parts, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Flat inputs as arguments of the user's model, request rows repeated for the candidates."""
    own = user_leaves(parts.program, leaves)
    positional, keyword = parts.program.signature.unpacked([*own, *leaves[len(own) :]])
    added = [name for name, origin in parts.program.origins.items() if origin is Origin.INDEX]
    return positional, {name: value for name, value in keyword.items() if name not in added}
