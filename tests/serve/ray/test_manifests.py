"""The manifests of docs/ray.md fit the schemas of Kubernetes, and those of KServe as its client describes them."""

from __future__ import annotations

import ast
import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
yaml = pytest.importorskip("yaml", reason="pip install PyYAML")
kubernetes = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
HAS_KSERVE = importlib.util.find_spec("kserve") is not None

PAGE = Path(__file__).parents[3] / "docs" / "ray.md"
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def manifests() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def one(kind: str) -> dict[str, Any]:
    return next(document for document in manifests() if document["kind"] == kind)


def validate(document: dict[str, Any]) -> None:
    """Raises an error if a document of Kubernetes itself does not fit, or has unknown fields."""
    kubernetes.validate(document, kubernetes.latest_version(), strict=True)


def fields_of(name: str) -> dict[str, str]:
    """JSON key -> type of a class of KServe's client, read from its source: importing it needs the whole server."""
    spec = importlib.util.find_spec("kserve")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "models"
    for file in folder.glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                tables = {
                    target.id: ast.literal_eval(statement.value)
                    for statement in node.body
                    if isinstance(statement, ast.Assign)
                    for target in statement.targets
                    if isinstance(target, ast.Name) and target.id in ("openapi_types", "attribute_map")
                }
                return {key: tables["openapi_types"][field] for field, key in tables["attribute_map"].items()}
    raise AssertionError(f"KServe has no {name}")


def check(value: Any, kind: str, where: str) -> None:
    """Asserts that a value of a manifest has a type of KServe's client."""
    if kind.startswith("list["):
        assert isinstance(value, list), where
        for number, entry in enumerate(value):
            check(entry, kind[5:-1], f"{where}[{number}]")
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{where}: {value!r} is not {kind}"
    elif kind == "V1ObjectMeta":
        assert set(value) <= {"name", "namespace", "labels", "annotations"}, where
    elif kind == "V1Container":
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [value]}}
        validate(pod)
    elif kind.startswith("dict("):
        assert isinstance(value, dict), where
    else:
        known = fields_of(kind)
        for key, entry in value.items():
            assert key in known, f"{where}: {kind} has no field {key}"
            check(entry, known[key], f"{where}.{key}")


def kind_of(document: dict[str, Any]) -> str:
    return document["apiVersion"].split("/")[-1].capitalize() + document["kind"]


def test_the_page_has_the_manifests() -> None:
    assert [document["kind"] for document in manifests()] == [
        "Deployment",
        "Service",
        "InferenceService",
        "ServingRuntime",
    ]


@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_manifests_of_kubernetes(kind: str) -> None:
    validate(one(kind))


@pytest.mark.skipif(not HAS_KSERVE, reason="pip install kserve")
@pytest.mark.parametrize("kind", ["InferenceService", "ServingRuntime"])
def test_manifests_of_kserve(kind: str) -> None:
    document = one(kind)
    check(document, kind_of(document), kind)


def test_the_parts_name_each_other() -> None:
    """The service selects the pods and their ports; the runtime has the name and the format that the model asks for."""
    template, service = one("Deployment")["spec"]["template"], one("Service")["spec"]
    assert service["selector"] == template["metadata"]["labels"] == one("Deployment")["spec"]["selector"]["matchLabels"]
    (container,) = template["spec"]["containers"]
    assert {port["targetPort"] for port in service["ports"]} <= {port["name"] for port in container["ports"]}
    model, runtime = one("InferenceService")["spec"]["predictor"]["model"], one("ServingRuntime")
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {f["name"] for f in runtime["spec"]["supportedModelFormats"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


@pytest.mark.parametrize("kind", ["Deployment", "ServingRuntime"])
def test_the_commands_are_understood(kind: str) -> None:
    from recfx.cli import command_parser

    spec = one(kind)["spec"]
    (container,) = (spec["template"]["spec"] if kind == "Deployment" else spec)["containers"]
    program, *arguments = container["command"]
    assert program == "recfx"
    ports = {port["containerPort"] for port in container["ports"]}
    options = command_parser().parse_args(arguments)
    assert options.port in ports
    assert options.grpc_port is None or options.grpc_port in ports


def test_faults_are_found() -> None:
    wrong = copy.deepcopy(one("Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes.ValidationError):
        validate(wrong)
    if HAS_KSERVE:
        service = copy.deepcopy(one("InferenceService"))
        service["spec"]["predictor"]["model"]["storageURL"] = "x"
        with pytest.raises(AssertionError, match="no field storageURL"):
            check(service, kind_of(service), "service")
