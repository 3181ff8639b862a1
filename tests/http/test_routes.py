"""The routes of runs and functions: shapes, refusals, long polls."""

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from perdure.errors import LogError
from perdure_connectors.http import gateway
from perdure_schemas.payload import ErrorInfo
from perdure_schemas.records import LogLevel, RunLogged, V
from tests.http.fake_port import FakePort
from tests.http.serving import client_of


async def test_runs_are_listed_in_pages(port: FakePort) -> None:
    for n in range(5):
        port.add(f"r{n}", "order" if n % 2 else "mail")
    async with client_of(port) as client:
        first = (await client.get("/v1/runs?limit=2")).json()
        second = (await client.get("/v1/runs", params={"limit": 4, "cursor": first["cursor"]})).json()
        only = (await client.get("/v1/runs?function=order&status=running")).json()
    assert [run["id"] for run in first["data"] + second["data"]] == ["r0", "r1", "r2", "r3", "r4"]
    assert second["cursor"] == ""
    assert [run["id"] for run in only["data"]] == ["r1", "r3"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "from 1 to 500"),
        ("limit=x", "from 1 to 500"),
        ("limit=9999999999999999999999", "from 1 to 500"),
        ("status=done", "none of queued, running"),
        ("functoin=order", "no parameter 'functoin'"),
    ],
)
async def test_parameters_that_cannot_be_right(port: FakePort, query: str, words: str) -> None:
    async with client_of(port) as client:
        answer = await client.get(f"/v1/runs?{query}")
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


async def test_a_run_is_shown_cancelled_and_run_again(port: FakePort) -> None:
    port.add("r1")
    async with client_of(port) as client:
        assert (await client.get("/v1/runs/r1")).json()["run"]["function"] == "order"
        cancelled = await client.delete("/v1/runs/r1?reason=wrong+order")
        again = await client.post("/v1/runs/r1/rerun")
    assert (cancelled.status_code, cancelled.json()) == (202, {"run_id": "r1"})
    assert port.cancelled == [("r1", "wrong order")]
    assert (again.status_code, again.json()) == (201, {"run_id": "r1-again"})
    assert again.headers["location"] == "/v1/runs/r1-again"


async def test_a_fork_is_asked_for_by_parts(port: FakePort) -> None:
    part = {"function": "order", "key": "k", "of": "r1", "seed": "r1", "began": 1, "total": 2, "first": 1}
    lines = [{"at": 5, "line": '{"kind": "step.completed"}'}]
    async with client_of(port) as client:
        made = await client.post("/v1/forks", json=part | {"lines": lines})
        unknown = await client.post("/v1/forks", json=part | {"lines": [], "function": "nobody"})
        misfit = await client.post("/v1/forks", json=part | {"lines": [], "lins": []})
        missing = await client.post("/v1/forks", json={"function": "order"})
    assert (made.status_code, made.json()) == (201, {"run_id": "fork-k"})
    assert made.headers["location"] == "/v1/runs/fork-k"
    assert [(ask.first, [line.at for line in ask.lines]) for ask in port.forks] == [(1, [5])]
    assert (unknown.status_code, misfit.status_code, missing.status_code) == (404, 400, 400)
    assert "lins" in misfit.json()["detail"]
    assert "`key`" in missing.json()["detail"]


async def test_what_a_run_logged(port: FakePort) -> None:
    port.add("r1")
    levels: list[LogLevel] = ["debug", "info", "error"]
    port.logged = [RunLogged(V, "r1", 1, level, "shop", f"<b>{level}") for level in levels]
    async with client_of(port) as client:
        page = (await client.get("/v1/runs/r1/logs?limit=2")).json()
        rest = (await client.get("/v1/runs/r1/logs", params={"limit": 2, "cursor": page["cursor"]})).json()
        severe = (await client.get("/v1/runs/r1/logs?level=error")).json()
        refused = await client.get("/v1/runs/r1/logs?level=loud")
        unknown = await client.get("/v1/runs/r2/logs")
        changed = await client.post("/v1/runs/r1/logs")
    assert [line["message"] for line in page["data"] + rest["data"]] == ["<b>debug", "<b>info", "<b>error"]
    assert (page["end"], rest["end"]) == (False, True)
    assert [line["level"] for line in severe["data"]] == ["error"]
    assert (refused.status_code, unknown.status_code, changed.status_code) == (400, 404, 405)


async def test_a_parked_run_is_told_to_go_on(port: FakePort) -> None:
    port.add("r1", status="parked")
    port.add("r2")
    async with client_of(port) as client:
        parked = await client.post("/v1/runs/r1/unpark")
        running = await client.post("/v1/runs/r2/unpark")
    assert (parked.status_code, parked.json()) == (202, {"run_id": "r1"})
    assert (running.status_code, running.json()["type"]) == (409, "urn:perdure:error:NotParked")
    assert running.json()["detail"] == "run 'r2' is not parked: it is running"
    assert port.unparked == ["r1"]


async def test_a_function_is_paused_and_goes_on(port: FakePort) -> None:
    async with client_of(port) as client:
        paused = await client.post("/v1/functions/mail/pause")
        goes_on = await client.post("/v1/functions/mail/resume")
        unknown = [await client.post(f"/v1/functions/nobody/{what}") for what in ("pause", "resume")]
    assert (paused.status_code, paused.json()) == (202, {"function": "mail", "paused": True})
    assert (goes_on.status_code, goes_on.json()) == (202, {"function": "mail", "paused": False})
    assert {answer.json()["type"] for answer in unknown} == {"urn:perdure:error:UnknownFunction"}
    assert port.pauses == [("mail", True), ("mail", False)]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/runs/x"),
        ("DELETE", "/v1/runs/x"),
        ("GET", "/v1/runs/x/result"),
        ("POST", "/v1/runs/x/rerun"),
        ("POST", "/v1/runs/x/unpark"),
    ],
)
async def test_an_unknown_run(port: FakePort, method: str, path: str) -> None:
    async with client_of(port) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:perdure:error:UnknownRun")
    assert answer.headers["content-type"] == "application/problem+json"
    assert port.cancelled == []


async def test_a_result_is_waited_for(port: FakePort) -> None:
    port.add("r1")
    async with client_of(port) as client:
        asked = asyncio.create_task(client.get("/v1/runs/r1/result?timeout=20s"))
        await asyncio.sleep(0.05)
        assert not asked.done()
        port.end("r1", b'{"paid": true}')
        answer = await asked
    assert answer.status_code == 200
    assert answer.json() == {"run_id": "r1", "status": "completed", "result": {"paid": True}}


async def test_a_failed_run_is_an_answer_and_not_an_error(port: FakePort) -> None:
    port.add("r1")
    port.outcomes.clear()
    port.end("r1", error=ErrorInfo("ValueError", "no"))
    async with client_of(port) as client:
        answer = await client.get("/v1/runs/r1/result")
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"
    assert answer.json()["error"]["message"] == "no"


async def test_a_poll_that_times_out_says_how_the_run_stands(port: FakePort) -> None:
    port.add("r1", status="suspended")
    async with client_of(port) as client:
        answer = await client.get("/v1/runs/r1/result?timeout=10ms")
        wrong = await client.get("/v1/runs/r1/result?timeout=20")
    assert (answer.status_code, answer.json()) == (202, {"run_id": "r1", "status": "suspended"})
    assert wrong.status_code == 400
    assert 'say "20s"' in wrong.json()["detail"]


async def test_a_background_run_is_enqueued_with_its_arguments(port: FakePort) -> None:
    async with client_of(port) as client:
        answer = await client.post(
            "/v1/functions/mail/runs",
            json={
                "args": ["ada@x.org"],
                "kwargs": {"lines": [1, 2]},
                "delay": "5m",
                "discard_after": "1h",
                "idempotency_key": "k",
                "metadata": {"tenant": "acme"},
            },
        )
        bare = await client.post("/v1/functions/api%2Fmail/runs", content=b"{}")
    assert (answer.status_code, answer.json()) == (201, {"run_id": "run-k"})
    asked, empty = port.enqueued
    assert bytes(asked.arguments).replace(b" ", b"") == b'[["ada@x.org"],{"lines":[1,2]}]'
    assert (asked.delay_ms, asked.discard_after_ms, asked.metadata) == (300_000, 3_600_000, {"tenant": "acme"})
    assert (bare.status_code, empty.function, bytes(empty.arguments)) == (201, "api/mail", b"[[],{}]")


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/functions/male/runs", b"{}", 404, "did you mean 'mail'"),
        ("/v1/functions/mail/runs", b"[]", 400, "does not fit"),
        ("/v1/functions/mail/runs", b'{"arg": []}', 400, "unknown field `arg`"),
        ("/v1/functions/mail/runs", b'{"args": {}}', 400, "'args' must be a list"),
        ("/v1/functions/mail/runs", b'{"kwargs": []}', 400, "'kwargs' must be an object"),
        ("/v1/functions/mail/runs", b'{"delay": 5}', 400, "does not fit"),
        ("/v1/functions/mail/runs", b'{"delay": "soon"}', 400, "delay='soon': not a duration"),
        ("/v1/functions/mail/runs", b'{"args": [NaN]}', 400, "NaN is not JSON"),
        ("/v1/functions/mail/runs", b'{"args": ["misfit"]}', 400, "takes 'to'"),
    ],
)
async def test_enqueues_that_cannot_be_right(port: FakePort, path: str, body: bytes, status: int, words: str) -> None:
    async with client_of(port) as client:
        answer = await client.post(path, content=body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert port.enqueued == []


async def test_functions_are_listed(port: FakePort) -> None:
    async with client_of(port) as client:
        answer = (await client.get("/v1/functions")).json()
    assert [view["id"] for view in answer["data"]] == ["order", "mail"]


async def test_runs_are_cancelled_by_a_filter(port: FakePort) -> None:
    for n in range(3):
        port.add(f"r{n}", "order")
    port.add("other", "mail")
    port.end("r2")
    async with client_of(port) as client:
        answer = await client.post("/v1/cancellations", json={"function": "order", "reason": "recall"})
    assert answer.json() == {"count": 2}
    assert port.cancelled == [("r0", "recall"), ("r1", "recall")]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "at least one of function, event_id, status"),
        (b'{"fn": "order"}', "unknown field `fn`"),
        (b'{"status": "completed"}', "are over"),
        (b'{"status": "x"}', "none of queued"),
    ],
)
async def test_a_filter_that_cannot_be_right_cancels_nothing(port: FakePort, body: bytes, words: str) -> None:
    port.add("r1")
    async with client_of(port) as client:
        answer = await client.post("/v1/cancellations", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["detail"]
    assert port.cancelled == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/e/key", "POST"),
        ("/v1/runs/r1/rerun", "POST"),
        ("/v1/runs/r1/unpark", "POST"),
        ("/v1/cancellations", "POST"),
        ("/v1/functions/mail/runs", "POST"),
        ("/v1/functions/mail/pause", "POST"),
        ("/v1/functions/mail/resume", "POST"),
    ],
)
async def test_get_changes_nothing(port: FakePort, path: str, allowed: str) -> None:
    async with client_of(port) as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["status"] == 405


async def test_methods_and_paths_that_are_not_there(port: FakePort) -> None:
    async with client_of(port) as client:
        put = await client.put("/v1/runs/r1")
        lost = await client.get("/v2/runs")
        index = await client.get("/v1")
    assert (put.status_code, put.headers["allow"]) == (405, "DELETE, GET, HEAD")
    assert lost.status_code == 404
    assert "GET /v1 lists the routes" in lost.json()["detail"]
    assert "/v1/runs" in index.json()["routes"]


async def test_it_mounts_under_any_path(port: FakePort) -> None:
    port.add("r1")
    app = Starlette(routes=[Mount("/jobs", gateway(port, "shop"))])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/jobs") as client:
        assert (await client.get("/v1/runs/r1")).status_code == 200
        again = await client.post("/v1/runs/r1/rerun")
        assert (await client.get("/nothing")).status_code == 404
    assert again.headers["location"] == "/jobs/v1/runs/r1-again"


async def test_health(port: FakePort) -> None:
    async with client_of(port) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).json() == {"ready": True, "waiting": {}}
        assert 'perdure_ready{app="shop"} 1' in (await client.get("/metrics")).text
        port.waiting["partition 2"] = 'halted: "x"\n'
        waiting = await client.get("/readyz")
        assert (waiting.status_code, waiting.json()["ready"]) == (503, False)
        assert (await client.get("/livez")).status_code == 200
        text = (await client.get("/metrics")).text
    assert 'perdure_ready{app="shop"} 0' in text
    assert 'perdure_not_ready{what="partition 2"} 1' in text
    assert 'perdure_partition_lag{partition="2"} 17' in text
    assert {'perdure_partition_halted{partition="0"} 0.0', 'perdure_partition_halted{partition="2"} 1.0'} < {
        *text.split("\n")
    }
    assert 'perdure_events_gone{partition="1"} 200' in text
    assert 'perdure_runs_held{partition="0"} 3' in text
    assert 'perdure_runs_parked{partition="0"} 4' in text


async def test_metrics_of_the_work(port: FakePort) -> None:
    async with client_of(port) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    app = ("app", "shop")
    for name, value in (("runs_in_memory", 7), ("runs_idle", 5), ("steps_running", 2), ("step_retries_total", 9)):
        assert found[f"perdure_{name}", app] == value
    assert found["perdure_steps_total", app, ("outcome", "completed")] == 8
    assert found["perdure_steps_total", app, ("outcome", "failed")] == 3
    took = "perdure_step_duration_seconds"
    assert (found[f"{took}_count", app], found[f"{took}_sum", app]) == (8, 5)
    # Six of less than 1,024 µs, one of nothing, and one beyond all bounds.
    bounds = {"6.4e-05": 1, "0.000256": 1, "0.001024": 7, "68719.476736": 7, "+Inf": 8}
    assert {le: found[f"{took}_bucket", app, ("le", le)] for le in bounds} == bounds
    assert found["perdure_loop_delay_seconds_count", app] == 4
    assert [found["perdure_runs_total", app, ("status", status)] for status in ("completed", "failed")] == [4, 1]
    for name, total in (("run_duration", 4), ("run_wait", 0.001)):
        assert (found[f"perdure_{name}_seconds_count", app], found[f"perdure_{name}_seconds_sum", app]) == (5, total)


async def test_metrics_while_the_log_cannot_be_asked(port: FakePort) -> None:
    port.fail = LogError("Kafka does not answer at present")
    async with client_of(port) as client:
        answer = await client.get("/metrics")
    assert (answer.status_code, "partition_lag{" in answer.text) == (200, False)
