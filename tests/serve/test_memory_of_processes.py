"""Processes that serve one model share its tables: N of them take the tables once and little more."""

from __future__ import annotations

import http.client
import time
from pathlib import Path

import pytest
import torch

import recfx
from recfx import zoo
from recfx.serve import EngineSettings, ServerProcesses, ServerSettings

pytestmark = pytest.mark.slow

#: Bytes of the tables, about; 16 tables of 64 columns.
TABLES = 1 << 30
#: Bytes that each process may take beside the tables; the fork server, which all of them share, included.
EACH = 150e6


def memory(process: int) -> tuple[float, float]:
    """Bytes of a process in which a page shared by n processes counts one nth, and bytes that no other process has."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    found = {name: 1024.0 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return found["Pss"], found["Private_Clean"] + found["Private_Dirty"]


def ask(place: str, path: str, body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection(place, timeout=120)
    connection.request("GET" if body is None else "POST", path, body)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_processes_share_the_tables(tmp_path):
    rows = TABLES // (16 * 64 * 4)
    torch.manual_seed(0)
    model = zoo.build("dlrm", tables=[rows] * 16, dim=64, bottom=(128, 64), top=(128, 64)).eval()
    example = model.example_inputs(16)
    folder = tmp_path / "large.recfx"
    recfx.optimize(model, example_inputs=example, target="native", measure=False).save(folder)
    del model
    count = 4
    settings = ServerSettings(port=0)
    with ServerProcesses({"large": folder}, count, settings=settings, engine=EngineSettings(workers=1)) as processes:
        place = processes.address.removeprefix("http://")
        assert ask(place, "/v2/health/ready") == 200
        ready = set()
        until = time.monotonic() + 120.0
        while len(ready) < count and time.monotonic() < until:
            ready |= {process for process in processes.ids if memory(process)[0] > 0.2 * TABLES / count}
            time.sleep(0.5)
        time.sleep(5.0)
        held = [memory(process) for process in processes.ids]
        forks = int(Path(f"/proc/{processes.ids[0]}/stat").read_text().split()[3])
        shared = memory(forks)
    total = sum(pss for pss, _ in held) + shared[0]
    shown = f"{count} processes: {total / 1e6:.0f} MB, of their own {[round(own / 1e6) for _, own in held]} MB"
    assert len(held) == count
    assert total <= TABLES + count * EACH, shown
