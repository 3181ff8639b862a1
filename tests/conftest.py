"""A broker that all tests share, and tests that run on each kind of log."""

import asyncio
import faulthandler
import gc
from collections.abc import AsyncGenerator, Generator
from io import StringIO
from pathlib import Path
from types import FunctionType
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from perdure.log.kafka.client import Client
from perdure.log.kafka.topics import Topics
from perdure.testing import TestEngine
from tests.history.server import NoPostgres, shared_server
from tests.kafka.broker import NoKafka, shared_broker
from tests.kafka.virtual import put_under
from tests.on_each_log import has_one_log, names_any

_TIMED_OUT = pytest.StashKey[bool]()
_TEARDOWN_SECONDS = 60

# The same examples each time, however slow the machine is: a test never asserts a time.
settings.register_profile(
    "perdure", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("perdure")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """Its address. Where Java and Maven are missing the tests are skipped, and say what they need."""
    base = tmp_path_factory.getbasetemp()
    try:
        return shared_broker((base if worker_id == "master" else base.parent) / "kafka")
    except NoKafka as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """Its URL. Where PostgreSQL is missing the tests are skipped, and say what they need."""
    base = tmp_path_factory.getbasetemp()
    try:
        return shared_server((base if worker_id == "master" else base.parent) / "postgres")
    except NoPostgres as error:
        pytest.skip(str(error))


@pytest.fixture
def kafka_url(kafka: str, tmp_path: Path) -> str:
    """Of a namespace that nobody has used."""
    return f"kafka://{kafka}/test-{uuid4().hex[:12]}?retention=forever&data={tmp_path}/state"


@pytest.fixture(params=["memory", "kafka"])
def log_url(request: pytest.FixtureRequest) -> str:
    """Of a log that nobody has used: the same test holds on each kind."""
    if request.param == "memory":
        return "memory://"
    url: str = request.getfixturevalue("kafka_url")
    return url


@pytest.fixture(params=["embedded", "kafka"])
def durable_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As `log_url`, of one that the next engine finds as the last one left it."""
    if request.param == "embedded":
        return f"embedded://{tmp_path}/log"
    url: str = request.getfixturevalue("kafka_url")
    return url


@pytest.fixture(autouse=True)
def engine_log(request: pytest.FixtureRequest) -> None:
    """The log under every `TestEngine` of this test: the one in memory, or a real Kafka with the test's clock."""
    if getattr(request, "param", "memory") == "kafka":
        request.getfixturevalue("engines_on_kafka")


@pytest.fixture
async def engines_on_kafka(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[None]:
    made = put_under(TestEngine, kafka_url, monkeypatch)
    yield
    assert made, "this test makes no TestEngine, and need not run on Kafka"
    # Clients ask for all topics when they begin.
    for log in made:
        await Topics(Client(log.address)).delete_all()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    test, name = metafunc.function, metafunc.definition.nodeid
    on_each = isinstance(test, FunctionType) and not has_one_log(name) and names_any([test], [TestEngine])
    if metafunc.definition.get_closest_marker("both_ways"):
        ways = [("memory", False), ("memory", True)]
        # There the way that asks more of the log: every op is suspended, and replayed from what was read.
        ways += [("kafka", True)] if on_each else []
        ids = [f"{log}-{'evicted' if evict else 'resident'}" for log, evict in ways]
        metafunc.parametrize(("engine_log", "evict"), ways, indirect=["engine_log"], ids=ids)
    elif on_each:
        metafunc.parametrize("engine_log", ["memory", "kafka"], indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that ran into its timeout says what its tasks waited for: the stack is that of the loop alone."""
    report = yield
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        item.stash[_TIMED_OUT] = True
        report.sections.append(("tasks", _stacks()))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """What held up the test may hold up its teardown, which has no limit of its own: then the process ends."""
    if not item.stash.get(_TIMED_OUT, False):
        return (yield)
    faulthandler.dump_traceback_later(_TEARDOWN_SECONDS, exit=True, file=2)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _stacks() -> str:
    text = StringIO()
    for task in [one for one in gc.get_objects() if isinstance(one, asyncio.Task)]:
        task.print_stack(file=text)
    return text.getvalue()
