"""Writes the files that are generated from recfx/kernels/codes.toml: `python recfx/kernels/csrc/generate.py`.

The Python files (codes.py, slots.py) and the C++ headers (codes.h, slots.h) hold the same numbers and the digest of the table. The library
reports its digest when it is loaded, so that a library built from another table is refused.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CSRC = Path(__file__).parent
TABLE = _CSRC.parent / "codes.toml"
_BY = "Generated from codes.toml by `python recfx/kernels/csrc/generate.py`."

#: Section -> name of the enumeration in Python, and in C++ with its type and the prefix of its members.
_ENUMS = {
    "size": ("Size", "RecfxSize", "int32_t", "RECFX_"),
    "dtype": ("Dtype", "RecfxDtype", "int32_t", "RECFX_"),
    "place": ("Place", "RecfxSlotKind", "int32_t", "RECFX_"),
    "kind": ("Kind", "RecfxStepKind", "int32_t", "RECFX_"),
    "error": ("ErrorCode", "RecfxErrorCode", "int64_t", "RECFX_"),
    "op": ("Op", "RecfxOp", "int64_t", "OP_"),
    "act": ("Act", "RecfxAct", "int64_t", "ACT_"),
    "reduction": ("Reduction", "RecfxReduction", "int64_t", "REDUCE_"),
    "fold": ("Fold", "RecfxFold", "int64_t", "FOLD_"),
    "ties": ("Ties", "RecfxTies", "int64_t", "TIES_"),
    "weight_format": ("WeightFormat", "RecfxWeightFormat", "int32_t", "WEIGHT_"),
    "row_format": ("RowFormat", "RecfxRowFormat", "int32_t", "ROWS_"),
    "pooling": ("Pooling", "RecfxPooling", "int32_t", "POOL_"),
    "cell": ("Cell", "RecfxCell", "int64_t", "CELL_"),
    "propagate_result": ("PropagateResult", "RecfxPropagateResult", "int64_t", "PROPAGATE_"),
    "bpr_result": ("BprResult", "RecfxBprResult", "int64_t", "BPR_"),
    "search_result": ("SearchResult", "RecfxSearchResult", "int64_t", "SEARCH_"),
    "rounding_result": ("RoundingResult", "RecfxRoundingResult", "int64_t", "ROUNDING_"),
    "rounding": ("RoundTo", "RecfxRoundTo", "int64_t", "TO_"),
}
_SLOTS = "slots"

#: Array of a step -> the ending of its enumerations, and the size in the section [size].
_ARRAYS = {
    "views": ("View", "VIEWS"),
    "ints": ("Int", "INTS"),
    "floats": ("Float", "FLOATS"),
    "pointers": ("Pointer", "POINTERS"),
}
_MANY = "..."

Table = dict[str, dict[str, Any]]


def files() -> dict[Path, str]:
    """Every generated file and its text.

    Raises:
        ValueError: The table contradicts itself.
    """
    data = TABLE.read_bytes()
    table: Table = tomllib.loads(data.decode())
    _check(table)
    digest = int.from_bytes(hashlib.sha256(data).digest()[:7])
    return {
        _CSRC.parent / "codes.py": _codes_py(table, digest),
        _CSRC.parent / "slots.py": _slots_py(table),
        _CSRC / "codes.h": _codes_h(table, digest),
        _CSRC / "slots.h": _slots_h(table),
    }


def _check(table: Table) -> None:
    if table.keys() != _ENUMS.keys() | {_SLOTS}:
        raise ValueError(f"sections {sorted(table)} instead of {sorted(_ENUMS.keys() | {_SLOTS})}")
    for section in _ENUMS:
        members = table[section]
        if section != "size" and len(set(members.values())) < len(members):
            raise ValueError(f"two members have the same number in [{section}]")
    if sorted(table["kind"].values()) != list(range(len(table["kind"]))):
        raise ValueError("the numbers of [kind] are not consecutive from 0")
    named = [kind for layout in table[_SLOTS].values() for kind in layout["kinds"]]
    if sorted(named) != sorted(table["kind"]):
        raise ValueError(f"[slots] names the kinds {sorted(named)} instead of {sorted(table['kind'])}")
    for layout, keys in table[_SLOTS].items():
        for key, names in keys.items():
            if len(set(names)) < len(names) or any(name.endswith(_MANY) for name in names[:-1]):
                raise ValueError(f"a name occurs twice, or follows a name in {_MANY!r}, in [slots.{layout}] {key}")
            if key in _ARRAYS and len(names) > table["size"][_ARRAYS[key][1]]:
                raise ValueError(f"[slots.{layout}] {key} has more names than a step has")


def _enumerations(layout: str, keys: dict[str, list[str]]) -> Iterator[tuple[str, list[str]]]:
    """The enumerations of one layout: name, and its members in the order of their numbers."""
    for key, names in keys.items():
        if key != "kinds":
            ending = _ARRAYS[key][0] if key in _ARRAYS else _camel(key)
            yield _camel(layout) + ending, [name.removesuffix(_MANY) for name in names]


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _codes_py(table: Table, digest: int) -> str:
    lines = [f'"""The numbers that the lowering and the kernels share. {_BY}"""', "", "from enum import IntEnum", ""]
    lines += ["#: The digest of the table.", f"DIGEST = 0x{digest:X}", ""]
    for section, (name, *_) in _ENUMS.items():
        lines += ["", f"class {name}(IntEnum):", f'    """Section [{section}] of the table."""', ""]
        lines += [f"    {member} = {number}" for member, number in table[section].items()]
        lines.append("")
    return "\n".join(lines)


def _slots_py(table: Table) -> str:
    lines = [f'"""The arguments of steps by name. {_BY}"""', "", "# fmt: off", "from enum import IntEnum", ""]
    lines += ["from recfx.kernels.codes import Kind", ""]
    kinds = []
    for layout, keys in table[_SLOTS].items():
        made = dict(_enumerations(layout, keys))
        lines += [f'{name} = IntEnum("{name}", {_quoted(members)}, start=0)' for name, members in made.items()]
        owned = ", ".join(made) + "," * (len(made) == 1)
        kinds += [f"    Kind.{kind}: ({owned})," for kind in keys["kinds"]]
    lines += ["", "#: The endings of the names of enumerations: for views, ints, floats and pointers of a step."]
    lines += [f"ENDINGS = {tuple(ending for ending, _ in _ARRAYS.values())}".replace("'", '"')]
    lines += ["", "#: Kind -> the enumerations that name its arguments."]
    lines += ["NAMES: dict[Kind, tuple[type[IntEnum], ...]] = {"]
    return "\n".join([*lines, *kinds, "}"]) + "\n"


def _quoted(members: list[str]) -> str:
    return "[" + ", ".join(f'"{member}"' for member in members) + "]"


def _codes_h(table: Table, digest: int) -> str:
    lines = [f"// The numbers that the lowering and the kernels share. {_BY}", "#pragma once", "#include <cstdint>", ""]
    lines += ["// The digest of the table.", f"constexpr int64_t RECFX_CODES = 0x{digest:X};", ""]
    for section, (_, name, kind, prefix) in _ENUMS.items():
        lines += [f"enum {name} : {kind} {{", *(f"    {prefix}{m} = {n}," for m, n in table[section].items()), "};", ""]
    kinds = sorted(table["kind"], key=table["kind"].__getitem__)
    lines += ["// X(NAME, name) for every kind of step.", "#define RECFX_EACH_STEP(X) \\"]
    lines += [" \\\n".join(f"    X({kind}, {kind.lower()})" for kind in kinds), ""]
    lines.append(f"constexpr int32_t RECFX_STEP_KINDS = {len(kinds)};")
    return "\n".join(lines) + "\n"


def _slots_h(table: Table) -> str:
    lines = [f"// The arguments of steps by name: `step.ints[GemmInt::format]`. {_BY}"]
    lines += ["#pragma once", '#include "codes.h"', ""]
    for layout, keys in table[_SLOTS].items():
        for name, members in _enumerations(layout, keys):
            lower = "".join(f"{member.lower()}, " for member in members)
            lines.append(f"struct {name} {{ enum : int32_t {{ {lower}fields }}; }};")
    lines.append("")
    for layout, keys in table[_SLOTS].items():
        for key, (ending, size) in _ARRAYS.items():
            if key in keys:
                name = _camel(layout) + ending
                lines.append(f'static_assert(int({name}::fields) <= RECFX_{size}, "{name}");')
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the files."""
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
