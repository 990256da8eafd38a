"""Statements over the tables of messaging in one service's schema."""

from sqlalchemy import TextClause, text

from service_runtime.statements import Statement


def statement(schema: str, template: str) -> TextClause:
    """``template`` with ``{schema}`` filled in. Values are always bound, never written into the text."""
    return text(_filled(schema, template))


def hot_statement(schema: str, template: str) -> Statement:
    """The same, of what is sent with every message, or all the time."""
    return Statement(_filled(schema, template))


def _filled(schema: str, template: str) -> str:
    if not schema.isidentifier():
        raise ValueError(f"not a plain SQL name: {schema!r}")
    return template.replace("{schema}", schema)
