"""Compiles regions to packages: from the cache if possible, otherwise by Inductor, with and without frozen weights."""

from __future__ import annotations

import atexit
import functools
import hashlib
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from recfx.cost.timing import compare
from recfx.errors import ArtifactError, TargetError
from recfx.ir.canonical import content_digest
from recfx.ir.region import Region
from recfx.progress import stage_line
from recfx.targets import package_cache
from recfx.targets.exported import Exported, export
from recfx.targets.inductor import compiler

_lock = threading.Lock()

#: Changes when packages of older versions of recfx must not be used.
_FORMAT = 1

#: Settings of Inductor. Threads follow torch's at each call; its pattern matcher has changed results of attention layers.
_OPTIONS: dict[str, Any] = {"cpp.dynamic_threads": True, "pattern_matcher": False}
_SHARED: dict[str, Any] = {"aot_inductor.package_constants_in_so": False}
_FROZEN: dict[str, Any] = {"freezing": True, "aot_inductor.package_constants_in_so": True}

#: Frozen weights are part of the package. Larger states are not copied into one.
_MOST_FROZEN_BYTES = 64 << 20

#: Operators whose weights Inductor packs in another layout when they are frozen.
_PACKED = frozenset(
    {"aten.linear.default", "aten.addmm.default", "aten.mm.default", "aten.conv1d.default", "aten.conv2d.default"}
)

Runner = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]


def compiled(region: Region, folder: Path | None = None) -> tuple[Exported, Runner]:
    """A region as a function of the list of its inputs.

    Args:
        region: The region.
        folder: The folder of the cache; the user's by default.

    Raises:
        TargetError: Inductor cannot compile the region.
    """
    exported = export(region)
    folder = package_cache.default_folder("inductor") if folder is None else folder
    key = key_of(region)
    with _lock:
        found = package_cache.stored(folder, key) if key else None
        if found is not None:
            runner = _loaded(found[0], exported, frozen=found[1].get("frozen") is True)
            if runner is not None:
                return exported, runner
        package, frozen, seconds = _compiled(exported, region)
        if key:
            record = {"frozen": frozen, "seconds": round(seconds, 1), "torch": compiler.version()}
            package = package_cache.store(folder, key, package, record) or package
        runner = _loaded(package, exported, frozen=frozen)
    if runner is None:
        raise TargetError("the package that Inductor compiled cannot be loaded", hint="give the region to 'eager'")
    return exported, runner


def key_of(region: Region) -> str:
    """The name of the region's package; "" for a region without a digest."""
    try:
        content = content_digest(region)
    except ArtifactError:
        return ""
    parts = (content, compiler.version(), compiler.machine(), repr(sorted(_OPTIONS.items())), str(_FORMAT))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _compiled(exported: Exported, region: Region) -> tuple[Path, bool, float]:
    """Compiles a region: the package, whether its weights are frozen, and the seconds it took."""
    begun = time.perf_counter()
    count = sum(node.op == "call_function" for node in region.graph.nodes)
    with stage_line("inductor") as begin:
        begin(f"compiling a region of {count} operators, which takes tens of seconds; later runs find it in the cache")
        package = _package(exported, _SHARED)
        if _may_gain_from_freezing(exported, region):
            begin("compiling it once more with frozen weights")
            frozen = _package(exported, _FROZEN)
            if _is_faster(frozen, package, exported):
                return frozen, True, time.perf_counter() - begun
    return package, False, time.perf_counter() - begun


def _may_gain_from_freezing(exported: Exported, region: Region) -> bool:
    state = sum(tensor.numel() * tensor.element_size() for tensor in exported.state.values())
    packed = any(str(node.target) in _PACKED for node in exported.program.graph.nodes)
    return packed and 0 < state <= _MOST_FROZEN_BYTES


def _package(exported: Exported, options: dict[str, Any]) -> Path:
    target = _temporary_folder() / f"{len(list(_temporary_folder().iterdir()))}.pt2"
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = torch._inductor.aoti_compile_and_package(
                exported.program, package_path=str(target), inductor_configs=_OPTIONS | options
            )
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise TargetError(
            f"Inductor cannot compile the region: {type(error).__name__}: {line[:200]}",
            hint="give the region to another backend, such as 'eager'",
        ) from error
    return Path(made)


def _temporary_folder() -> Path:
    """A folder for packages that no cache keeps, which lasts as long as the process."""
    if not _folders:
        _folders.append(Path(tempfile.mkdtemp(prefix="recfx-inductor-")))
        atexit.register(shutil.rmtree, _folders[0], ignore_errors=True)
    return _folders[0]


_folders: list[Path] = []


def _loaded(package: Path, exported: Exported, *, frozen: bool) -> Runner | None:
    """The function of a package; None when torch cannot load it."""
    try:
        model: Any = torch._inductor.aoti_load_package(str(package))
        if not frozen:
            wanted = model.get_constant_fqns()
            state = {name: exported.state[name] for name in wanted}
            model.load_constants(state, check_full_update=True, user_managed=True)
    except (RuntimeError, OSError, KeyError):
        return None
    return _Package(model, exported)


class _Package:
    """A loaded package. It reads the constants of the region where they are, so it keeps them alive."""

    def __init__(self, model: Any, exported: Exported) -> None:
        self._model, self._state = model, exported.state
        self._run = model.loader.boxed_run

    def __call__(self, inputs: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        results: Sequence[torch.Tensor] = self._run(inputs)
        return results


def _is_faster(frozen: Path, plain: Path, exported: Exported) -> bool:
    """Whether the package with frozen weights runs faster on the traced sizes."""
    first, second = _loaded(frozen, exported, frozen=True), _loaded(plain, exported, frozen=False)
    if first is None or second is None:
        return False
    values = [
        torch.zeros([int(s) if isinstance(s, int) else 64 for s in n.meta["val"].shape], dtype=n.meta["val"].dtype)
        for n in _user_inputs(exported)
    ]
    calls = {"frozen": functools.partial(_call, first, values), "plain": functools.partial(_call, second, values)}
    return compare(calls, seconds=0.3).slower("plain", than="frozen")


def _call(runner: Runner, values: list[torch.Tensor]) -> Sequence[torch.Tensor]:
    return runner(list(values))


def _user_inputs(exported: Exported) -> list[fx.Node]:
    names = exported.program.graph_signature.user_inputs
    nodes = {node.name: node for node in exported.program.graph.nodes}
    return [nodes[name] for name in names]
