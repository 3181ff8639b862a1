"""A broker that all tests share, and tests that run on each kind of log."""

from pathlib import Path
from uuid import uuid4

import pytest

from tests.kafka.broker import NoKafka, shared_broker


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """Its address. Where Java and Maven are missing the tests are skipped, and say what they need."""
    base = tmp_path_factory.getbasetemp()
    try:
        return shared_broker((base if worker_id == "master" else base.parent) / "kafka")
    except NoKafka as error:
        pytest.skip(str(error))


@pytest.fixture(params=["memory", "kafka"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a log that nobody has used: the same test holds on each kind."""
    if request.param == "memory":
        return "memory://"
    broker: str = request.getfixturevalue("kafka")
    return f"kafka://{broker}/test-{uuid4().hex[:12]}?session=1s&data={tmp_path}/state"
