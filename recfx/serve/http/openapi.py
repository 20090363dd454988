"""The OpenAPI description of the HTTP interface, for clients that are generated from it and for tests."""

from __future__ import annotations

from typing import Any

from recfx.serve.engine.datatypes import DTYPES
from recfx.version import VERSION

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 16}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"enum": list(DTYPES)},
        "shape": _SHAPE,
        "parameters": _PARAMETERS,
        "data": {"type": "array", "items": {"type": ["number", "boolean", "array"]}},
    },
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
            },
        },
    },
}
_ERROR = {
    "description": "no answer, and why",
    "content": {"application/json": {"schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}}},
}  # fmt: skip


def _operation(summary: str, parameters: list[Any], kind: str = "application/json", **more: Any) -> dict[str, Any]:
    answer = {"description": summary, "content": {kind: {}}}
    return {"summary": summary, "parameters": parameters, "responses": {"200": answer, "default": _ERROR}, **more}


def openapi_document() -> dict[str, Any]:
    """The description of all paths."""
    body = {"required": True, "content": {"application/json": {"schema": _REQUEST}}}
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("the server", [])},
        "/v2/health/live": {"get": _operation("whether the server runs", [])},
        "/v2/health/ready": {"get": _operation("whether every model is ready", [])},
        "/v2/repository/index": {"post": _operation("the models", [])},
        "/v2/repository/models/{name}/load": {"post": _operation("the folder of the model is loaded again", [_NAME])},
        "/status": {"get": _operation("load and times of the models", [])},
        "/metrics": {"get": _operation("metrics for Prometheus", [], "text/plain")},
    }
    for prefix, parameters in (
        ("/v2/models/{name}", [_NAME]),
        ("/v2/models/{name}/versions/{version}", [_NAME, _VERSION]),
    ):
        paths[prefix] = {"get": _operation("the inputs and outputs of a model", parameters)}
        paths[f"{prefix}/ready"] = {"get": _operation("whether the model is ready", parameters)}
        paths[f"{prefix}/tables"] = {
            "get": _operation("the tables of a model", parameters),
            "post": _operation("new rows are written into tables", parameters, requestBody=body),
        }
        paths[f"{prefix}/infer"] = {"post": _operation("the model's answer", parameters, requestBody=body)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "recfx serve: Open Inference Protocol v2", "version": VERSION},
        "security": [{}, {"bearer": []}],
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }
