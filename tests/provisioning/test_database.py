"""Provisioning: each role reaches its own schema and nothing else; the auditor reads everything and changes nothing."""

from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from sqlalchemy import text

from contracts.message import SERVICES
from local_platform.servers import PostgresServer
from provisioning import database as provision
from tests.support.databases import Database

MakeDatabase = Callable[..., Awaitable[Database]]


async def _as(database: Database, role: str, statement: str) -> None:
    connection = await asyncpg.connect(database.dsn(role))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_service_role_cannot_read_or_enter_the_schema_of_another(make_database: MakeDatabase) -> None:
    database = await make_database()
    for owner in SERVICES:
        await _as(database, f"{owner}_migrator", f"CREATE TABLE {owner}.secrets (value int)")
    for reader in SERVICES:
        for owner in SERVICES:
            if reader in (owner, "auditor"):
                continue
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await _as(database, reader, f"SELECT * FROM {owner}.secrets")


async def test_a_run_time_role_has_no_rights_on_a_new_table_until_a_migration_grants_them(
    make_database: MakeDatabase,
) -> None:
    database = await make_database()
    await _as(database, "billing_migrator", "CREATE TABLE billing.lines (value int)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _as(database, "billing", "SELECT * FROM billing.lines")
    await _as(database, "billing_migrator", "GRANT SELECT ON billing.lines TO billing")
    await _as(database, "billing", "SELECT * FROM lines")  # the search path leads into its own schema
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _as(database, "billing", "CREATE TABLE billing.mine (value int)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _as(database, "billing", "CREATE TABLE public.mine (value int)")


@pytest.mark.parametrize("other", provision.COMMON_DATABASES)
async def test_no_role_connects_to_another_database(make_database: MakeDatabase, other: str) -> None:
    database = await make_database()
    for role in provision.all_roles():
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="CONNECT"):
            await asyncpg.connect(provision.with_database(database.dsn(role), other))


async def test_an_exporter_of_metrics_connects_and_reads_no_row(make_database: MakeDatabase) -> None:
    """As CloudNativePG's does: a login that is a member of pg_monitor, in ``postgres`` and in our database."""
    database = await make_database()
    await _as(database, "billing_migrator", "CREATE TABLE billing.secrets (value int)")
    dsn = provision.role_dsns(database.superuser_dsn, database.name, {"exporter": "secret"})["exporter"]
    async with database.superuser_engine().begin() as superuser:
        await superuser.execute(text("CREATE ROLE exporter LOGIN PASSWORD 'secret' IN ROLE pg_monitor"))
    try:
        for name in ("postgres", database.name):
            connection = await asyncpg.connect(provision.with_database(dsn, name))
            try:
                assert await connection.fetchval("SELECT count(*) FROM pg_stat_archiver") == 1
            finally:
                await connection.close()
        connection = await asyncpg.connect(dsn)
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("SELECT * FROM billing.secrets")
        finally:
            await connection.close()
    finally:
        async with database.superuser_engine().begin() as superuser:
            await superuser.execute(text("DROP ROLE exporter"))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMPORARY TABLE mine (value int)",
        "CREATE TABLE public.mine (value int)",
        "CREATE SCHEMA mine",
        "SELECT lo_creat(-1)",
        "SELECT lo_create(4711)",
        "SELECT lo_from_bytea(0, 'much')",
        "SELECT lo_open(4711, 131072)",
        "SELECT lo_put(4711, 0, 'much')",
        "SELECT lo_unlink(4711)",
        "SELECT lo_import('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
        "CREATE DATABASE mine",
        "CREATE ROLE mine",
    ],
)
async def test_no_role_keeps_anything_outside_its_schema(make_database: MakeDatabase, statement: str) -> None:
    database = await make_database()
    for role in provision.all_roles():
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await _as(database, role, statement)


async def test_the_auditor_reads_tables_made_later_and_writes_none(make_database: MakeDatabase) -> None:
    database = await make_database()
    await _as(database, "billing_migrator", "CREATE TABLE billing.later (value int)")
    await _as(database, "auditor", "SELECT * FROM billing.later")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _as(database, "auditor", "INSERT INTO billing.later VALUES (1)")


async def test_functions_of_one_schema_are_not_executable_by_others(make_database: MakeDatabase) -> None:
    database = await make_database()
    await _as(
        database,
        "billing_migrator",
        "CREATE FUNCTION billing.power() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await _as(database, "auditor", "SELECT billing.power()")


async def test_provisioning_twice_changes_nothing_but_the_passwords(postgres_server: PostgresServer) -> None:
    server_passwords = provision.new_passwords()
    connection = await asyncpg.connect(postgres_server.dsn())
    try:
        stored = await connection.fetch(
            "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY($1)", provision.all_roles()
        )
        first = await provision.provision_database(postgres_server.dsn(), "twice", server_passwords)
        second = await provision.provision_database(postgres_server.dsn(), "twice", server_passwords)
        assert first == second
        inside = await asyncpg.connect(second["billing"])
        assert await inside.fetchval("SELECT current_schema()") == "billing"
        await inside.close()
    finally:
        await connection.execute("DROP DATABASE IF EXISTS twice WITH (FORCE)")
        for row in stored:  # the other tests of this session go on with the passwords they know
            await connection.execute(f"ALTER ROLE {row['rolname']} PASSWORD '{row['rolpassword']}'")
        await connection.close()


def test_the_script_for_operators_names_every_role_and_schema() -> None:
    script = provision.script("reelhouse", provision.new_passwords())
    for service in SERVICES:
        assert f"CREATE SCHEMA IF NOT EXISTS {service} AUTHORIZATION {service}_migrator;" in script
    assert "\\connect reelhouse\n" in script
