"""Where spans are sent: the option, the environment, and the errors where packages are missing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from recfx.cli import main
from recfx.errors import InputError, TargetError
from recfx.serve import tracing
from recfx.serve.tracing import TracingSettings, settings_of_environment

NAMED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Warnings of the server; the packages count as installed."""
    found: list[str] = []
    monkeypatch.setattr(tracing, "missing_otel", list)
    monkeypatch.setattr(logging.getLogger("recfx.serve"), "warning", lambda text, *more: found.append(text % more))
    return found


@pytest.mark.parametrize(
    "environment",
    [
        NAMED,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {**NAMED, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        {**NAMED, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
    ],
)
def test_the_environment_names_a_collector(environment: dict[str, str], said: list[str]) -> None:
    assert settings_of_environment(environment) == TracingSettings()
    assert said == []


@pytest.mark.parametrize(
    ("environment", "warning"),
    [
        ({}, ""),
        ({"OTEL_SERVICE_NAME": "ranker"}, ""),
        ({**NAMED, "OTEL_SDK_DISABLED": "true"}, ""),
        ({**NAMED, "OTEL_TRACES_EXPORTER": "none"}, ""),
        ({**NAMED, "OTEL_TRACES_EXPORTER": "zipkin"}, "by otlp alone"),
        ({**NAMED, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf alone"),
    ],
)
def test_the_environment_names_none(environment: dict[str, str], warning: str, said: list[str]) -> None:
    assert settings_of_environment(environment) is None
    assert len(said) == bool(warning)
    assert warning in "".join(said)


def test_an_environment_for_all_programs_does_not_stop_a_server(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "missing_otel", lambda: ["opentelemetry.sdk"])
    assert settings_of_environment(NAMED) is None
    assert "opentelemetry.sdk is not installed" in said[0]


@pytest.mark.parametrize("wrong", ["collector:4318", "grpc://collector:4317", "http://", "x"])
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="is not the address of a collector") as caught:
        TracingSettings(wrong)
    assert caught.value.hint


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = "recfx.serve.packages._found"
    monkeypatch.setattr(found, lambda name: not name.startswith("opentelemetry"))
    with pytest.raises(TargetError, match=r"not installed: opentelemetry\.sdk") as caught:
        TracingSettings("http://127.0.0.1:4318").make()
    assert 'pip install "recfx[otel]"' in (caught.value.hint or "")
    (tmp_path / "tiny.recfx").mkdir()
    assert main(["serve", str(tmp_path / "tiny.recfx"), "--otel", "http://127.0.0.1:4318"]) == 1
    assert 'pip install "recfx[otel]"' in capsys.readouterr().err
