"""What the OpenAPI says of an answer, and whether it holds."""

import json
import re
from importlib import import_module
from typing import Any

import httpx

from perdure_connectors import dashboard
from perdure_connectors.http.app import OPERATIONS
from perdure_connectors.http.openapi import document
from perdure_connectors.http.webhooks import OPERATION as WEBHOOK

jsonschema: Any = import_module("jsonschema")
"""By name, since it brings no types."""

DOCUMENT: dict[str, Any] = json.loads(json.dumps(document([*OPERATIONS, WEBHOOK])))
PAGES = {route.path for route in dashboard.routes()}
"""Files for browsers: tests/dashboard looks at them."""
_OUTSIDE = {404, 405}
"""Answers of no operation: there is no such path, or no such method."""


def _pattern(path: str) -> str:
    slashes = {one.path.replace(":path", ""): ":path" in one.path for one in OPERATIONS}
    return re.sub(r"\\{\w+\\}", ".+" if slashes.get(path) else "[^/]+", re.escape(path))


# The longest first: `/v1/runs/{run_id}/result` before `/v1/runs/{run_id}`.
_PATHS = {re.compile(_pattern(path)): path for path in sorted(DOCUMENT["paths"], key=len, reverse=True)}


def check_answer(answer: httpx.Response) -> None:
    """Raises for an answer that the OpenAPI does not have."""
    request = answer.request
    if request.url.path in PAGES:
        return
    path = next((path for pattern, path in _PATHS.items() if pattern.fullmatch(request.url.path)), None)
    method = "get" if request.method == "HEAD" else request.method.lower()
    operation = DOCUMENT["paths"].get(path, {}).get(method)
    if operation is None:
        assert answer.status_code in {*_OUTSIDE, 400, 403, 414, 431}, f"{method} {request.url.path}"
        return
    told = operation["responses"].get(str(answer.status_code))
    assert told is not None, f"{method} {path}: {answer.status_code} is not in the OpenAPI: {answer.text}"
    media = answer.headers["content-type"].partition(";")[0]
    assert media in told["content"], f"{method} {path}: {answer.status_code} as {media}"
    if media.startswith("text/") or media == "application/x-ndjson" or request.method == "HEAD":
        return
    schema = {"components": DOCUMENT["components"], **told["content"][media]["schema"]}
    jsonschema.validate(answer.json(), schema, cls=jsonschema.Draft202012Validator)
