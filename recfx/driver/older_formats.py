"""Upgrades saved models of formats 1 and 2 to format 3. The result is checked like any saved model.

Format 2 differs from format 3:
  manifest    no digest of its own, and a CRC-32 in place of the SHA-256 of each file; no `copy_weights` in the recipe
  programs    state named by `target`, outputs as one list, defaults as an object, nestings as torch's pytree writes them, no
              `contiguous` of inputs, and operators that leave memory uninitialised

Format 1 is format 2 without a plan for one row. Its first writers described a cross layer by four numbers, later ones by six, and a folder
does not say which. Models of format 1 with cross layers are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from recfx.errors import ArtifactError
from recfx.formats import strict_json
from recfx.formats.records import decode, fields
from recfx.ir.operators import initialised

#: Formats without a digest of the manifest, and with a CRC-32 of each file.
UNSEALED = (1, 2)

_AGAIN = "optimize and save the model again with this version"
_MOST_DEPTH = 30
_LEAF = ("name", "kind", "dtype", "device", "shape", "value")
_CONTAINERS = {"builtins.tuple": "tuple", "builtins.list": "list"}
_KEYED = {"builtins.dict": "dict", "collections.OrderedDict": "ordered_dict"}


def unsealed_notice(number: int) -> str:
    """The notice for the user of an old folder."""
    return (
        f"the folder is of format {number}, whose manifest carries no checksum: damage to it can go unnoticed. "
        "Save the loaded model again"
    )


def upgraded_manifest(manifest: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A manifest of format 1 or 2 with the fields of format 3.

    Raises:
        ArtifactError: The manifest is damaged.
    """
    held = fields(dict(manifest), where, ("recfx", "torch", "regions", "report"), ("one_row", "recipe"))
    recipe = held.get("recipe")
    if recipe is not None:
        recipe = {"copy_weights": False, **decode(dict[str, Any], recipe, f"{where}, recipe")}
    return {**held, "one_row": held.get("one_row", []), "recipe": recipe}


def upgraded_program(document: Any, number: int, where: str) -> dict[str, Any]:
    """A program of format 1 or 2 with the fields of format 3.

    Raises:
        ArtifactError: The program is damaged or ambiguous.
    """
    held = decode(dict[str, Any], document, where)
    if held.get("format") != number:
        raise ArtifactError(f"the program is not of format {number}", where=where, hint=_AGAIN)
    nodes = decode(list[dict[str, Any]], held.get("nodes"), f"{where}, nodes")
    signature = decode(dict[str, Any], held.get("signature"), f"{where}, signature")
    return {
        **held,
        "format": 3,
        "nodes": [_node(node, number, f"{where}, nodes[{i}]") for i, node in enumerate(nodes)],
        "signature": _signature(signature, f"{where}, signature"),
    }


def _node(node: dict[str, Any], number: int, where: str) -> dict[str, Any]:
    kept: dict[str, Any] = {key: node[key] for key in ("op", "name", "path") if key in node}
    arguments = decode(list[Any], node.get("args", []), f"{where}.args")
    match node.get("op"):
        case "placeholder":
            return kept
        case "get_attr":
            return {**kept, "state": node.get("target")}
        case "output":
            return {**kept, "args": _outputs(arguments, where)}
    target = decode(str, node.get("target"), f"{where}.target")
    if number == 1 and target.startswith("op:recfx.cross."):
        raise ArtifactError(
            "format 1 does not say how its cross layers are described", where=f"{where}.target", hint=_AGAIN
        )
    kwargs = decode(dict[str, Any], node.get("kwargs", {}), f"{where}.kwargs")
    target, dropped = initialised(target)
    kwargs = {key: value for key, value in kwargs.items() if key not in dropped}
    return {**kept, "target": target, "args": arguments, **({"kwargs": kwargs} if kwargs else {})}


def _outputs(arguments: list[Any], where: str) -> list[Any]:
    """The outputs of a graph, which stood in one tuple or list."""
    if len(arguments) != 1:
        raise ArtifactError(f"the output node has {len(arguments)} arguments, expected 1", where=where)
    whole = decode(dict[str, Any], arguments[0], f"{where}.args")
    if len(whole) != 1 or next(iter(whole)) not in ("tuple", "list"):
        raise ArtifactError("the outputs are not a list", where=where)
    return decode(list[Any], next(iter(whole.values())), f"{where}.args")  # type: ignore[no-any-return]


def _signature(held: dict[str, Any], where: str) -> dict[str, Any]:
    defaults = decode(dict[str, Any], held.get("defaults"), f"{where}.defaults")
    leaves = decode(list[Any], held.get("leaves"), f"{where}.leaves")
    return {
        "keyword_only": [],
        "constants": {},
        "forward": [],
        **held,
        "defaults": [[name, value] for name, value in defaults.items()],
        "in_spec": _nesting(held.get("in_spec"), f"{where}.in_spec"),
        "out_spec": _nesting(held.get("out_spec"), f"{where}.out_spec"),
        "leaves": [
            {"repeats": "refused", **fields(leaf, f"{where}.leaves[{i}]", _LEAF, ("repeats",)), "contiguous": False}
            for i, leaf in enumerate(leaves)
        ],
    }


@dataclasses.dataclass(frozen=True)
class _Spec:
    """One level of a nesting as torch's pytree writes it."""

    type: str | None
    context: str | None
    children_spec: tuple[Any, ...]


def _nesting(text: Any, where: str) -> Any:
    """A nesting that torch's pytree wrote, as `recfx.ir.nesting` writes it."""
    parsed = strict_json.parse(decode(str, text, where).encode(), where)
    version, spec = decode(tuple[int, Any], parsed, where)
    if version != 1:
        raise ArtifactError(f"the nesting has version {version}, expected 1", where=where, hint=_AGAIN)
    return _level(spec, where, _MOST_DEPTH)


def _level(document: Any, where: str, depth: int) -> Any:
    spec: _Spec = decode(_Spec, document, where)
    if depth == 0:
        raise ArtifactError(f"inputs or outputs are nested deeper than {_MOST_DEPTH} levels", where=where)
    children = [_level(child, where, depth - 1) for child in spec.children_spec]
    if spec.type is None:
        return None
    if spec.type in _CONTAINERS:
        return {_CONTAINERS[spec.type]: children}
    if spec.type not in _KEYED:
        raise ArtifactError(
            f"inputs or outputs are nested in {spec.type[:100]}, which old formats cannot restore",
            where=where,
            hint=_AGAIN,
        )
    keys = decode(list[str | int | bool | None], strict_json.parse((spec.context or "").encode(), where), where)
    if len(keys) != len(children):
        raise ArtifactError(f"a nesting has {len(keys)} keys for {len(children)} values", where=where)
    return {_KEYED[spec.type]: [list(pair) for pair in zip(keys, children, strict=True)]}
