"""The options of `recfx serve`: models, variants, tokens, and early refusals."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pytest

from recfx.cli import main
from recfx.errors import InputError
from recfx.serve.command import add_serve, plan_of, read_model, read_tokens, run_serve, update_settings
from recfx.serve.engine.settings import processors
from recfx.serve.models import Source
from recfx.serve.policies.tenants import TenantConfig, TenantLimit


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.recfx", "b.recfx", "odd,name.recfx", "x=y.recfx", "c:1"):
        Path(name).mkdir()


@pytest.mark.parametrize(
    ("text", "name", "sources"),
    [
        ("a.recfx", "a", [("a.recfx", 0.0)]),
        ("m=a.recfx", "m", [("a.recfx", 0.0)]),
        ("m=a.recfx:0.81,b.recfx:0.8", "m", [("a.recfx", 0.81), ("b.recfx", 0.8)]),
        ("a.recfx:0.5", "a", [("a.recfx", 0.5)]),
        ("odd,name.recfx", "odd,name", [("odd,name.recfx", 0.0)]),
        ("x=y.recfx", "x=y", [("x=y.recfx", 0.0)]),
        ("c:1", "c:1", [("c:1", 0.0)]),
        ("m=c:1:0.5", "m", [("c:1", 0.5)]),
    ],
)
def test_models_and_their_variants(folders, text, name, sources):
    assert read_model(text) == (name, [Source(Path(folder), quality) for folder, quality in sources])


@pytest.mark.parametrize(
    ("text", "message"), [("nix.recfx", "no saved model there"), ("m=a.recfx:high", "'high' is not a metric")]
)
def test_wrong_models_are_refused(folders, text, message):
    with pytest.raises(InputError, match=message):
        read_model(text)


def test_tokens_and_their_tenants(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("# comment\n\nabc shop\ndef\n")
    assert read_tokens(path) == {"abc": "shop", "def": ""}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no token"), (b"# none\n", "no token"), (b"a b c\n", "line 1"), (b"a x\na y\n", "line 2"), (b"\xff\n", "cannot read")],
)  # fmt: skip
def test_wrong_files_of_tokens_are_refused(tmp_path, content, message):
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_tokens(path)
    with pytest.raises(InputError, match="cannot read"):
        read_tokens(tmp_path / "nix")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "expected a port"),
        (["--port", "x"], "expected a port"),
        (["--workers", "0"], "integer of at least 1"),
        (["--timeout", "0"], "number above 0"),
        (["--grace", "-1"], "number of at least 0"),
        (["--batch-rows", "1.5"], "integer of at least 1"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(capsys, arguments, message):
    parser = argparse.ArgumentParser()
    add_serve(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["model.recfx", *arguments])
    assert message in capsys.readouterr().err


def test_the_command_names_a_missing_folder(capsys, tmp_path):
    assert main(["serve", str(tmp_path / "nix.recfx")]) == 1
    error = capsys.readouterr().err
    assert "no saved model there" in error
    assert "nix.recfx" in error


@pytest.mark.parametrize("arguments", [["--updaters", "a"], ["--updaters", "a", "--allow-updates"]])
def test_updaters_need_tokens(arguments):
    parser = argparse.ArgumentParser()
    add_serve(parser)
    with pytest.raises(InputError, match="no tokens or no updates"):
        update_settings(parser.parse_args(["m", *arguments]))


def test_the_options_of_updates():
    parser = argparse.ArgumentParser()
    add_serve(parser)
    assert update_settings(parser.parse_args(["m"])) is None
    found = update_settings(
        parser.parse_args(["m", "--allow-updates", "--updaters", "a,b", "--tokens", "file", "--update-sync", "disk"])
    )
    assert found is not None
    assert (found.tenants, found.sync) == (frozenset({"a", "b"}), "disk")


def _parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_serve(parser)
    return parser.parse_args(arguments)


#: Option -> its value without arguments.
DEFAULTS = {
    **{"models": ["m"], "run": run_serve, "host": "127.0.0.1", "port": 8000, "grpc_port": None, "workers": 1},
    **{"calls": None, "threads": 1, "batch_rows": 1024, "no_split": False, "wait": 0.0, "timeout": None},
    "grace": math.inf,
    **{"most_queued": 1024, "most_bytes": 64 << 20, "most_connections": 1000, "drain": 10.0, "tokens": None},
    **{"tenant_rows": None, "allow_updates": False, "updaters": None, "update_sync": "process", "logs": "text"},
    **{"certificate": None, "key": None, "engine": "local", "ray_address": None, "replicas": 1},
    **{"routing": "peak-ewma", "otel": None},
}


def test_every_option_has_its_default() -> None:
    assert vars(_parsed("m")) == DEFAULTS
    with pytest.raises(SystemExit):
        _parsed()


def test_without_options_the_plan_is_the_default_one() -> None:
    plan = plan_of(_parsed("m"), [("m", [])])
    settings, engine = plan.settings, plan.engine
    assert (plan.models, plan.tenants, plan.updates, plan.logs) == ([("m", [])], None, None, "text")
    assert plan.tracing is None
    assert plan.made_tracing() is None
    assert (settings.host, settings.port, settings.grpc_port) == ("127.0.0.1", 8000, None)
    assert (settings.certificate, settings.key, plan.http.tokens) == (None, None, {})
    assert (engine.workers, engine.split, engine.timeout, engine.most_wait) == (processors(), True, None, 0.0)
    assert engine.grace == math.inf


def test_options_become_the_plan(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("tokens", "certificate", "key")]
    for path in files:
        path.write_text("abc shop\n")
    tokens, certificate, key = map(str, files)
    plan = plan_of(
        _parsed(
            *("m", "--host", "::1", "--port", "0", "--grpc-port", "65535", "--most-connections", "7", "--drain", "2.5"),
            *("--certificate", certificate, "--key", key, "--tokens", tokens, "--most-bytes", "99"),
            *("--calls", "3", "--threads", "2", "--batch-rows", "77", "--no-split", "--wait", "4", "--timeout", "250"),
            *("--most-queued", "5", "--tenant-rows", "60", "--allow-updates", "--logs", "json", "--grace", "30"),
        ),
        [],
    )
    settings, engine, http = plan.settings, plan.engine, plan.http
    assert (settings.host, settings.port, settings.grpc_port) == ("::1", 0, 65535)
    assert (settings.most_connections, settings.drain) == (7, 2.5)
    assert (settings.certificate, settings.key) == (files[1], files[2])
    assert (http.most_bytes, http.tokens) == (99, {"abc": "shop"})
    assert (engine.workers, engine.threads, engine.batch_rows, engine.split) == (3, 2, 77, False)
    assert (engine.most_wait, engine.timeout, engine.grace, engine.most_queued) == (0.004, 0.25, 0.03, 5)
    assert plan.tenants == TenantConfig(TenantLimit(60, 60.0))
    assert plan.updates is not None
    assert (plan.updates.sync, plan.logs) == ("process", "json")
