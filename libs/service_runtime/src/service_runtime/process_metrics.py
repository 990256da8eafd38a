"""What Prometheus sees of every service alike: its version and its database pool."""

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from prometheus_client import Counter, Gauge, disable_created_metrics
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

VERSION_VARIABLE: Final = "REELHOUSE_VERSION"
"""Set in the images: which release this is. Without it, the version of the service's package."""

BUILD_INFO: Final = Gauge(
    "reelhouse_build_info", "Always 1; which service runs in which version", ["service", "version"]
)
POOL_IN_USE: Final = Gauge("database_pool_in_use_connections", "Connections that are checked out", ["service"])
POOL_LIMIT: Final = Gauge("database_pool_limit_connections", "The most that may be checked out", ["service"])

WRITABLE: Final = Gauge(
    "database_writable", "1 while the database answers this process and takes its writes", ["service"]
)
CLOCK_OFFSET: Final = Gauge(
    "database_clock_offset_seconds", "How far the database's clock is ahead of this host's", ["service"]
)
SILENT_CONNECTIONS: Final = Counter(
    "database_silent_connections_total", "Connections that were closed because nothing came back on them", ["service"]
)


def describe_process(service: str) -> None:
    """Show the version. Called once per process."""
    # A timestamp for each series would nearly double them, and nothing asks for it.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    BUILD_INFO.labels(service, os.environ.get(VERSION_VARIABLE) or _package_version(service)).set(1)


def watch_pool(service: str, engine: AsyncEngine, limit: int) -> None:
    """Show how much of the pool is in use, as it is when it is asked for."""
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    POOL_IN_USE.labels(service).set_function(pool.checkedout)
    POOL_LIMIT.labels(service).set(limit)


def _package_version(service: str) -> str:
    try:
        return version(service)
    except PackageNotFoundError:
        return "unknown"
