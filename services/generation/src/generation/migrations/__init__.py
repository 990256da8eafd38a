"""Alembic migrations of schema ``generation``."""
