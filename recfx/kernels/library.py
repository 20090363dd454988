"""The kernel library: its file, its functions, and the instruction-set levels that this processor runs."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import lru_cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch

from recfx.errors import TargetError
from recfx.kernels.abi import STRUCTS
from recfx.kernels.codes import DIGEST

_FOLDER = Path(__file__).parent
_BUILD_HINT = "install recfx where a C++17 compiler is found (g++ or clang++), or run `python setup.py build_ext --inplace` in a checkout"
_p, _i32, _i64, _text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_char_p

#: Name -> argument types, result type.
_FUNCTIONS: dict[str, tuple[list[Any], Any]] = {
    "recfx_levels": ([], _text),
    "recfx_panel_columns": ([_text], _i64),
    "recfx_unit_depth": ([_text, _i32], _i64),
    "recfx_pack": ([_text, _i32, _p, _i64, _i64, _p], None),
    "recfx_struct_bytes": ([_i32], _i64),
    "recfx_codes": ([], _i64),
    "recfx_use_openmp": ([_p, _p, _p, _p], None),
    "recfx_plan_new": ([_text, _p, _i64, _p, _i64, _i64], _p),
    "recfx_plan_free": ([_p], None),
    "recfx_last_error": ([_p], None),
    "recfx_propagate": ([_text, _p, _p, _p, _p, _p, _i64, _p, _i64, _i64, _p, _i64, _i32, _i64], _i64),
    "recfx_bpr": ([_text, _p, _i64], _i64),
    "recfx_search_levels": ([], _text),
    "recfx_search": ([_text, _p, _i64], _i64),
    "recfx_rescore": ([_text, _p, _i64], _i64),
    "recfx_round_queries": ([_p], _i64),
    "recfx_encode_rows": ([_i32, _p, _i64, _i64, _p], _i64),
    "recfx_rows_are_sound": ([_p, _i64, _i64, _p, _i64], _i32),
    "recfx_update_rows": ([_p, _i64, _p, _i64, _p], _i64),
    "recfx_copy_rows": ([_p, _i64, _i32], None),
    "recfx_checksum": ([_p, _i64, _i64, _i32], _i64),
}


class Library:
    """The loaded library.

    Attributes:
        calls: Its functions by name.
        run: Runs a plan: handle, batch, threads, pointers -> 0 or an `ErrorCode`.
        run_counted: The same, with the numbers of elements behind the pointers as further arguments.
        levels: The instruction-set levels this processor runs, best first.
        search_levels: The levels of searches that it runs, best first.
    """

    def __init__(self, path: Path) -> None:
        loaded = ctypes.CDLL(str(path))
        self.calls: dict[str, Any] = {}
        for name, (arguments, result) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, result
            self.calls[name] = function
        for which, struct in enumerate(STRUCTS):
            if self.calls["recfx_struct_bytes"](which) != ctypes.sizeof(struct):
                raise OSError(f"{path.name} was built from other sources: its {struct.__name__} has another size")
        if self.calls["recfx_codes"]() != DIGEST:
            raise OSError(f"{path.name} was built from other sources: it has another table of codes")
        module = _module(path)
        self.run: Callable[..., int] = module.run
        self.run_counted: Callable[..., int] = module.run_counted
        _share_threads(self.calls["recfx_use_openmp"])
        self.levels: tuple[str, ...] = tuple(self.calls["recfx_levels"]().decode().split(","))
        self.search_levels: tuple[str, ...] = tuple(self.calls["recfx_search_levels"]().decode().split(","))


def _module(path: Path) -> Any:
    """The Python module in the library."""
    loader = ExtensionFileLoader("_kernels", str(path))
    spec = spec_from_file_location("_kernels", path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def _share_threads(use: Any) -> None:
    """Gives the library the threads of torch: the entry points of the OpenMP runtime that torch is linked with."""
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "omp_get_max_threads")
    torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    try:
        use(*(ctypes.cast(getattr(torch_library, name), _p) for name in names))
    except AttributeError:
        return  # this torch is built without OpenMP: every call runs on the calling thread


@lru_cache
def _load() -> Library | str:
    """The library, or the reason why it is missing. The environment variable RECFX_KERNELS names another file to load."""
    asked = os.environ.get("RECFX_KERNELS")
    found = [Path(asked)] if asked else sorted(_FOLDER.glob("_kernels*.so"))
    if not found:
        return f"the native kernels were not built; {_BUILD_HINT}"
    try:
        return Library(found[-1])
    except (OSError, AttributeError, ImportError) as error:
        return f"the native kernels do not load ({error}); {_BUILD_HINT}"


def missing() -> str | None:
    """Why the kernels cannot run here, with the next step; None if they can."""
    held = _load()
    return held if isinstance(held, str) else None


def library() -> Library:
    """The library.

    Raises:
        TargetError: It was not built or does not load.
    """
    held = _load()
    if isinstance(held, str):
        raise TargetError("the native backend cannot run here", hint=held)
    return held


def level() -> str:
    """The instruction-set level to use: the best one, or the one in the environment variable RECFX_LEVEL.

    Raises:
        TargetError: This processor does not run the requested level.
    """
    levels = library().levels
    asked = os.environ.get("RECFX_LEVEL")
    if asked and asked not in levels:
        raise TargetError(f"RECFX_LEVEL={asked!r} cannot run here", hint=f"this processor runs {', '.join(levels)}")
    return asked or levels[0]


@lru_cache(1)
def search_level() -> str:
    """The level of searches: the best one, or the one in RECFX_LEVEL if searches have a level of that name.

    It is looked up once: with cold caches, reading the environment takes a twentieth of a query of 0.3 ms.

    Raises:
        TargetError: This processor does not run the requested level.
    """
    asked = os.environ.get("RECFX_LEVEL")
    found = library().search_levels
    if asked in found:
        return asked
    level()
    return found[0]
