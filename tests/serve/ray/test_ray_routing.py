"""The policies of recfx choose replicas of Ray Serve."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from recfx.serve.policies.routing import Router

pytest.importorskip("ray", reason='pip install "recfx[ray]"')

from ray.exceptions import RayActorError

from recfx.serve.ray import routing
from recfx.serve.ray.routing import POLICIES, PolicyRouter, configured

pytestmark = pytest.mark.slow  # `make slow` installs Ray


@dataclasses.dataclass
class Running:
    """What the router sees of a replica."""

    replica_id: str
    in_flight: int = 0
    routing_stats: dict[str, float] = dataclasses.field(default_factory=dict)
    dead: bool = False
    probes: int = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.probes += 1
        if self.dead:
            raise RayActorError
        return self.in_flight


@dataclasses.dataclass
class Pending:
    """A request."""

    internal_request_id: str

    @property
    def metadata(self) -> Any:
        return self


def router(policy: str) -> PolicyRouter:
    made = PolicyRouter.__new__(PolicyRouter)  # Ray Serve's own part needs a controller
    made.initialize_state(policy, seed=0)
    return made


def chosen(made: PolicyRouter, replicas: list[Running]) -> str:
    """The replica that is chosen; the others come after it."""

    async def choose() -> Any:
        found = await made.choose_replicas(replicas)
        await asyncio.gather(*made._probes)
        return found

    first, *others = asyncio.run(choose())
    assert len(first) == 1
    assert {each.replica_id for group in (first, *others) for each in group} == {each.replica_id for each in replicas}
    found: str = first[0].replica_id
    return found


def send(made: PolicyRouter, replica: str, number: int) -> None:
    made.on_request_routed(Pending(str(number)), replica, None)


@pytest.mark.parametrize("policy", POLICIES)
def test_replicas_that_come_and_go_are_followed(policy: str) -> None:
    made, held = router(policy), [Running("a"), Running("b")]
    assert asyncio.run(made.choose_replicas([])) == []
    assert chosen(made, held) in "ab"
    assert isinstance(made._policy, Router)
    for number in range(20):
        present = held[:1] if number % 3 else [*held, Running("c")]
        name = chosen(made, present)
        assert name in {each.replica_id for each in present}
        send(made, name, number)
        made.on_request_completed(name, str(number))
        assert set(made._policy.replicas) == {each.replica_id for each in present}
    assert made._sent == {}


def test_requests_in_flight_count() -> None:
    made, held = router("least-in-flight"), [Running("a"), Running("b"), Running("c")]
    names = []
    for number in range(6):
        names.append(chosen(made, held))
        send(made, names[-1], number)
    assert sorted(names) == ["a", "a", "b", "b", "c", "c"]
    made.on_request_completed("b", str(names.index("b")))
    assert chosen(made, held) == "b"
    made.on_request_completed("b", "a request of another router")


def test_prequal_probes_replicas_and_forgets_those_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "_PROBE_SECONDS", 0.05)
    made = router("prequal")
    held = [Running("a", 50, {"seconds": 0.5}), Running("b", 1, {"seconds": 0.001}), Running("c", dead=True)]
    names = [chosen(made, held) for _ in range(40)]
    assert all(each.probes for each in held)
    assert names[20:].count("b") > 15


def test_the_settings_name_the_class() -> None:
    found = configured("prequal")
    module, _, name = found["request_router_class"].partition(":")
    assert (module, name) == (PolicyRouter.__module__, "PolicyRouter")
    assert found["request_router_kwargs"] == {"policy": "prequal"}
