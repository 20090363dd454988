"""Processes that share a port find each other's metrics; those that have ended or hang are left out."""

from __future__ import annotations

import asyncio
import os
import socket

from engine_kit import Outcomes, compiled, tensors

from recfx.serve.engine.settings import EngineSettings
from recfx.serve.http.metrics import exposition, own_figures
from recfx.serve.models import Models
from recfx.serve.siblings import Siblings


def named(folder, name):
    made = Siblings(folder)
    made._own = folder / f"{name}.socket"
    return made


def test_each_process_has_the_figures_of_the_others(tmp_path):
    async def run():
        made = [named(tmp_path, name) for name in "abc"]
        for number, one in enumerate(made):
            await one.listen(lambda number=number: b"figures %d" % number)
        found = [await one.others() for one in made]
        for one in made:
            await one.close()
        return found, await made[0].others(), list(tmp_path.iterdir())

    found, after, left = asyncio.run(run())
    assert found == [[b"figures 1", b"figures 2"], [b"figures 0", b"figures 2"], [b"figures 0", b"figures 1"]]
    assert after == left == []


def test_the_socket_of_an_earlier_process_of_the_same_number_is_replaced(tmp_path):
    (tmp_path / "a.socket").touch()

    async def run():
        made = [named(tmp_path, name) for name in "ab"]
        await made[0].listen(lambda: b"figures")
        found = await made[1].others()
        await made[0].close()
        return found

    assert asyncio.run(run()) == [b"figures"]
    assert list(tmp_path.iterdir()) == []


def test_a_process_ends_although_its_socket_is_gone(tmp_path):
    async def run():
        made = named(tmp_path, "a")
        await made.close()  # before it listens
        await made.listen(lambda: b"figures")
        (tmp_path / "a.socket").unlink()
        await made.close()
        await made.close()

    asyncio.run(run())
    assert list(tmp_path.iterdir()) == []


def test_each_process_has_a_socket_of_its_own(tmp_path):
    assert Siblings(tmp_path)._own == tmp_path / f"{os.getpid()}.socket"


def test_a_process_that_has_ended_or_hangs_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("recfx.serve.siblings._SECONDS", 0.2)
    ended, hangs = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    ended.bind(str(tmp_path / "ended.socket"))
    hangs.bind(str(tmp_path / "hangs.socket"))
    hangs.listen(1)  # and never accepts
    assert asyncio.run(named(tmp_path, "own").others()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["hangs.socket"]
    ended.close()
    hangs.close()


def test_the_figures_of_processes_are_summed():
    models = Models(EngineSettings(workers=1))
    engine = models.add(compiled(), "a")
    outcomes = Outcomes()
    for number in range(3):
        engine.submit(tensors(2), outcomes.of(number))
    outcomes.wait(3)
    alone, kind = exposition(models)
    merged, same = exposition(models, [own_figures(models)])
    models.close()
    one, two = (
        dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if line[0] != "#") for text in (alone, merged)
    )
    assert kind == same
    assert one.keys() == two.keys()
    for name, value in one.items():
        factor = 1 if name.startswith(("recfx_model_version", "recfx_table_updates")) else 2
        assert float(two[name]) == factor * float(value), name
    assert float(two['recfx_requests_answered_total{model="a"}']) == 6.0
    heads = [[line for line in text.splitlines() if line.startswith(b"#")] for text in (alone, merged)]
    assert heads[0] == heads[1]
