"""Fixtures for every test; see ``tests/support``."""

from tests.support.databases import database_factory, make_database
from tests.support.logs import plain_logs
from tests.support.servers import broker_settings, nats_server, postgres_server, s3_server

__all__ = [
    "broker_settings",
    "database_factory",
    "make_database",
    "nats_server",
    "plain_logs",
    "postgres_server",
    "s3_server",
]
