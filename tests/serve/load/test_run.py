"""The open-loop generator: requests go out at their own times, and waiting for a slow server counts."""

from __future__ import annotations

import asyncio
import contextlib
import time

import numpy as np
import pytest

from recfx.serve.load.figures import described, largest_rate, tail
from recfx.serve.load.run import Load, precise_load, run_load


@contextlib.asynccontextmanager
async def answering(reply):
    """A server that gives each request to `reply(number)`, which returns the status, or None to close the connection."""
    count = 0
    connections = set()

    async def serve(reader, writer):
        nonlocal count
        connections.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                number, count = count, count + 1
                status = await reply(number)
                if status is None:
                    break
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def load(reply, due, **options):
    async def run():
        async with answering(reply) as port:
            return await run_load("127.0.0.1", port, [REQUEST], np.asarray(due, float), **options)

    return asyncio.run(run())


def test_requests_go_out_when_they_are_due():
    async def reply(number):
        return 200

    found = load(reply, np.arange(50) * 0.01)
    assert found.status.tolist() == [200] * 50
    assert (found.sent >= found.due).all()
    assert found.quantile(1.0) < 5.0
    assert np.median(found.sent - found.due) < 0.05


def test_a_slow_server_does_not_hold_up_the_next_requests():
    async def reply(number):
        await asyncio.sleep(0.5)
        return 200

    found = load(reply, [0.0, 0.01, 0.02, 0.03])
    assert (found.sent - found.due < 0.3).all()
    assert (found.seconds >= 0.5).all()


def test_the_time_for_a_free_connection_counts():
    async def reply(number):
        await asyncio.sleep(0.1)
        return 200

    found = load(reply, [0.0] * 4, most_connections=1)
    assert sorted(np.floor(found.seconds * 10).tolist()) == pytest.approx([1, 2, 3, 4], abs=1.0)
    assert found.seconds.max() >= 0.4


def test_statuses_and_failed_connections_are_counted():
    async def reply(number):
        return [200, 429, None, 504][number % 4]

    found = load(reply, np.arange(8) * 0.02)
    assert sorted(found.status.tolist()) == [0, 0, 200, 200, 429, 429, 504, 504]
    assert found.answered.sum() == 2
    texts = dict(described(found, 50.0))
    assert texts["answers"] == "2 connection failed, 2 answered, 2 overloaded, 2 too late"


def test_nobody_listens():
    async def run():
        return await run_load("127.0.0.1", 9, [REQUEST], np.zeros(3))

    found = asyncio.run(run())
    assert found.status.tolist() == [0, 0, 0]
    assert found.quantile(0.5) == tail(found) == float("inf")


def sample(seconds, status=200, due=None):
    count = len(seconds)
    due = np.arange(count) * 0.1 if due is None else due
    return Load(due, due, due + np.asarray(seconds), np.full(count, status))


def test_quantiles_are_times_that_occurred():
    found = sample(np.arange(1, 101) / 1000)
    assert found.quantile(0.5) == pytest.approx(0.051)
    assert found.quantile(0.99) == pytest.approx(0.1)
    assert len(found.after(5.0).due) == 50


def test_a_lost_request_breaks_the_limit_of_a_trial():
    good, bad = sample([0.001] * 99), sample([0.001], status=429)
    both = Load(*(np.concatenate([getattr(good, n), getattr(bad, n)]) for n in ("due", "sent", "done", "status")))
    assert tail(good) == pytest.approx(0.001)
    assert tail(both) == float("inf")
    assert tail(both, most_lost=0.02) == pytest.approx(0.001)


def test_the_largest_rate_within_a_limit():
    told = []

    def trial(rate):
        return sample([0.001 / (1 - rate / 1000) if rate < 1000 else 10.0] * 50)

    found = largest_rate(trial, 0.01, first=10.0, told=lambda rate, seconds: told.append(rate))
    assert 0.85 * 900 <= found <= 900
    assert len(told) <= 14


def test_requests_are_sent_on_time_without_spending_the_time_on_waiting():
    """The clock of the process counts what the generator itself computes: a loop that polls would take all of the 0.4 seconds."""
    begun, spent = time.monotonic(), time.process_time()
    load = precise_load("127.0.0.1", 9, [REQUEST], np.arange(40) * 0.01)
    spent, passed = time.process_time() - spent, time.monotonic() - begun
    assert load.status.tolist() == [0] * 40  # nobody listens there
    assert passed >= 0.39
    assert spent < 0.5 * passed
    assert (load.sent >= load.due).all()
    assert np.quantile(load.sent - load.due, 0.25) < 0.005


def test_more_connections_than_select_takes_are_driven_by_another_selector():
    assert precise_load("127.0.0.1", 9, [REQUEST], np.zeros(2), most_connections=2000).status.tolist() == [0, 0]
