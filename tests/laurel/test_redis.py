import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from laurel.stack.redis import EmbeddedRedis


@pytest.fixture
def embedded() -> Iterator[EmbeddedRedis]:
    path = Path(tempfile.mkdtemp(prefix="laurel-test-"))
    server = EmbeddedRedis(path)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(path)


def test_it_answers_on_its_socket_only_and_keeps_nothing(embedded: EmbeddedRedis) -> None:
    with redis.Redis.from_url(embedded.url) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("save") == {"save": ""}
        client.set("name", "Asha")
    embedded.stop()
    embedded.start()
    with redis.Redis.from_url(embedded.url) as client:
        assert client.get("name") is None


def test_the_next_start_takes_over_from_one_that_was_left_running(embedded: EmbeddedRedis) -> None:
    successor = EmbeddedRedis(embedded.folder)
    successor.start()
    try:
        assert not embedded.running
        with redis.Redis.from_url(successor.url) as client:
            assert client.ping()
    finally:
        successor.stop()
