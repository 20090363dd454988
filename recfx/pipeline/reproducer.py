"""The reproducer folder: all it takes to run a failing pass again on the program it failed on."""

from __future__ import annotations

import json
import platform
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from recfx.errors import ArtifactError
from recfx.ir.printer import render
from recfx.ir.program import Program
from recfx.ir.serialize import from_json, to_json
from recfx.pipeline.spec import Pass

_RUN = '''\
"""Runs the failing pass again: python run.py"""

from pathlib import Path

{imports}from recfx.ir import Level
from recfx.pipeline import Pipeline
from recfx.pipeline.reproducer import read_reproducer

folder = Path(__file__).parent
pipeline = Pipeline({passes})
result = pipeline.run(read_reproducer(folder), verify=Level.NUMERIC)
print(result.program)
'''


def write_reproducer(program: Program, passes: Sequence[Pass], error: BaseException, folder: Path | None) -> Path:
    """Writes the program, its example inputs, the passes, the error, versions and `run.py`.

    Args:
        program: The program before the failing pass.
        passes: The failing pass.
        error: What it raised.
        folder: Where to; a new temporary folder by default.
    """
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="recfx-reproducer-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.txt").write_text(render(program) + "\n")
    (folder / "pipeline.txt").write_text(",".join(map(str, passes)) + "\n")
    (folder / "error.txt").write_text("".join(traceback.format_exception(error)))
    versions = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    (folder / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
    (folder / "run.py").write_text(_run_script(passes))
    try:
        _write_program(program, folder)
    except ArtifactError as problem:
        (folder / "program-not-saved.txt").write_text(f"{problem}\n")
    return folder


def read_reproducer(folder: Path) -> Program:
    """The program and example inputs of a reproducer folder.

    Raises:
        ArtifactError: The folder holds none, or is of another format.
    """
    from safetensors.torch import load_file

    if not (folder / "program.json").is_file():
        raise ArtifactError("there is no program in this folder", where=str(folder))
    document = json.loads((folder / "program.json").read_text())
    inputs = load_file(folder / "inputs.safetensors")
    program = from_json(document, load_file(folder / "state.safetensors"))
    program.example = tuple(
        inputs[str(i)] if leaf.kind == "tensor" else leaf.value for i, leaf in enumerate(program.signature.leaves)
    )
    return program


def _write_program(program: Program, folder: Path) -> None:
    from safetensors.torch import save_file

    document, tensors = to_json(program)
    (folder / "program.json").write_text(json.dumps(document))
    save_file(tensors, folder / "state.safetensors")
    inputs = {str(i): leaf.contiguous() for i, leaf in enumerate(program.example) if isinstance(leaf, torch.Tensor)}
    save_file({name: tensor.clone() for name, tensor in inputs.items()}, folder / "inputs.safetensors")


def _run_script(passes: Sequence[Pass]) -> str:
    """Registered passes are named by text, a user's own by import."""
    from recfx.pipeline.registry import registered

    known = registered()
    imports, items = "", []
    for item in passes:
        cls = type(item)
        if known.get(item.spec.name) is cls:
            imports += (
                "" if "import recfx.passes" in imports else "import recfx.passes  # registers the built-in passes\n"
            )
            items.append(repr(str(item)))
        else:
            name = (
                item.spec.name.replace("-", "_") if cls.__qualname__ == cls.__name__ and "targets" in vars(cls) else ""
            )
            imports += f"from {cls.__module__} import {name or cls.__qualname__}\n"
            items.append(name or f"{cls.__qualname__}(**{item.options()!r})")
    return _RUN.format(imports=imports, passes=f"[{', '.join(items)}]")
