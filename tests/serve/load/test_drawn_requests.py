"""Requests that are drawn for a model or from examples: they fit, and the server answers them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from engine_kit import compiled
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import recfx
from recfx.cli import main
from recfx.errors import InputError
from recfx.serve import Server
from recfx.serve.engine.interface import ModelInterface
from recfx.serve.http.messages import read_request
from recfx.serve.load.inputs import http_request, pool_of_file, pool_of_model
from recfx.serve.load.run import run_load


@given(rows=st.integers(1, 50), seed=st.integers(0, 100))
def test_drawn_requests_fit_the_model(rows, seed):
    interface = ModelInterface(compiled())
    leaves = interface.leaves(POOL.draw(rows, np.random.default_rng(seed)))
    assert interface.rows(leaves) == rows
    (output,) = interface.call(leaves)
    assert output.shape == (rows,)


POOL = pool_of_model(compiled())


def test_ids_are_spread_over_their_tables():
    ids = POOL.draw(3000, np.random.default_rng(0))["sparse"]
    assert [len(column.unique()) for column in ids.T] == [20, 30, 30]


def test_the_bytes_of_a_request():
    tensors = POOL.draw(3, np.random.default_rng(0))
    head, _, body = http_request("host:1", "tiny", tensors, ["Authorization: Bearer x"]).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v2/models/tiny/infer HTTP/1.1"
    assert "Authorization: Bearer x" in lines
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert int(headers["Content-Length"]) == len(body)
    request = read_request(bytearray(body), int(headers["Inference-Header-Content-Length"]))
    assert request.binary
    for name, tensor in tensors.items():
        assert torch.equal(request.tensors[name], tensor)


class User(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, user, items):
        return (self.user(user) * self.item(items)).sum(1)


def test_what_belongs_to_a_whole_request_is_in_each():
    inputs = (torch.rand(1, 3), torch.rand(4, 4))
    fast = recfx.optimize(User().eval(), target="eager", example_inputs=inputs, request_inputs=["user"], measure=False)
    pool = pool_of_model(fast)
    drawn = pool.draw(7, np.random.default_rng(0))
    assert drawn["user"].shape == (1, 3)
    assert drawn["items"].shape == (7, 4)
    interface = ModelInterface(fast)
    assert interface.call(interface.leaves(drawn))[0].shape == (7,)


def test_examples_in_a_file(tmp_path):
    path = tmp_path / "rows.npz"
    np.savez(path, dense=np.ones((9, 5), np.float32), sparse=np.ones((9, 3), np.int64), user=np.ones((1, 2)))
    drawn = pool_of_file(path).draw(4, np.random.default_rng(0))
    assert {name: tuple(tensor.shape) for name, tensor in drawn.items()} == {
        "dense": (4, 5),
        "sparse": (4, 3),
        "user": (1, 2),
    }


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.ones((3, 2)), "b": np.ones((4, 2))}, "differ in their rows"),
        ({"a": np.array(3.0)}, "numbers with rows"),
        ({"a": np.array(["x", "y"])}, "cannot read the examples"),
        ({}, "numbers with rows"),
    ],
)
def test_wrong_files_are_refused(tmp_path, arrays, message):
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message):
        pool_of_file(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot read the examples"):
        pool_of_file(tmp_path / "nix.npz")


def test_a_server_answers_what_was_drawn():
    with Server({"tiny": compiled()}, port=0) as server:
        host, port = server.address.removeprefix("http://").split(":")
        generator = np.random.default_rng(0)
        requests = [http_request(f"{host}:{port}", "tiny", POOL.draw(n + 1, generator)) for n in range(8)]
        load = asyncio.run(run_load(host, int(port), requests, np.arange(40) * 0.005))
    assert load.status.tolist() == [200] * 40


def test_the_command_prints_figures_and_finds_the_largest_rate(tmp_path, capsys):
    folder = tmp_path / "tiny.recfx"
    compiled().save(folder)
    with Server({"tiny": compiled()}, port=0) as server:
        arguments = ["bench", "serve", server.address, "--model", str(folder), "--seconds", "0.5", "--warm-up", "0.1"]
        assert main([*arguments, "--rate", "40"]) == 0
        assert "40 offered" in capsys.readouterr().out
        assert main([*arguments, "--rate", "20", "--sla", "0.001"]) == 0
        assert "requests/s within 0.001 ms at p99" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://127.0.0.1:1"], "for a saved model or from examples"),
        (["127.0.0.1:1", "--model", "x"], "is not an address"),
        (["http://127.0.0.1:1", "--examples", "x.npz"], "name of the model is not known"),
    ],
)
def test_wrong_arguments_are_refused(capsys, arguments, message):
    assert main(["bench", "serve", *arguments]) == 1
    assert message in capsys.readouterr().err
