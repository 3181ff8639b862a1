"""What runs on one log only is listed by name, with the reason, and the list is true."""

import ast
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest

from tests.on_each_log import LISTED, ONE_LOG, RUN_ON_A_LOG, has_one_log, is_of, names_any

ROOT = Path(__file__).parents[1]


def test_whatever_runs_on_a_log_runs_on_kafka_too_or_is_listed(request: pytest.FixtureRequest) -> None:
    """Of all that this run of pytest has collected."""
    on_kafka: set[str] = set()
    on_a_log: set[str] = set()
    for item in request.session.items:
        assert isinstance(item, pytest.Function)
        name = item.nodeid.partition("[")[0]
        if _on_kafka(item):
            on_kafka.add(name)
        elif not has_one_log(name) and names_any(_code_of(item), RUN_ON_A_LOG):
            on_a_log.add(name)
    assert sorted(on_a_log - on_kafka) == []


def _on_kafka(item: pytest.Function) -> bool:
    if hasattr(item, "callspec") and item.callspec.params.get("engine_log") == "kafka":
        return True
    return not {"kafka", "log_url", "durable_url"}.isdisjoint(item.fixturenames)


def _code_of(item: pytest.Function) -> Iterator[FunctionType]:
    """The test's own, and that of its fixtures."""
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        if isinstance(definitions[-1].func, FunctionType):
            yield definitions[-1].func


@pytest.mark.parametrize("listed", LISTED)
def test_what_is_listed_is_there(listed: str) -> None:
    path, _, name = listed.partition("::")
    assert (ROOT / path).exists()
    if name:
        tree = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)}


@pytest.mark.parametrize("listed", LISTED)
def test_nothing_is_listed_twice(listed: str) -> None:
    assert [other for other in LISTED if is_of(listed, other)] == [listed]


def test_the_list_stands_in_the_documentation() -> None:
    assert table() in (ROOT / "docs" / "reliability.md").read_text(), f"it should have\n\n{table()}"


def table() -> str:
    rows = [f"| {why} | {', '.join(f'`{test}`' for test in tests)} |" for why, tests in ONE_LOG.items()]
    return "\n".join(["| why on one log only | what |", "| --- | --- |", *rows])
