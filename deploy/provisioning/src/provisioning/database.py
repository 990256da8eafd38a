"""Roles, schemas and grants for one database: least privilege as SQL that an operator can read and run anywhere.

For each service ``billing``: schema ``billing`` owned by role ``billing_migrator`` (runs the migrations), and login
role ``billing`` (run time; gets what the migrations grant, nothing else). ``auditor`` may read every schema, also
tables that do not exist yet. Roles belong to the whole server, so one server serves one set of passwords.
"""

import secrets
import string
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from contracts.message import SERVICES

READER = "auditor"

COMMON_DATABASES = ("postgres", "template1")
"""Every server has these, and lets everybody connect to them."""

MONITORS = "pg_monitor"
"""PostgreSQL's own role for exporters of metrics. CloudNativePG's connects to ``postgres`` and to our database."""

_LARGE_OBJECT_FUNCTIONS = (
    "lo_creat(integer)",
    "lo_create(oid)",
    "lo_from_bytea(oid, bytea)",
    "lo_get(oid)",
    "lo_get(oid, bigint, integer)",
    "lo_open(oid, integer)",
    "lo_put(oid, bigint, bytea)",
    "lo_truncate(integer, integer)",
    "lo_truncate64(integer, bigint)",
    "lo_unlink(oid)",
    "loread(integer, integer)",
    "lowrite(integer, bytea)",
)
_PASSWORD_LENGTH = 32
_PASSWORD_ALPHABET = string.ascii_letters + string.digits


def migrator_of(service: str) -> str:
    """Role that owns the schema of ``service``."""
    return f"{service}_migrator"


def all_roles() -> tuple[str, ...]:
    """Every login role, run time and migrator."""
    return (*SERVICES, *(migrator_of(service) for service in SERVICES))


def new_passwords() -> dict[str, str]:
    """A fresh random password for every role."""
    return {role: "".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(_PASSWORD_LENGTH)) for role in all_roles()}


def role_statements(passwords: Mapping[str, str]) -> list[str]:
    """Create or update the roles (they belong to the server, not to a database)."""
    statements = []
    for role in all_roles():
        password = _literal(passwords[role])
        schema = role.removesuffix("_migrator")
        statements += [
            f"DO $$ BEGIN CREATE ROLE {_name(role)}; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
            f"ALTER ROLE {_name(role)} WITH LOGIN PASSWORD {password}",
            f"ALTER ROLE {_name(role)} SET search_path = {_name(schema)}",
            f"ALTER ROLE {_name(role)} SET timezone = 'UTC'",
        ]
    return statements


def database_statements(database: str) -> list[str]:
    """Who may connect, and to nothing else. A database made from a template needs these again: they are not copied.

    Only roles named here connect to ``database``, and none of them may make temporary tables there. Exporters of
    metrics connect, too. The common databases are closed to all others. An administrator who owns them not gets a
    warning.
    """
    roles = ", ".join(_name(role) for role in all_roles())
    return [
        *(f"REVOKE ALL ON DATABASE {common} FROM PUBLIC" for common in COMMON_DATABASES),
        f"REVOKE ALL ON DATABASE {_name(database)} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {_name(database)} TO {roles}",
        f"GRANT CONNECT ON DATABASE postgres, {_name(database)} TO {MONITORS}",
    ]


def schema_statements() -> list[str]:
    """Schemas and their grants; to be run inside the database, by its owner or a superuser."""
    statements = [
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        # A large object belongs to no schema: any role could fill the disk with them, past every grant.
        *(f"REVOKE EXECUTE ON FUNCTION pg_catalog.{name} FROM PUBLIC" for name in _LARGE_OBJECT_FUNCTIONS),
    ]
    for service in SERVICES:
        schema, migrator = _name(service), _name(migrator_of(service))
        statements += [
            # An administrator who is no superuser (managed servers) needs membership to act for the owner.
            f"GRANT {migrator} TO CURRENT_USER",
            f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {migrator}",
            f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC",
            f"GRANT USAGE ON SCHEMA {schema} TO {schema}",
            # Functions are executable by everybody unless this is said for the role that will create them.
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {migrator} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
            f"GRANT USAGE ON SCHEMA {schema} TO {_name(READER)}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {_name(READER)}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {migrator} IN SCHEMA {schema}"
            f" GRANT SELECT ON TABLES TO {_name(READER)}",
        ]
    return statements


def script(database: str, passwords: Mapping[str, str]) -> str:
    """All of it as one psql script, for an operator who would rather run it by hand."""
    outside = [*role_statements(passwords), f"CREATE DATABASE {_name(database)}", *database_statements(database)]
    return f"{_joined(outside)}\\connect {_name(database)}\n{_joined(schema_statements())}"


def _joined(statements: Iterable[str]) -> str:
    return "".join(f"{statement};\n" for statement in statements)


async def provision_database(superuser_dsn: str, database: str, passwords: Mapping[str, str]) -> dict[str, str]:
    """Create ``database`` if it is missing, with all roles, schemas and grants, and set the ``passwords`` of the roles.

    Repeatable: with the same passwords a second run changes nothing. Returns the connection string of every role
    (``billing``, ``billing_migrator``, ...).
    """
    connection = await asyncpg.connect(superuser_dsn)
    try:
        await _run(connection, role_statements(passwords))
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
            await connection.execute(f"CREATE DATABASE {_name(database)}")
        await _run(connection, database_statements(database))
    finally:
        await connection.close()
    inside = await asyncpg.connect(with_database(superuser_dsn, database))
    try:
        await _run(inside, schema_statements())
    finally:
        await inside.close()
    return role_dsns(superuser_dsn, database, passwords)


def role_dsns(superuser_dsn: str, database: str, passwords: Mapping[str, str]) -> dict[str, str]:
    """The connection string of every role."""
    address = urlsplit(with_database(superuser_dsn, database))
    host = address.netloc.rpartition("@")[2]
    return {
        role: urlunsplit(address._replace(netloc=f"{role}:{quote(password, safe='')}@{host}"))
        for role, password in passwords.items()
    }


def with_database(dsn: str, database: str) -> str:
    """The same connection string for another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))


async def _run(connection: asyncpg.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        await connection.execute(statement)


def _name(identifier: str) -> str:
    if not identifier.isidentifier():
        raise ValueError(f"not a plain SQL name: {identifier!r}")
    return identifier


def _literal(text: str) -> str:
    if "'" in text or "\\" in text:
        raise ValueError("a password must not contain quotes or backslashes")
    return f"'{text}'"
