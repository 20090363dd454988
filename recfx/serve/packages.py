"""The packages of the extra `recfx[serve]`, and the error where one is missing."""

from __future__ import annotations

import importlib.util

from recfx.errors import TargetError

INSTALL = 'pip install "recfx[serve]"'
INSTALL_RAY = 'pip install "recfx[ray]"'
INSTALL_OTEL = 'pip install "recfx[otel]"'

_HTTP = ("uvicorn", "httptools", "orjson", "prometheus_client")
_GRPC = ("grpc", "google.protobuf")
_OTEL = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def missing(*, grpc: bool = False) -> list[str]:
    """The packages that a server needs and that are not installed.

    Args:
        grpc: Whether it answers gRPC, too.
    """
    return [name for name in (*_HTTP, *(_GRPC if grpc else ())) if not _found(name)]


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def require_ray() -> None:
    """Raises an error if Ray Serve is missing.

    Raises:
        TargetError: It is not installed.
    """
    if absent := [name for name in ("ray", "ray.serve") if not _found(name)]:
        raise TargetError(f"not installed: {', '.join(absent)}", where="serving on Ray", hint=INSTALL_RAY)


def missing_otel() -> list[str]:
    """The packages of OpenTelemetry that are not installed."""
    return [name for name in _OTEL if not _found(name)]


def require_otel() -> None:
    """Raises an error if OpenTelemetry is missing.

    Raises:
        TargetError: It is not installed.
    """
    if absent := missing_otel():
        raise TargetError(f"not installed: {', '.join(absent)}", where="traces of requests", hint=INSTALL_OTEL)


def require(*, grpc: bool = False) -> None:
    """Raises an error if a package is missing.

    Args:
        grpc: Whether the server answers gRPC, too.

    Raises:
        TargetError: A package is missing.
    """
    if absent := missing(grpc=grpc):
        raise TargetError(f"not installed: {', '.join(absent)}", where="serving", hint=INSTALL)
