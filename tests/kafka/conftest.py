"""A broker that all tests share."""

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
