"""The reproducer folder: the files that are needed to run a failing pass again on its program."""

from __future__ import annotations

import json
import pickle
import platform
import runpy
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from recfx.errors import ArtifactError, RecfxError
from recfx.formats import strict_json
from recfx.ir.printer import render
from recfx.ir.program import Program
from recfx.ir.rebuild import from_json
from recfx.ir.serialize import to_json
from recfx.pipeline.base import Pass
from recfx.pipeline.pass_source import PassSource, importable_from, is_importable
from recfx.pipeline.registry import separate_registry
from recfx.pipeline.value_source import as_code

_GIVE_A_REPRODUCER = "give the folder that PassError.reproducer names"
_RESOURCES = "resources.pt"
_OWN_PASSES = "own_passes"
_RUN = '''\
"""Runs the failing passes again: python run.py"""

import sys
from pathlib import Path

folder = Path(__file__).resolve().parent
sys.path += [path for path in {paths} if path not in sys.path]

{imports}from recfx.ir import Level
from recfx.pipeline import Pipeline
from recfx.pipeline.reproducer import find_pass, read_reproducer, read_resources

pipeline = Pipeline([{passes}])

if __name__ == "__main__":
    result = pipeline.run(read_reproducer(folder), verify=Level.NUMERIC, resources=read_resources(folder), reproducer=False)
    print(result.program)
'''


def write_reproducer(
    program: Program,
    passes: Sequence[Pass],
    error: BaseException,
    folder: Path | None,
    resources: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the program, its example inputs, the passes, their resources, the error, versions and `run.py`.

    Args:
        program: The program before the failing pass.
        passes: The failing pass.
        error: The exception that it raised.
        folder: The folder to write to; a new temporary folder by default.
        resources: Name in `PassSpec.needs` -> the data that the passes had.

    Returns:
        The folder.
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
    (folder / "run.py").write_text(_run_script(passes, folder))
    try:
        _write_program(program, folder)
    except ArtifactError as problem:
        (folder / "program-not-saved.txt").write_text(f"{problem}\n")
    try:
        torch.save(_needed(passes, resources or {}), folder / _RESOURCES)
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        (folder / _RESOURCES).unlink(missing_ok=True)
        (folder / "resources-not-saved.txt").write_text(f"{problem}\n")
    return folder


def _needed(passes: Sequence[Pass], resources: Mapping[str, Any]) -> dict[str, Any]:
    """The resources; without the traffic, which may be large, unless one of the passes needs it."""
    needs = {need for item in passes for need in item.spec.needs}
    return {name: held for name, held in resources.items() if name != "traffic" or name in needs}


def read_resources(folder: Path) -> dict[str, Any]:
    """The resources of the passes of a reproducer folder. They are pickles, which run code when loaded: read only trusted folders.

    Raises:
        ArtifactError: The resources were not saved.
    """
    if not (folder / _RESOURCES).is_file():
        raise ArtifactError(
            "the resources of the pass were not saved: they cannot be pickled",
            where=str(folder),
            hint="pass them to Pipeline.run as resources=",
        )
    resources: dict[str, Any] = torch.load(folder / _RESOURCES, weights_only=False)
    return resources


def find_pass(module: str, name: str, **options: Any) -> Pass:
    """A pass by its module and name: the object of that name if it is a pass (of `@recfx.rewrite`), otherwise an instance of that class.

    Args:
        module: The module that defines the pass.
        name: The qualified name in the module.
        **options: The options of the class.

    Raises:
        ArtifactError: The pass cannot be imported: it is defined in a function or in a script.
    """
    try:
        found = attrgetter(name)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise ArtifactError(
            f"the pass {name} cannot be imported from {module}: {error}",
            hint="define it at the top of a module, not in a function or a script, and put the module on PYTHONPATH",
        ) from error
    made: Pass = found if isinstance(found, Pass) else found(**options)
    return made


def read_reproducer(folder: Path) -> Program:
    """The program and example inputs of a reproducer folder.

    Raises:
        ArtifactError: The folder holds no program, or the program has another format.
    """
    from safetensors.torch import load_file

    if not (folder / "program.json").is_file():
        raise ArtifactError(
            "this folder holds no program",
            where=str(folder),
            hint="give a folder that a failed pass wrote; if it holds program-not-saved.txt, that file has the reason",
        )
    document = strict_json.parse((folder / "program.json").read_bytes(), str(folder / "program.json"))
    inputs = load_file(folder / "inputs.safetensors")
    # A reader who runs `run.py` trusts the folder: every operator that the program names may run.
    called = [node.get("target", "") for node in document["nodes"]]
    own = {f"{name[0]}::{name[1]}" for t in called if len(name := t.removeprefix("op:").split(".")) == 3}
    program = from_json(document, load_file(folder / "state.safetensors"), operators=own)
    program.example = tuple(
        inputs[str(i)] if leaf.kind == "tensor" else leaf.value for i, leaf in enumerate(program.signature.leaves)
    )
    return program


def _write_program(program: Program, folder: Path) -> None:
    from safetensors.torch import save_file

    document, tensors = to_json(program)
    (folder / "program.json").write_bytes(strict_json.dump(document))
    save_file(tensors, folder / "state.safetensors")
    inputs = {str(i): leaf.contiguous() for i, leaf in enumerate(program.example) if isinstance(leaf, torch.Tensor)}
    save_file({name: tensor.clone() for name, tensor in inputs.items()}, folder / "inputs.safetensors")


def why_not_again(
    folder: Path, error: BaseException, run_pass: Callable[[Pass, Program, Mapping[str, Any]], Program]
) -> str | None:
    """Runs the passes of a folder as `run.py` does. Returns None if they fail in the same way, otherwise the reason.

    Args:
        folder: The folder.
        error: The exception that the passes raised before the folder was written.
        run_pass: Runs one pass with numeric verification.
    """
    try:
        program, resources, passes = read_reproducer(folder), read_resources(folder), read_pipeline(folder)
    except RecfxError as problem:
        return problem.what
    except Exception as problem:  # noqa: BLE001 - source that is extracted from a script can fail in any way
        return f"{type(problem).__name__}: {problem}"
    try:
        for item in passes:
            program = run_pass(item, program, resources)
    except Exception as problem:  # noqa: BLE001 - the failure is expected
        same = type(problem) is type(error) or type(problem).__name__ == type(error).__name__
        return None if same else f"it fails in another way: {type(problem).__name__}: {problem}"
    return "the passes do not fail on the saved program"


def read_pipeline(folder: Path) -> list[Pass]:
    """The passes of a reproducer folder. This runs code of its `run.py`: read only trusted folders.

    Raises:
        ArtifactError: The folder holds no `run.py`.
    """
    if not (folder / "run.py").is_file():
        raise ArtifactError("this folder holds no run.py", where=str(folder), hint=_GIVE_A_REPRODUCER)
    path = str(folder.resolve())
    former = sys.modules.pop(_OWN_PASSES, None)
    sys.path.insert(0, path)
    try:
        with separate_registry():
            return list(runpy.run_path(str(folder / "run.py"))["pipeline"])
    finally:
        sys.path.remove(path)
        sys.modules.pop(_OWN_PASSES, None)
        if former is not None:
            sys.modules[_OWN_PASSES] = former


def _run_script(passes: Sequence[Pass], folder: Path | None = None) -> str:
    """The source of `run.py`. It names built-in passes by their text, other passes by module and name.

    The source of passes that another process cannot import is written into the folder.
    """
    imports, items, paths = "", [], [str(Path(__file__).resolve().parents[2])]
    source, own = PassSource(), False
    for item in passes:
        cls = type(item)
        if cls.__module__.startswith("recfx.passes."):
            imports = "import recfx.passes  # registers the built-in passes\n"
            items.append(repr(str(item)))
            continue
        module, name = cls.__module__, cls.__qualname__
        if is_importable(item):
            paths.append(importable_from(module) or "")
        else:
            try:
                module, name, own = _OWN_PASSES, source.add(item), True
            except ArtifactError as problem:
                if folder is not None:
                    (folder / "source-not-saved.txt").write_text(f"{problem}\n")
        options = "".join(f", {option}={as_code(value)}" for option, value in item.options().items())
        items.append(f"find_pass({module!r}, {name!r}{options})")
    if own and folder is not None:
        (folder / f"{_OWN_PASSES}.py").write_text(str(source))
    return _RUN.format(imports=imports, paths=list(dict.fromkeys(paths)), passes=", ".join(items))
