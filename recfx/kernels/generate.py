"""Writes codes.py and csrc/codes.h from codes.toml: `python -m recfx.kernels.generate`.

Both sides hold the digest of the table. The library gives its own when it is loaded, so that a library of another table is refused.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

_FOLDER = Path(__file__).parent
TABLE = _FOLDER / "codes.toml"
_BY = "Generated from codes.toml by `python -m recfx.kernels.generate`."

#: Section -> name of the enumeration in Python, and in C++ with its type and the prefix of its members.
_ENUMS = {
    "dtype": ("Dtype", "RecfxDtype", "int32_t", "RECFX_"),
    "place": ("Place", "RecfxSlotKind", "int32_t", "RECFX_"),
    "kind": ("Kind", "RecfxStepKind", "int32_t", "RECFX_"),
    "error": ("ErrorCode", "RecfxErrorCode", "int64_t", "RECFX_"),
    "op": ("Op", "RecfxOp", "int64_t", "OP_"),
    "act": ("Act", "RecfxAct", "int64_t", "ACT_"),
    "reduction": ("Reduction", "RecfxReduction", "int64_t", "REDUCE_"),
    "fold": ("Fold", "RecfxFold", "int64_t", "FOLD_"),
}


def files() -> dict[Path, str]:
    """File -> its text."""
    data = TABLE.read_bytes()
    table = tomllib.loads(data.decode())
    if table.keys() != _ENUMS.keys():
        raise ValueError(f"sections {sorted(table)} instead of {sorted(_ENUMS)}")
    for section, members in table.items():
        if len(set(members.values())) < len(members):
            raise ValueError(f"a number stands twice in [{section}]")
    if sorted(table["kind"].values()) != list(range(len(table["kind"]))):
        raise ValueError("the numbers of [kind] leave some out")
    digest = int.from_bytes(hashlib.sha256(data).digest()[:7])
    return {_FOLDER / "codes.py": _python(table, digest), _FOLDER / "csrc" / "codes.h": _header(table, digest)}


def _python(table: dict[str, dict[str, int]], digest: int) -> str:
    lines = [f'"""The numbers that the lowering and the kernels share. {_BY}"""', "", "from enum import IntEnum", ""]
    lines += ["#: The digest of the table.", f"DIGEST = 0x{digest:X}", ""]
    for section, members in table.items():
        lines += ["", f"class {_ENUMS[section][0]}(IntEnum):", f'    """Section [{section}] of the table."""', ""]
        lines += [f"    {name} = {number}" for name, number in members.items()]
        lines.append("")
    return "\n".join(lines)


def _header(table: dict[str, dict[str, int]], digest: int) -> str:
    lines = [f"// The numbers that the lowering and the kernels share. {_BY}", "#pragma once", "#include <cstdint>", ""]
    lines += ["// The digest of the table.", f"constexpr int64_t RECFX_CODES = 0x{digest:X};", ""]
    for section, members in table.items():
        _, name, kind, prefix = _ENUMS[section]
        lines += [f"enum {name} : {kind} {{", *(f"    {prefix}{m} = {n}," for m, n in members.items()), "};", ""]
    kinds = sorted(table["kind"], key=table["kind"].__getitem__)
    lines += ["// X(name) for every kind of step, in the order of their numbers.", "#define RECFX_EACH_STEP(X) \\"]
    lines += [" \\\n".join(f"    X({kind.lower()})" for kind in kinds), ""]
    lines.append(f"constexpr int32_t RECFX_STEP_KINDS = {len(kinds)};")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the files."""
    for path, text in files().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
