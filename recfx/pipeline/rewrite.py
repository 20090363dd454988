"""`@recfx.rewrite`: makes a pass from a function of one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import fx

from recfx.errors import PassError, PipelineError
from recfx.ir.numeric import Exactness
from recfx.ir.program import Program
from recfx.ir.provenance import where
from recfx.ir.sizes import asks_for_data
from recfx.pipeline.base import Pass
from recfx.pipeline.context import PassContext
from recfx.pipeline.registry import register
from recfx.pipeline.spec import DATA_DEPENDENT, Miss, PassSpec

Rule = Callable[[fx.Node, PassContext], "fx.Node | Miss | None"]


def rewrite(
    *targets: Any, name: str | None = None, exactness: Exactness = Exactness.EXACT, **spec: Any
) -> Callable[[Rule], Pass]:
    """Makes a pass from a function that looks at one operator and returns its replacement.

    The function gets the node and the context. It returns the node to use instead (an existing node, or a node inserted with `ctx.call`,
    which inserts before the operator), or `Miss("reason")`, or None if the rule does not apply. Nodes that it inserted are erased if the
    gate refuses the rewrite or the function returns `Miss` or None.

    Args:
        *targets: The operators to look at, such as `torch.ops.aten.relu.default`.
        name: The name of the pass; by default that of the function, with dashes. An explicit name also registers the pass for text
            pipelines, the command line and `recfx bisect`.
        exactness: How much the rewrite may change the numbers.
        **spec: Further fields of `PassSpec`.

    Returns:
        A decorator that returns the pass.

    Example:
        >>> @recfx.rewrite(torch.ops.aten.relu.default)
        ... def drop_double_relu(node, ctx):
        ...     '''relu(relu(x)) is relu(x).'''
        ...     inner = node.args[0]
        ...     if inner.target is not torch.ops.aten.relu.default:
        ...         return recfx.Miss("its input is not a relu")
        ...     return inner
    """

    def decorate(rule: Rule) -> Pass:
        title = name or rule.__name__.replace("_", "-")
        summary = (rule.__doc__ or title).strip().splitlines()[0]
        declared = PassSpec(title, summary, exactness=exactness, **spec)
        cls = type(rule.__name__, (RewritePass,), {"spec": declared, "rule": staticmethod(rule), "targets": targets})
        cls.__module__, cls.__qualname__, cls.__doc__ = rule.__module__, rule.__qualname__, rule.__doc__
        if name is not None:
            register(cls)
        made: Pass = cls()
        return made

    return decorate


class RewritePass(Pass):
    """A pass that applies one rule to every matching operator until none fires."""

    rule: ClassVar[Rule]
    targets: ClassVar[tuple[Any, ...]]

    def run(self, program: Program, ctx: PassContext) -> None:
        apply_rules([(self.spec.name, self.targets, type(self).rule)], ctx)


_MAX_SWEEPS = 64


def apply_rule(rule: Rule, node: fx.Node, ctx: PassContext, name: str) -> bool:
    """Offers one node to a rule and makes the rewrite if the gate allows it; returns whether it was made.

    Raises:
        PassError: The rule returned something that is neither a node, nor a Miss, nor None.
    """
    anchor = node.prev
    with ctx.before(node):
        result = _result(rule, node, ctx)
    if result is None or isinstance(result, Miss):
        if result is not None:
            ctx.miss(name, result.node or node, result.reason)
        _take_back(ctx.graph, anchor, node)
        return False
    if not isinstance(result, fx.Node):
        raise PassError(
            f"the rule returned {type(result).__name__}",
            where=where(node),
            hint="return the replacing node, recfx.Miss(reason), or None",
        )
    if result is node:
        _take_back(ctx.graph, anchor, node)
        return False
    if not ctx.gate(name, node):
        _take_back(ctx.graph, anchor, node)
        return False
    ctx.replace(node, result)
    return True


def _result(rule: Rule, node: fx.Node, ctx: PassContext) -> fx.Node | Miss | None:
    """The result of a rule at a node; a miss if the rule compares a data-dependent size, or raises in a lenient context."""
    try:
        return rule(node, ctx)
    except Exception as error:
        if asks_for_data(error):
            return Miss(DATA_DEPENDENT)
        if not ctx.lenient or isinstance(error, PassError | PipelineError):
            raise
        return Miss(f"the rule raised {type(error).__name__}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0]


def _take_back(graph: fx.Graph, anchor: fx.Node, node: fx.Node) -> None:
    """Erases the nodes inserted between `anchor` and `node`."""
    inserted: list[fx.Node] = []
    current = node.prev
    while current is not anchor:
        inserted.append(current)
        current = current.prev
    for extra in inserted:
        graph.erase_node(extra)


def apply_rules(rules: Sequence[tuple[str, tuple[Any, ...], Rule]], ctx: PassContext) -> None:
    """Applies several rules, each `(name, targets, rule)`, until none fires; most passes with many small rules consist of this call.

    Raises:
        PassError: A rule still fires after the limit of sweeps, or returned something that is neither a node, nor a Miss, nor None.
    """
    earlier = len(ctx.misses)
    for _ in range(_MAX_SWEEPS):
        fired = False
        del ctx.misses[earlier:]  # only the misses of the last sweep count
        for name, targets, rule in rules:
            for node in ctx.nodes(*targets):
                if node.users and apply_rule(rule, node, ctx, name):
                    fired = True
        ctx.sweep()
        if not fired:
            return
    raise PassError(
        f"{ctx.spec.name} still fires after {_MAX_SWEEPS} sweeps over the graph",
        hint="make sure that the result of a rewrite does not match the rule again",
    )
