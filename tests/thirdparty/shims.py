"""Stand-ins for what the model libraries import and their models never use.

deepctr-torch asks the network for its newest version when imported; recbole imports a training logger, a table printer
and a coloured log handler.  None of it takes part in building or running a model, so tests put these in place of
the packages instead of installing them.
"""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stand_ins(modules: dict[str, types.ModuleType]) -> Iterator[None]:
    """Put these modules into `sys.modules` for the time of an import, and then what was there before."""
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


def module(name: str, **contents: Any) -> types.ModuleType:
    """A module of this name that holds these attributes."""
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    return made


def silent_requests() -> types.ModuleType:
    """`requests` whose every answer is 'not found', at once and without a network."""
    refused = types.SimpleNamespace(status_code=404)
    return module("requests", get=lambda url: refused, codes=types.SimpleNamespace(ok=200))


class _Unused:
    """A class the library names at import and instantiates only in training."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError("a stand-in for a training helper was used by a model")


def recbole_helpers() -> dict[str, types.ModuleType]:
    """What `import recbole.model...` needs besides torch, numpy, scipy, pandas, scikit-learn, tqdm and pyyaml."""
    return {
        "torch.utils.tensorboard": module("torch.utils.tensorboard", SummaryWriter=_Unused),
        "texttable": module("texttable", Texttable=_Unused),
        "colorlog": module("colorlog", ColoredFormatter=logging.Formatter),
        "colorama": module("colorama", init=lambda **_kwargs: None),
    }


@contextmanager
def attributes(owner: Any, **values: Any) -> Iterator[None]:
    """Give an object these attributes for a while; afterwards it has exactly the ones it had."""
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
