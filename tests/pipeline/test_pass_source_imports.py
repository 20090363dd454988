"""Which passes another process can import by their module and name."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

import recfx
from recfx.pipeline.pass_source import importable_from, is_importable

SOURCE = """
import recfx

class Idle(recfx.Pass):
    def run(self, program, ctx):
        pass

class Held(Idle):
    spec = recfx.PassSpec("held", "For a test.")

    class Inner(Idle):
        spec = recfx.PassSpec("inner", "For a test.")

class Instance(Idle):
    spec = recfx.PassSpec("instance", "For a test.")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module in a file of a folder of `sys.path`."""
    name = "module_with_passes"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(SOURCE, f"{name}.py", "exec"), made.__dict__)
    return made


def test_a_class_under_its_name(module: Any, tmp_path: Path) -> None:
    assert is_importable(module.Held())
    assert is_importable(module.Held.Inner())
    assert importable_from(module.__name__) == str(tmp_path.resolve())


def test_an_instance_under_the_name_of_its_class(module: Any) -> None:
    """A decorator that makes a pass leaves an instance."""
    cls = module.Instance
    module.Instance = cls()
    assert is_importable(cls())
    module.Instance = module.Held()
    assert not is_importable(cls())


def test_another_class_or_nothing_under_the_name(module: Any) -> None:
    cls = module.Held
    module.Held = module.Instance
    assert not is_importable(cls())
    del module.Held
    assert not is_importable(cls())


def test_a_class_of_a_function(module: Any) -> None:
    class Local(module.Idle):  # type: ignore[misc, name-defined]
        spec = recfx.PassSpec("local", "For a test.")

    assert not is_importable(Local())


def test_modules_without_a_file_of_their_own(module: Any) -> None:
    cls = module.Held
    for name in ("__main__", "sys", "builtins", "a_module_that_is_nowhere"):
        assert importable_from(name) is None
    cls.__module__ = "__main__"
    assert not is_importable(cls())


def test_a_package_is_imported_from_the_folder_around_it() -> None:
    assert importable_from("recfx.pipeline.spec") == str(Path(recfx.__file__).resolve().parents[1])
