"""Fixtures for every test; see ``tests/support``."""

import gc
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests.support.databases import database_factory, make_database
from tests.support.logs import plain_logs
from tests.support.order import longest_first
from tests.support.priority import ordinary_priority
from tests.support.servers import broker_settings, nats_server, own_postgres, postgres_server, s3_server

# No test is timed: on a busy machine any example may take long.
settings.register_profile("tests", deadline=None)
settings.register_profile("campaign", settings.get_profile("tests"), max_examples=400, derandomize=False)
settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without garbage collection, and leave what stays to the end out of every later one."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    longest_first(items, config.rootpath)


__all__ = [
    "broker_settings",
    "database_factory",
    "make_database",
    "nats_server",
    "ordinary_priority",
    "own_postgres",
    "plain_logs",
    "postgres_server",
    "s3_server",
]
