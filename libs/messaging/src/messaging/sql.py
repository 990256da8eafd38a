"""Statements over the tables of messaging in one service's schema."""

from sqlalchemy import TextClause, text


def statement(schema: str, template: str) -> TextClause:
    """``template`` with ``{schema}`` filled in. Values are always bound, never written into the text."""
    if not schema.isidentifier():
        raise ValueError(f"not a plain SQL name: {schema!r}")
    return text(template.replace("{schema}", schema))
