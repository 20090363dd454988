"""The user's module and source line of a node."""

from __future__ import annotations

import re

from torch import fx


def module_path(node: fx.Node) -> str:
    """The path of the user's module that a node comes from (`bottom.0`), or "" for the top level."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(next(reversed(stack.values()))[0])
    if path.startswith("_empty_nn_module_stack"):
        return ""
    return path.removeprefix("L['self']").removeprefix(".")


#: Files of torch's tracers, which a node's stack trace may contain.
_OF_TRACING = re.compile(r'["/]torch/(fx|export|_\w+)/')


def user_line(node: fx.Node) -> str | None:
    """The last line of the user's source in a node's stack trace, as `file:line: code`; None when it is unknown."""
    trace = node.meta.get("stack_trace")
    if not trace:
        return None
    lines = [line.strip() for line in str(trace).strip().splitlines()]
    frames = [i for i, line in enumerate(lines) if line.startswith("File ") and not _OF_TRACING.search(line)]
    if not frames:
        return None
    last = frames[-1]
    code = lines[last + 1] if last + 1 < len(lines) else ""
    return f"{lines[last].removeprefix('File ')}: {code}"


def where(node: fx.Node) -> str:
    """A description of a node for messages: its name, operator, module path and source line."""
    parts = [f"{node.name} = {node.target}"]
    if path := module_path(node):
        parts.append(f"in module {path!r}")
    if line := user_line(node):
        parts.append(f"at {line}")
    return " ".join(parts)
