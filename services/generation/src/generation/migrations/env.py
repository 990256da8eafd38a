"""Run by Alembic."""

from service_runtime.migrations import run_environment

run_environment(schema="generation")
