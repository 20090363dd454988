"""The next step in errors about `max_norm`, with which a lookup writes to its table: code that the user can paste."""

from __future__ import annotations

from torch import fx

_MODULES = """renormalise the tables once and set max_norm to None; the model then gives the same answers

    for table in model.modules():
        if isinstance(table, (torch.nn.Embedding, torch.nn.EmbeddingBag)) and table.max_norm is not None:
            rows = torch.arange(table.num_embeddings)
            torch.embedding_renorm_(table.weight.detach(), rows, table.max_norm, table.norm_type)
            table.max_norm = None
"""
_FUNCTION = """renormalise the table once and leave max_norm out of the call; the model then gives the same answers

    table = model.state_dict()[{name!r}]
    torch.embedding_renorm_(table, torch.arange(len(table)), {max_norm!r}, {norm_type!r})
"""


def renormalization_hint(node: fx.Node, table: str) -> str:
    """The hint for a model whose lookup renormalises rows of a table.

    Args:
        node: The `embedding_renorm_` node.
        table: The name of the table in the model's state.
    """
    stack = list(node.meta.get("nn_module_stack", {}).values())
    owner = str(stack[-1][1]) if stack else ""
    if owner.rpartition(".")[2].rstrip("'>") in ("Embedding", "EmbeddingBag"):
        return _MODULES
    max_norm, norm_type = node.args[2:4]
    return _FUNCTION.format(name=table, max_norm=max_norm, norm_type=norm_type)
