"""Runs files with a user's passes once, which registers the passes by name."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from recfx.errors import PipelineError, RecfxError


def load_pass_file(path: Path) -> ModuleType:
    """Runs a Python file as a module, once. Its imports are also searched in its folder.

    Args:
        path: The file.

    Returns:
        The module.

    Raises:
        PipelineError: The file does not exist, or raises; the message names the line.
    """
    name = f"recfx_passes_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        fault = "this is not a Python file" if path.exists() else "no such file"
        raise PipelineError(fault, where=str(path), hint="give the path of a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failure(path, error) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _failure(path: Path, error: Exception) -> PipelineError:
    if isinstance(error, RecfxError):
        return PipelineError(error.what, where=error.where or str(path), hint=error.hint)
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = next((f for f in reversed(frames) if f.filename == str(path)), frames[-1])
        place = f"{own.filename}:{own.lineno}"
    return PipelineError(
        f"the file with passes raised {type(error).__name__}: {error}", where=place, hint="fix this line, and run again"
    )
