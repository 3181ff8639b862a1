import pytest

from tests.http.fake_port import FakePort


@pytest.fixture
def port() -> FakePort:
    return FakePort()
