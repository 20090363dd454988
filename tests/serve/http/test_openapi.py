"""The OpenAPI description, and requests that Schemathesis makes from it: no request is answered by a fault of the server."""

from __future__ import annotations

import json
from urllib.request import urlopen

import pytest
from engine_kit import compiled
from hypothesis import HealthCheck, given, settings

from recfx.serve import Server
from recfx.serve.http.openapi import openapi_document


def test_every_path_is_described_and_answered():
    with Server({"tiny": compiled()}, port=0) as server:
        assert json.load(urlopen(f"{server.address}/openapi.json")) == json.loads(json.dumps(openapi_document()))
        for path, operations in openapi_document()["paths"].items():
            if "get" in operations:
                asked = path.replace("{name}", "tiny").replace("{version}", "1")
                assert urlopen(server.address + asked).status == 200


@pytest.mark.slow
def test_drawn_requests_find_no_fault_of_the_server():
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    schema = schemathesis.openapi.from_dict(openapi_document())
    statuses = set()
    with Server({"tiny": compiled(), "name": compiled()}, port=0) as server:
        for operation in schema.get_all_operations():
            strategy = operation.ok().as_strategy()

            @settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None, database=None)
            @given(case=strategy)
            def ask(case):
                if case.path_parameters and case.path_parameters.get("name", "").startswith(("0", "a", "n")):
                    case.path_parameters["name"] = "tiny"
                answer = case.call(base_url=server.address)
                statuses.add(answer.status_code)
                assert answer.status_code < 500, answer.text

            ask()
    assert 200 in statuses
    assert 400 in statuses
