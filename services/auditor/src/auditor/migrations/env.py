"""Alembic's entry point for schema ``auditor``."""

from service_runtime.migrations import run_environment

run_environment(schema="auditor")
