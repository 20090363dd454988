"""Stand-ins for packages that the model libraries import and their models never use. deepctr-torch requests its newest
version from the network at import; recbole imports a training logger, a table printer and a coloured log handler; the
others import training frameworks, readers of images and texts, and clients of hubs. Building and running a model does
not need these packages, so tests replace them instead of installing them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stand_ins(modules: dict[str, types.ModuleType]) -> Iterator[None]:
    """Puts these modules into `sys.modules` during an import, and restores the earlier modules afterwards."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


class _Unused:
    """A class that the library mentions at import and instantiates only in training."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("a stand-in for a training helper was used by a model")


class _Named(type):
    """A class whose every attribute is the class itself, so that chains of names can be read from it."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Absent(types.ModuleType):
    """A module whose every name is a class that cannot be instantiated."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Named(name, (_Unused,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds absent packages, with everything inside them."""

    def __init__(self, packages: dict[str, dict[str, Any]]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        made = _Absent(spec.name)
        made.__dict__.update(self.packages.get(spec.name, {}))
        return made

    def exec_module(self, module: types.ModuleType) -> None:
        """Does nothing: the module is complete."""


@contextmanager
def absent(*names: str, **given: dict[str, Any]) -> Iterator[None]:
    """Makes these packages importable inside the block without installing them.

    Args:
        names: Packages whose names are classes that cannot be instantiated.
        given: Such packages with the values of some of their names.
    """
    known = {name: {} for name in names} | given
    missing = {name: held for name, held in known.items() if importlib.util.find_spec(name) is None}
    finder = _Finder(missing)
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in missing]:
            del sys.modules[name]


def module(name: str, **contents: Any) -> types.ModuleType:
    """A module with this name and these attributes."""
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    return made


def silent_requests() -> types.ModuleType:
    """`requests` whose every answer is 'not found', at once and without a network."""
    refused = types.SimpleNamespace(status_code=404)
    return module("requests", get=lambda url: refused, codes=types.SimpleNamespace(ok=200))


def recbole_helpers() -> dict[str, types.ModuleType]:
    """The stand-ins that `import recbole.model...` needs in addition to torch, numpy, scipy, pandas, scikit-learn, tqdm
    and pyyaml."""
    return {
        "torch.utils.tensorboard": module("torch.utils.tensorboard", SummaryWriter=_Unused),
        "texttable": module("texttable", Texttable=_Unused),
        "colorlog": module("colorlog", ColoredFormatter=logging.Formatter),
        "colorama": module("colorama", init=lambda **_kwargs: None),
    }


@contextmanager
def attributes(owner: Any, **values: Any) -> Iterator[None]:
    """Gives an object these attributes inside the block, and restores its own attributes afterwards."""
    before = dict(vars(owner))
    for name, value in values.items():
        if name not in before:
            setattr(owner, name, value)
    try:
        yield
    finally:
        for name in set(vars(owner)) - set(before):
            delattr(owner, name)
        for name, value in before.items():
            if vars(owner).get(name) is not value:
                setattr(owner, name, value)


@contextmanager
def older_numerics() -> Iterator[None]:
    """numpy 1's type names and scipy's old `dok_matrix._update`, which recbole uses while it reads its data set."""
    import numpy as np
    from scipy.sparse import dok_matrix

    names = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "float": float}
    with attributes(np, **names), attributes(dok_matrix, _update=lambda self, data: self._dict.update(data)):
        yield
