"""TLS to PostgreSQL: a real server behind a TLS door that speaks PostgreSQL's own way of asking for it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from service_runtime.database import engine_for
from tests.support.certificates import Certificates, make_certificates
from tests.support.databases import Database

MakeDatabase: TypeAlias = Callable[..., Awaitable[Database]]
SSL_REQUEST_BYTES = 8


@asynccontextmanager
async def tls_door(database: Database, certificates: Certificates) -> AsyncIterator[str]:
    """The DSN of role ``billing`` through a port that insists on TLS."""
    target = urlsplit(database.dsn("billing"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(SSL_REQUEST_BYTES)
        writer.write(b"S")
        try:
            await writer.start_tls(certificates.server_context())
        except (ssl.SSLError, ConnectionError):
            return
        up_reader, up_writer = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(_copy(reader, up_writer), _copy(up_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield target._replace(netloc=f"{target.username}:{target.password}@localhost:{port}").geturl()


async def ask(dsn: str) -> int:
    engine = engine_for(dsn, application_name="test-tls")
    try:
        async with engine.connect() as connection:
            return int(await connection.scalar(sa.text("SELECT 1")))
    finally:
        await engine.dispose()


async def test_a_server_with_a_certificate_of_its_name_is_believed(make_database: MakeDatabase, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    async with tls_door(await make_database(), certificates) as dsn:
        assert await ask(f"{dsn}?sslmode=verify-full&sslrootcert={certificates.authority}") == 1


async def test_a_certificate_of_somebody_else_is_refused(make_database: MakeDatabase, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other")
    async with tls_door(await make_database(), make_certificates(tmp_path)) as dsn:
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(f"{dsn}?sslmode=verify-full&sslrootcert={other.authority}")
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(f"{dsn}?sslmode=verify-full")  # the system does not know it, either


async def test_a_certificate_of_another_name_is_good_enough_for_verify_ca_alone(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path, host="db.example.com")
    async with tls_door(await make_database(), certificates) as dsn:
        assert await ask(f"{dsn}?sslmode=verify-ca&sslrootcert={certificates.authority}") == 1
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(f"{dsn}?sslmode=verify-full&sslrootcert={certificates.authority}")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()
