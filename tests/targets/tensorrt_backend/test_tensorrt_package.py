"""The package torch-tensorrt and the GPU: what is missing, and what the user does next."""

from __future__ import annotations

import importlib.metadata
import logging
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_stand_in import stand_in

from recfx.doctor import examine
from recfx.errors import TargetError
from recfx.targets import BACKENDS, OPTIONAL, missing, missing_backends, resolve
from recfx.targets.tensorrt import package


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The package is imported again in the test and after it."""
    package._broken.cache_clear()
    yield
    package._broken.cache_clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)


def install(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    """Lets distributions be installed: name -> version."""

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(package.importlib.metadata, "version", version)
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("cuda", "hint"), [(None, "is built without CUDA"), ("13.0", "check the driver with nvidia-smi")]
)
@pytest.mark.parametrize("installed", [True, False])
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, cuda: str | None, hint: str, installed: bool) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: object() if installed else None)
    with pytest.raises(TargetError, match="'tensorrt' cannot run here") as caught:
        resolve("tensorrt")
    assert caught.value.hint is not None
    assert hint in caught.value.hint
    assert "machine with a GPU" in caught.value.hint
    assert "target='cpu'" in caught.value.hint
    assert ('pip install "recfx[tensorrt]"' in caught.value.hint) != installed
    assert "tensorrt" not in [backend.name for backend in resolve("cpu")]
    assert "tensorrt" in OPTIONAL
    assert "tensorrt" not in missing_backends("cpu")


def test_without_the_package(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TargetError, match="'tensorrt' cannot run here") as caught:
        resolve(["tensorrt", "eager"])
    assert caught.value.hint == package.INSTALL
    assert "recfx[tensorrt]" in package.INSTALL


def test_the_doctor_has_a_line() -> None:
    line = next(finding for finding in examine() if finding.subject == "backend tensorrt")
    assert line.present == (missing("tensorrt") is None)
    if not line.present:
        assert "GPU" in line.hint or "pip install" in line.hint


@pytest.mark.parametrize(
    ("versions", "capability", "reason"),
    [
        ({"torch-tensorrt": "2.10.0"}, (8, 9), "torch-tensorrt 2.10.0 is made for torch 2.10: pip install 'torch-tensorrt=="),
        ({"torch-tensorrt-rtx": "OWN"}, (9, 0), "TensorRT-RTX has no kernels for NVIDIA L4 .*9.0.*: pip install torch-tensorrt,"),
        ({"torch-tensorrt": "OWN"}, (7, 0), "TensorRT has no kernels for .*7.0.*: pass target='eager'"),
    ],
)  # fmt: skip
def test_builds_that_do_not_fit(
    gpu: None, monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], capability: tuple[int, int], reason: str
) -> None:
    own = ".".join(torch.__version__.split(".")[:2]) + ".0"
    install(monkeypatch, {name: version.replace("OWN", own) for name, version in versions.items()})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    with pytest.raises(TargetError) as caught:
        resolve("tensorrt")
    assert caught.value.hint is not None
    import re

    assert re.search(reason, caught.value.hint)


def test_a_package_that_fails_on_import(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"torch-tensorrt": ".".join(torch.__version__.split(".")[:2])})

    def broken(name: str) -> Any:
        raise OSError("libnvinfer.so.11: cannot open shared object file\nmore")

    monkeypatch.setattr(package.importlib, "import_module", broken)
    reason = BACKENDS["tensorrt"].unavailable()
    assert reason is not None
    assert "OSError: libnvinfer.so.11: cannot open shared object file; reinstall it" in reason


@pytest.mark.parametrize(
    ("version", "tested"), [("2.13.0", True), ("2.13.1", True), ("2.14.0", False), ("2.9.0", False), ("nightly", False)]
)
def test_a_release_that_was_not_tested_works_with_a_notice(
    gpu: None, monkeypatch: pytest.MonkeyPatch, version: str, tested: bool
) -> None:
    install(monkeypatch, {"torch-tensorrt-rtx": version, "tensorrt_rtx": "1.5.0.114"})
    state = BACKENDS["tensorrt"].state()
    assert state.startswith(f"ready, torch-tensorrt-rtx {version}, tensorrt_rtx 1.5.0.114 on NVIDIA L4")
    assert ("not tested" in state) != tested


def test_the_identity_names_the_build_and_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for versions in (
        {"torch-tensorrt": "2.13.0", "tensorrt_cu13": "11.0.0"},
        {"torch-tensorrt": "2.13.0", "tensorrt_cu13": "11.0.1"},
        {"torch-tensorrt-rtx": "2.13.0", "tensorrt_rtx": "1.5.0.114"},
    ):
        install(monkeypatch, versions)
        seen.add(package.identity())
        assert all(version in package.identity() for version in versions.values())
    assert len(seen) == 3


def test_importing_it_leaves_warnings_alone(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"torch-tensorrt": ".".join(torch.__version__.split(".")[:2])})

    def importing(name: str) -> Any:
        logging.captureWarnings(True)
        return types.ModuleType(name)

    monkeypatch.setattr(package.importlib, "import_module", importing)
    assert package.module().__name__ == "torch_tensorrt"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warnings.warn("a warning of the user", stacklevel=1)
    assert [str(one.message) for one in seen] == ["a warning of the user"]
    assert logging._warnings_showwarning is None  # type: ignore[attr-defined]


def test_asking_for_it_imports_nothing() -> None:
    code = (
        "import sys; from recfx.targets import missing; missing('tensorrt')\n"
        "print(any(name.startswith(('torch_tensorrt', 'tensorrt')) for name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
