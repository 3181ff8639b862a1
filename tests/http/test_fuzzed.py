"""schemathesis against `perdure serve` with keys: requests that fit the OpenAPI, and requests that do not.

`make fuzz` asks 200 times for each operation both ways; here it is a few.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from perdure.sdk.keys import SCOPES, new_key
from tests.http.contract import DOCUMENT

EXAMPLES = int(os.environ.get("PERDURE_FUZZ_EXAMPLES", "8"))

schemathesis: Any = import_module("schemathesis")
checks: Any = import_module("schemathesis.specs.openapi.checks")
"""By name: not all of it is typed."""

CHECKS = [
    import_module("schemathesis.checks").not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
SCHEMA.validate()
OPERATIONS = {one.label: one for one in (found.ok() for found in SCHEMA.get_all_operations())}

UNHURRIED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
"""What hypothesis would give up for: schemas that are hard to fit, requests that take their time."""

SHOP = """
from typing import Any

from perdure import App, Context, Event

app = App("shop")


@app.function(on="shop/ordered")
async def order(ctx: Context, event: Event[Any]) -> str:
    return "done"


@app.background
async def mail(to: Any = None) -> str:
    return "sent"
"""


class Served(NamedTuple):
    """An engine, who may ask it, and what there is to ask for."""

    url: str
    headers: dict[str, str]
    known: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("fuzzed")
    folder.joinpath("shop.py").write_text(SHOP)
    key, grant = new_key(SCOPES, "fuzz")
    here = [path for path in sys.path if Path(path).is_absolute()]
    environment = {**os.environ, "PERDURE_KEYS": grant.line(), "PYTHONPATH": os.pathsep.join(here)}
    command = [sys.executable, "-m", "perdure", "serve", "shop:app", "--port", "0", "--log", "log", "--json"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as engine:
        try:
            assert engine.stdout is not None
            url = json.loads(engine.stdout.readline())["ready"]["url"]
            headers = {"authorization": f"Bearer {key}"}
            asked = httpx.post(f"{url}/v1/functions/mail/runs", json={}, headers=headers, timeout=30)
            run_id = asked.json()["run_id"]
            httpx.post(f"{url}/e/x", json={"name": "shop/ordered", "id": "e1"}, headers=headers, timeout=30)
            ended = httpx.get(f"{url}/v1/runs/{run_id}/result", headers=headers, timeout=30)
            assert ended.json()["status"] == "completed"
            yield Served(url, headers, {"run_id": run_id, "event_id": "e1", "function_id": "mail"})
        finally:
            engine.terminate()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=str)
@pytest.mark.parametrize("label", OPERATIONS)
def test_no_answer_is_outside_the_openapi(served: Served, label: str, mode: Any) -> None:
    asked = 0

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=UNHURRIED)
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode), known=st.booleans(), number=st.integers())
    def ask(case: Any, known: bool, number: int) -> None:
        nonlocal asked
        if known:
            case.path_parameters |= {
                name: served.known.get(name, value) for name, value in case.path_parameters.items()
            }
        if label == "GET /v1/live":
            # It would go on for as long as the engine does.
            case.query = {**(case.query or {}), "timeout": "0s"}
        # The number makes two requests of what takes nothing: hypothesis asks for nothing twice.
        headers = {**served.headers, "x-number": str(number)}
        response = case.call(base_url=served.url, headers=headers, timeout=40)
        case.validate_response(response, checks=CHECKS)
        asked += 1

    try:
        ask()
    except Unsatisfiable:
        # There is no wrong way to ask for what takes nothing.
        assert mode != schemathesis.GenerationMode.POSITIVE
        return
    print(f"{label}, {mode}: {asked} requests")
    assert asked >= EXAMPLES
