"""The options of `recfx serve`: models, variants, tokens, and early refusals."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from recfx.cli import main
from recfx.errors import InputError
from recfx.serve.command import add_serve, read_model, read_tokens, update_settings
from recfx.serve.models import Source


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
