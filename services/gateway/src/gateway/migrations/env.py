"""Alembic runs this; see ``service_runtime.migrations``."""

from service_runtime.migrations import run_environment

run_environment(schema="gateway")
