"""The operations as OpenAPI 3.1, made of the table that the routes are made of."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from inspect import cleandoc
from typing import Any

import msgspec

from perdure import errors
from perdure.errors import LogError, PerdureError
from perdure.history.store import HistoryDown, NoHistory
from perdure.sdk.http_wire import PROBLEM_TYPE
from perdure_connectors.http.problems import status_of
from perdure_connectors.http.routing import EventStream, JsonLines, Operation

Json = dict[str, Any]

_HEAD = {400: ("HttpError",), 403: ("HttpError",), 414: ("HttpError",), 431: ("HttpError",)}
"""What any request may be refused with by its head."""

_OTHER_PATH = {404: ("HttpError",), 405: ("HttpError",)}
"""With a slash or a dot in a parameter it may be another path: there is nothing, or it does not take this method."""

_LOG_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LogError)]
_WAIT: list[type[PerdureError]] = [errors.OutsideRun, errors.PayloadUnavailable, NoHistory, HistoryDown, *_LOG_ERRORS]
_ENGINE: list[type[PerdureError]] = [errors.KeepsNothing, *_WAIT]
"""What the engine may refuse anything with that it is asked."""

_BODY: list[type[PerdureError]] = [errors.PayloadError, errors.PayloadTooLarge]
_KEY: list[type[PerdureError]] = [errors.KeyRefused, errors.ScopeMissing]
_PARAMETER = re.compile(r"{(\w+)(?::path)?}")
_REF = "#/components/schemas/{name}"

_MEDIA: Mapping[Any, str] = {str: "text/plain", EventStream: "text/event-stream", JsonLines: "application/x-ndjson"}
"""Of answers that are not JSON."""

_PROBLEM: Json = {
    "title": "Problem",
    "description": "An error (RFC 9457). `type` is its class, `error` repeats the detail for Inngest's clients.",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "error": {"type": "string"},
        "ids": {"type": "array", "items": {"type": "string"}},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["type", "title", "status", "detail", "error"],
    "additionalProperties": False,
}


def document(operations: Iterable[Operation], root: str = "") -> Json:
    """Of a gateway that is mounted at `root`."""
    described = list(operations)
    types = {kind for one in described for kind in (*one.answers.values(), one.body) if kind is not None}
    wanted = sorted(types - {*_MEDIA, Any}, key=str)
    schemas, components = msgspec.json.schema_components(wanted, ref_template=_REF)
    schema_of: Mapping[Any, Json] = {
        **{kind: {"type": "string"} for kind in _MEDIA},
        Any: {},
        **dict(zip(wanted, schemas, strict=True)),
    }
    paths: dict[str, Json] = defaultdict(dict)
    for one in described:
        paths[_PARAMETER.sub(r"{\1}", one.path)][one.method.lower()] = _operation(one, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Perdure", "version": "1", "description": "Durable Python functions: events in, runs seen."},
        "servers": [{"url": root or "/"}],
        "paths": dict(paths),
        "components": {
            "schemas": {**components, "Problem": _PROBLEM},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
        },
    }


def refusals_of(operation: Operation) -> dict[int, list[str]]:
    """Status → names of the errors that it may end in. 500 may have any."""
    found: dict[int, set[str]] = defaultdict(set)
    kinds = [*_ENGINE, errors.PayloadError] if operation.asks_engine else []
    kinds += _KEY if operation.scope else []
    kinds += _BODY if operation.body else []
    for kind in kinds:
        found[status_of(kind)].add(kind.__name__)
    by_path = _OTHER_PATH if "{" in operation.path else {}
    by_body = {415: ("HttpError",)} if operation.body else {}
    for table in (_HEAD, operation.refusals, by_path, by_body):
        for status, names in table.items():
            found[status].update(names)
    return {status: sorted(names) for status, names in sorted(found.items())}


def _operation(one: Operation, schema_of: Mapping[Any, Json]) -> Json:
    summary, _, more = cleandoc(one.handler.__doc__ or "").partition("\n")
    told: Json = {
        "operationId": "_".join([one.method.lower(), *re.findall(r"\w+", one.path.replace(":path", ""))]),
        "summary": summary,
        "description": more.strip(),
        "parameters": [*_in_path(one), *_in_query(one)],
        "responses": {str(status): content for status, content in _responses(one, schema_of).items()},
    }
    if one.body is not None:
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema_of[one.body]}}}
    if one.scope is not None:
        told["security"] = [{"key": []}]
        told["x-perdure-scope"] = one.scope
    return told


def _in_path(one: Operation) -> list[Json]:
    schema = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in _PARAMETER.findall(one.path)]


def _in_query(one: Operation) -> list[Json]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in one.query.items()]


def _responses(one: Operation, schema_of: Mapping[Any, Json]) -> dict[int, Json]:
    answers = {status: _answer(status, kind, schema_of) for status, kind in one.answers.items()}
    refusals = {status: _refusal(status, names) for status, names in refusals_of(one).items()}
    for status in answers.keys() & refusals.keys():
        answers[status]["content"] |= refusals[status]["content"]
    return {**refusals, 500: _refusal(500, []), **answers}


def _answer(status: int, kind: Any, schema_of: Mapping[Any, Json]) -> Json:
    media = _MEDIA.get(kind, "application/json")
    return {"description": HTTPStatus(status).phrase, "content": {media: {"schema": schema_of[kind]}}}


def _refusal(status: int, names: list[str]) -> Json:
    known: Json = {"enum": [PROBLEM_TYPE + name for name in names]} if names else {"type": "string"}
    schema = {
        "allOf": [{"$ref": _REF.format(name="Problem")}],
        "properties": {"type": known, "status": {"const": status}},
    }
    return {"description": HTTPStatus(status).phrase, "content": {"application/problem+json": {"schema": schema}}}
