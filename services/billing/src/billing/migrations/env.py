"""Alembic's entry point for schema ``billing``."""

from service_runtime.migrations import run_environment

run_environment(schema="billing")
