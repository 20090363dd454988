"""Outcomes of worker threads reach the event loop, many of them in one call into it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from recfx.serve.bridge import Bridge


def test_an_outcome_of_the_loops_own_thread_is_there_at_once() -> None:
    async def run() -> None:
        future, finish = Bridge(asyncio.get_running_loop()).future()
        assert not future.done()
        finish([])
        assert future.result() == []

    asyncio.run(run())


def test_outcomes_that_arrive_together_share_a_call_into_the_loop() -> None:
    calls: list[Any] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        bridge = Bridge(loop)

        def counted(function: Any) -> Any:
            calls.append(function)
            return asyncio.BaseEventLoop.call_soon_threadsafe(loop, function)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign, assignment]
        for _ in range(2):
            held = [bridge.future() for _ in range(3)]
            held[1][0].cancel()
            threads = [threading.Thread(target=finish, args=([number],)) for number, (_, finish) in enumerate(held)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not held[0][0].done()
            assert await asyncio.wait_for(held[2][0], 5) == [2]
            assert held[0][0].result() == [0]
            assert held[1][0].cancelled()
        del loop.call_soon_threadsafe

    asyncio.run(run())
    assert len(calls) == 2


def test_an_outcome_after_the_end_of_the_loop_is_dropped() -> None:
    async def made() -> Any:
        bridge = Bridge(asyncio.get_running_loop())
        return bridge, bridge.future()

    bridge, (future, finish) = asyncio.run(made())
    thread = threading.Thread(target=finish, args=([1],))
    thread.start()
    thread.join()
    assert not future.done()
    assert not bridge._arrived
