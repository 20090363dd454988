"""Servers: start and end, TLS, errors at the start, and processes that share a port."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from engine_kit import compiled, expected, tensors

from recfx.errors import InputError, TargetError
from recfx.serve import EngineSettings, Server, ServerProcesses, ServerSettings


def ask(address, path, body=None, timeout=30):
    connection = http.client.HTTPConnection(address, timeout=timeout)
    connection.request("GET" if body is None else "POST", path, body)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def body_of(request):
    kinds = {torch.float32: "FP32", torch.int64: "INT64"}
    inputs = [
        {"name": n, "datatype": kinds[t.dtype], "shape": list(t.shape), "data": t.tolist()} for n, t in request.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def scores(answer):
    return torch.tensor(answer["outputs"][0]["data"])


def test_a_server_starts_and_ends_with_its_block():
    with Server({"tiny": compiled()}, port=0) as server:
        place = server.address.removeprefix("http://")
        assert place.startswith("127.0.0.1:")
        status, answer = ask(place, "/v2/models/tiny/infer", body_of(tensors(3)))
        assert status == 200
        torch.testing.assert_close(scores(answer), expected(tensors(3)))
    with pytest.raises(ConnectionRefusedError):
        ask(place, "/v2")


def test_the_address_is_known_once_it_listens():
    server = Server({"tiny": compiled()}, port=0)
    with pytest.raises(InputError, match="does not listen yet"):
        server.address  # noqa: B018
    server.models.close()


def test_a_port_that_is_taken_is_an_error_and_ends_the_models():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for options, message in (
            ({"port": port}, "cannot listen: Address already in use"),
            ({"port": 0, "grpc_port": port}, "cannot listen for gRPC"),
            ({"port": 0, "host": "nowhere.invalid"}, "cannot listen"),
        ):
            server = Server({"tiny": compiled()}, **options)
            with pytest.raises(TargetError, match=message):
                server.start()
            assert not server.models.get("tiny").healthy


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_in_the_main_thread(number):
    def refused(*_):
        raise AssertionError("the server does not handle the signal")

    def ready(server):
        places.append(server.address)
        os.kill(os.getpid(), number)

    places, before = [], signal.signal(number, refused)
    server = Server({"tiny": compiled()}, port=0)
    try:
        server.run(ready=ready)
    finally:
        signal.signal(number, before)
    assert len(places) == 1
    assert not server.models.get("tiny").healthy


def test_a_server_that_does_not_listen_is_not_ready():
    closed = socket.socket()
    closed.close()
    server, told = Server({"tiny": compiled()}, port=0), []
    with pytest.raises(OSError, match="descriptor"):
        server.run([closed], told.append)
    assert told == []


def test_settings_are_checked(tmp_path):
    for options, message in (
        ({"port": -1}, "-1 is not a port"),
        ({"grpc_port": 65536}, "65536 is not a port"),
        ({"certificate": tmp_path / "c.pem"}, "certificate and its key"),
        ({"certificate": tmp_path / "c.pem", "key": tmp_path / "k.pem"}, "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            ServerSettings(**options)


def test_requests_over_tls(tmp_path):
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    settings = ServerSettings(port=0, certificate=certificate, key=key)
    with Server({"tiny": compiled()}, settings=settings) as server:
        assert server.address.startswith("https://")
        host, port = server.address.removeprefix("https://").split(":")
        connection = http.client.HTTPSConnection(
            host, int(port), context=ssl.create_default_context(cafile=str(certificate))
        )
        connection.request("POST", "/v2/models/tiny/infer", body_of(tensors(2)))
        torch.testing.assert_close(scores(json.loads(connection.getresponse().read())), expected(tensors(2)))
        connection.close()


def test_what_was_taken_is_answered_before_the_end():
    server = Server({"tiny": compiled()}, port=0, engine=EngineSettings(workers=1)).start()
    place, statuses, stopping = server.address.removeprefix("http://"), [], threading.Event()

    def load():
        while not stopping.is_set():
            try:
                statuses.append(ask(place, "/v2/models/tiny/infer", body_of(tensors(2)))[0])
            except (ConnectionRefusedError, ConnectionResetError, http.client.RemoteDisconnected):
                return

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(statuses) < 50:
        time.sleep(0.01)
    server.stop()
    stopping.set()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 50


class Process:
    """`recfx serve` in a process of its own."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "recfx", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        self.line = self.process.stdout.readline()
        self.place = self.line.split("http://")[1].split()[0].rstrip(",") if "http://" in self.line else ""

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "tiny.recfx"
    compiled().save(folder)
    return folder


def test_the_command_serves_until_it_is_told_to_end(saved):
    with Process(saved, "--port", 0, "--calls", 1) as server:
        assert server.line.startswith("serving tiny at http://127.0.0.1:"), server.process.communicate()
        status, answer = ask(server.place, "/v2/models/tiny/infer", body_of(tensors(2)))
        assert status == 200
        torch.testing.assert_close(scores(answer), expected(tensors(2)))
        compiled(1).save(saved)
        server.process.send_signal(signal.SIGHUP)
        for _ in range(200):
            version = ask(server.place, "/v2/models/tiny")[1]["versions"]
            if version == ["2"]:
                break
            time.sleep(0.05)
        answer = ask(server.place, "/v2/models/tiny/infer", body_of(tensors(2)))[1]
        torch.testing.assert_close(scores(answer), expected(tensors(2), seed=1))
        assert server.end() == 0


def children_of(process: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True).stdout
    return [int(child) for child in found.split()]


@pytest.mark.slow
def test_the_server_ends_with_the_process_that_starts_the_others(saved):
    with Process(saved, "--port", 0, "--workers", 2, "--calls", 1) as server:
        assert ask(server.place, "/v2/health/ready", timeout=120)[0] == 200
        (forks,) = children_of(server.process.pid)
        children = children_of(forks)
        os.kill(forks, signal.SIGKILL)
        assert server.process.wait(60) == 1
        for child in children:
            with pytest.raises(ProcessLookupError):
                os.kill(child, 0)


@pytest.mark.slow
def test_processes_share_a_port_and_are_replaced(saved):
    with Process(saved, "--port", 0, "--workers", 2, "--calls", 1) as server:
        assert "in 2 processes" in server.line
        assert ask(server.place, "/v2/health/ready", timeout=120)[0] == 200
        (forks,) = children_of(server.process.pid)
        children = children_of(forks)
        assert len(children) == 2
        time.sleep(6.0)
        os.kill(children[0], signal.SIGKILL)
        for _ in range(20):
            status, answer = ask(server.place, "/v2/models/tiny/infer", body_of(tensors(2)), timeout=120)
            assert status == 200
            torch.testing.assert_close(scores(answer), expected(tensors(2)))
        now = children_of(forks)
        assert len(now) == 2
        assert children[0] not in now
        assert server.end() == 0


@pytest.mark.slow
def test_any_process_shows_the_metrics_of_all(saved):
    settings = ServerSettings(port=0)
    with ServerProcesses({"tiny": saved}, 3, settings=settings, engine=EngineSettings(workers=1)) as processes:
        place = processes.address.removeprefix("http://")
        assert ask(place, "/v2/health/ready", timeout=120)[0] == 200
        time.sleep(10.0)  # the others are still loading
        for number in range(30):
            status, answer = ask(place, "/v2/models/tiny/infer", body_of(tensors(2, number)), timeout=120)
            assert status == 200
            torch.testing.assert_close(scores(answer), expected(tensors(2, number)))
        assert len(processes.ids) == 3
        forks = int(Path(f"/proc/{processes.ids[0]}/stat").read_text().split()[3])
        assert len(list(Path(f"/proc/{forks}/task").iterdir())) == 1, "a fork copies one thread only"
        shown = set()
        for _ in range(10):
            with urlopen(f"{processes.address}/metrics") as page:
                lines = [line for line in page.read().decode().splitlines() if not line.startswith("#")]
            figures = dict(line.rsplit(" ", 1) for line in lines)
            shown.add(float(figures['recfx_requests_answered_total{model="tiny"}']))
            assert float(figures['recfx_request_seconds_count{model="tiny"}']) == 30.0
            assert float(figures['recfx_model_version{model="tiny"}']) == 1.0
            assert float(figures['recfx_variant_active{model="tiny",variant="tiny"}']) == 3.0
        assert shown == {30.0}
    assert processes.stop() == 0


def test_processes_that_cannot_start_are_refused(saved, tmp_path):
    for models, count, settings, message in (
        ({"tiny": tmp_path / "nix"}, 2, ServerSettings(), "no saved model there"),
        ({"tiny": saved}, 0, ServerSettings(), "0 processes"),
        ({"tiny": saved}, 2, ServerSettings(grpc_port=0), "cannot share a free port"),
    ):
        with pytest.raises(InputError, match=message):
            ServerProcesses(models, count, settings=settings)
    with pytest.raises(InputError, match="have not been started"):
        ServerProcesses({"tiny": saved}, 2).address  # noqa: B018 - the property raises
