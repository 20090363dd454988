"""Balancers: probes are answered after their time, by replicas that live."""

from __future__ import annotations

import pytest
from simulator_kit import scenario

from recfx.serve.policies import Prequal
from recfx.serve.simulator import Policies
from recfx.serve.simulator.balancer import Balancer
from recfx.serve.simulator.fleet import Replica


def made(routing: str = "prequal", replicas: int = 4, delay: float = 0.01) -> tuple[Balancer, list[Replica]]:
    given = scenario(replicas=replicas, policies=Policies(routing=routing), probe_seconds=delay)
    fleet = [Replica(number, given, given.machines[0]) for number in range(replicas)]
    return Balancer(0, given, fleet), fleet


def test_answers_are_known_after_the_time_of_a_probe() -> None:
    balancer, fleet = made()
    router = balancer.router
    assert isinstance(router, Prequal)
    for replica in fleet:
        replica.load.finished(replica.load.arrived(), 0.007, 0.0)
    balancer.choose(0.0)
    balancer.choose(0.009)
    assert router.pool == ()
    balancer.choose(0.0101)
    assert router.pool
    assert all(probe.seconds == pytest.approx(0.007) for probe in router.pool)


def test_dead_replicas_do_not_answer() -> None:
    balancer, fleet = made()
    fleet[2].alive = False
    for number in range(50):
        balancer.choose(number * 0.02)
    assert isinstance(balancer.router, Prequal)
    assert 2 not in {probe.replica for probe in balancer.router.pool}


def test_other_routers_send_no_probes() -> None:
    balancer, _ = made("round-robin")
    assert [balancer.choose(0.0) for _ in range(5)] == [0, 1, 2, 3, 0]
    assert balancer.choose(0.0, avoid=1) == 2


def test_balancers_draw_differently() -> None:
    given = scenario(replicas=50)
    fleet = [Replica(number, given, given.machines[0]) for number in range(50)]
    first, second = (Balancer(number, given, fleet) for number in (0, 1))
    assert [first.choose(0.0) for _ in range(9)] != [second.choose(0.0) for _ in range(9)]
