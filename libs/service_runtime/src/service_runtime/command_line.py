"""The commands that every service has: ``serve`` and ``migrate``."""

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine

from service_runtime.database import ENGINE_ERRORS, engine_for
from service_runtime.migrations import migrate
from service_runtime.schema_version import SchemaOutdated, wait_for_schema
from service_runtime.settings import database_url_from_environment

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_service_parsers(subparsers: "Subparsers", service: str) -> None:
    """Describe ``serve`` and ``migrate`` of ``service``."""
    subparsers.add_parser("serve", help="run the service")
    migrating = subparsers.add_parser("migrate", help="bring the schema up to date, or wait until it is")
    migrating.add_argument(
        "--check",
        action="store_true",
        help=f"change nothing, and end with 1 unless the schema is new enough ({service.upper()}_DATABASE_URL)",
    )
    migrating.add_argument(
        "--wait-seconds", type=float, default=0.0, help="with --check: how long the schema may take to get there"
    )


def run_migrate(service: str, arguments: argparse.Namespace) -> None:
    """Run what ``migrate`` was given: the migrations as the schema's owner, or a check as the service itself."""
    if not arguments.check:
        migrate(service)
        return
    dsn = database_url_from_environment(service)
    try:
        asyncio.run(_check(engine_for(dsn, application_name=f"reelhouse-{service}-check"), service, arguments))
    except SchemaOutdated as error:
        sys.exit(str(error))
    except ENGINE_ERRORS as error:
        sys.exit(f"the database is not available ({type(error).__name__}: {error})")


async def _check(engine: AsyncEngine, service: str, arguments: argparse.Namespace) -> None:
    try:
        await wait_for_schema(engine, service, arguments.wait_seconds)
    finally:
        await engine.dispose()
